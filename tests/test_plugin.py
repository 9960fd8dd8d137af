"""Scripts that a user would write, run outside the repository with Detectron2's own tools."""

import os
import subprocess
import sys
import textwrap

import pytest
from support import REPOSITORY

SETUP = """
import numpy as np, torch
from detectron2.config import get_cfg
from mask2former import add_maskformer2_config

cfg = get_cfg()
add_maskformer2_config(cfg)
cfg.merge_from_file(CONFIG, allow_unsafe=False)
cfg.merge_from_list([
    "MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16,
    "MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.MASK_FORMER.TRAIN_NUM_POINTS", 256,
    "INPUT.IMAGE_SIZE", 64, "SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2,
    "DATALOADER.NUM_WORKERS", 0, "TEST.EVAL_PERIOD", 0, "OUTPUT_DIR", "out",
])
"""

DEFAULT_PREDICTOR = """
from detectron2.engine import DefaultPredictor
result = DefaultPredictor(cfg)(np.zeros((90, 120, 3), np.uint8))["instances"]
assert result.pred_masks.shape == (50, 90, 120), result.pred_masks.shape
assert {"pred_boxes", "scores", "pred_classes"} <= set(result.get_fields())
"""

# Detectron2's mapper, data loader and optimizer; its clipping knows "value" and "norm" only.
DEFAULT_TRAINER = """
from detectron2.engine import DefaultTrainer
cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "norm"
cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = True, "bitmask"
cfg.INPUT.MIN_SIZE_TRAIN = (64,)
trainer = DefaultTrainer(cfg)
trainer.resume_or_load(resume=False)
trainer.train()
assert trainer.iter == 2
"""

# The loop of Detectron2's tools/plain_train_net.py.
PLAIN_LOOP = """
import detectron2.utils.comm as comm
from detectron2.checkpoint import DetectionCheckpointer, PeriodicCheckpointer
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler
from detectron2.utils.events import EventStorage
from mask2former.data import build_train_loader
from mask2former.engine import build_optimizer

model = build_model(cfg).train()
optimizer = build_optimizer(cfg, model)
scheduler = build_lr_scheduler(cfg, optimizer)
checkpointer = DetectionCheckpointer(model, cfg.OUTPUT_DIR, optimizer=optimizer)
periodic = PeriodicCheckpointer(checkpointer, 2, max_iter=cfg.SOLVER.MAX_ITER)
import os; os.makedirs(cfg.OUTPUT_DIR)
before = [p.detach().clone() for p in model.parameters()]
with EventStorage(0) as storage:
    for data, iteration in zip(build_train_loader(cfg, seed=0), range(cfg.SOLVER.MAX_ITER)):
        storage.iter = iteration
        losses = model(data)
        total = sum(losses.values())
        assert torch.isfinite(total).all(), losses
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        scheduler.step()
        periodic.step(iteration)
assert any((a != b).any() for a, b in zip(before, model.parameters()))
assert os.path.exists("out/model_final.pth")
"""

WITHOUT_CFG = """
from detectron2.layers import ShapeSpec
from mask2former.modeling import (
    D2SwinTransformer, HungarianMatcher, MaskFormer, MaskFormerHead, MSDeformAttnPixelDecoder,
    MultiScaleMaskedTransformerDecoder, SetCriterion,
)

backbone = D2SwinTransformer(embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))
head = MaskFormerHead(
    num_classes=3,
    pixel_decoder=MSDeformAttnPixelDecoder(
        backbone.output_shape(), transformer_in_features=["res3", "res4", "res5"],
        transformer_dropout=0.0, transformer_nheads=4, transformer_npoints=4,
        transformer_dim_feedforward=64, transformer_enc_layers=1, conv_dim=32, mask_dim=32,
        norm="GN", common_stride=4,
    ),
    predictor=MultiScaleMaskedTransformerDecoder(
        32, num_classes=3, hidden_dim=32, num_queries=7, nheads=4, dim_feedforward=64,
        dec_layers=3, mask_dim=32,
    ),
)
matcher = HungarianMatcher(cost_class=2.0, cost_mask=5.0, cost_dice=5.0, num_points=64)
criterion = SetCriterion(
    3, matcher=matcher, weight_dict={"loss_ce": 2.0, "loss_mask": 5.0, "loss_dice": 5.0},
    deep_supervision=True, no_object_weight=0.1, num_points=64, oversample_ratio=3.0,
    importance_sample_ratio=0.75,
)
model = MaskFormer(
    backbone=backbone, sem_seg_head=head, criterion=criterion, size_divisibility=32,
    pixel_mean=[120.0] * 3, pixel_std=[60.0] * 3, max_detections=5,
).eval()
with torch.no_grad():
    out = model([{"image": torch.zeros(3, 50, 70, dtype=torch.uint8)}])[0]["instances"]
assert out.pred_masks.shape == (5, 50, 70)
"""

SCRIPTS = {
    "DefaultPredictor": DEFAULT_PREDICTOR,
    "DefaultTrainer": DEFAULT_TRAINER,
    "plain_train_net": PLAIN_LOOP,
    "without a config": WITHOUT_CFG,
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_users_script_works(name, tmp_path, shapes):
    config = REPOSITORY / "configs/quickstart/instance.yaml"
    script = tmp_path / "script.py"
    script.write_text(f"CONFIG = {str(config)!r}\n{textwrap.dedent(SETUP + SCRIPTS[name])}")
    environment = {
        **os.environ,
        "DETECTRON2_DATASETS": str(shapes.parent),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
    }
    result = subprocess.run(
        [sys.executable, script.name],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]


def test_importing_registers_the_names_of_the_contract():
    from detectron2.modeling import (
        BACKBONE_REGISTRY,
        META_ARCH_REGISTRY,
        SEM_SEG_HEADS_REGISTRY,
    )

    from mask2former.modeling import TRANSFORMER_DECODER_REGISTRY

    assert "MaskFormer" in META_ARCH_REGISTRY
    assert "D2SwinTransformer" in BACKBONE_REGISTRY
    assert {"MaskFormerHead", "MSDeformAttnPixelDecoder"} <= {n for n, _ in SEM_SEG_HEADS_REGISTRY}
    assert "MultiScaleMaskedTransformerDecoder" in TRANSFORMER_DECODER_REGISTRY
