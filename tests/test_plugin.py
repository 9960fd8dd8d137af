"""Scripts that a user would write, run outside the repository with Detectron2's own tools."""

import os
import subprocess
import sys
import textwrap

import pytest
from support import REPOSITORY, SOURCES

SETUP = """
import os
import numpy as np, torch
from detectron2.config import get_cfg
from mask2former import add_maskformer2_config

def quickstart(task):
    cfg = get_cfg()
    add_maskformer2_config(cfg)
    cfg.merge_from_file(CONFIGS + task + ".yaml", allow_unsafe=False)
    cfg.merge_from_list([
        "MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16,
        "MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.MASK_FORMER.TRAIN_NUM_POINTS", 256,
        "INPUT.IMAGE_SIZE", 64, "SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2,
        "DATALOADER.NUM_WORKERS", 0, "OUTPUT_DIR", task,
    ])
    return cfg

def check_results(cfg, results):
    tasks = {"instance": ["bbox", "segm"], "panoptic": ["panoptic_seg", "sem_seg", "bbox", "segm"],
             "semantic": ["sem_seg"]}[cfg.OUTPUT_DIR]
    assert sorted(results) == sorted(tasks), results
    assert all(values for values in results.values())

def check_clipping(step, model, limit):
    # Run a step of the optimizer; the norm of all gradients together is the limit after it.
    gradients = [p.grad for p in model.parameters()]
    before = [g.clone() for g in gradients]
    assert torch.cat([g.flatten() for g in before]).norm() > 2 * limit
    step()
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    assert abs(norm - limit) < 1e-3 * limit, norm
    scale = gradients[0].norm() / before[0].norm()
    for old, new in zip(before, gradients):  # and their directions stay
        assert torch.allclose(new, scale * old, rtol=1e-3, atol=1e-9)
"""

DEFAULT_PREDICTOR = """
from detectron2.engine import DefaultPredictor
result = DefaultPredictor(quickstart("instance"))(np.zeros((90, 120, 3), np.uint8))["instances"]
assert result.pred_masks.shape == (50, 90, 120), result.pred_masks.shape
assert {"pred_boxes", "scores", "pred_classes"} <= set(result.get_fields())
"""

# As it is: no method is overridden and no config key is changed for it.
DEFAULT_TRAINER = """
from detectron2.engine import DefaultTrainer
from mask2former.evaluation import build_evaluator

class Checked(DefaultTrainer):
    def run_step(self):
        step = self.optimizer.step
        limit = self.cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE
        self.optimizer.step = lambda: check_clipping(step, self.model, limit)
        super().run_step()
        self.optimizer.step = step

for task in ("instance", "panoptic", "semantic"):
    cfg = quickstart(task)
    os.makedirs(cfg.OUTPUT_DIR)
    for kind in (DefaultTrainer, Checked):
        trainer = kind(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()
        assert trainer.iter == 2
        assert os.path.exists(task + "/model_final.pth")
    evaluators = [build_evaluator(cfg, name, task) for name in cfg.DATASETS.TEST]
    check_results(cfg, DefaultTrainer.test(cfg, trainer.model, evaluators))
"""

# Another model's config behaves as without this package.
OTHER_MODEL = """
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.solver import build_optimizer
cfg = get_cfg()
cfg.DATASETS.TRAIN = ("synthetic_shapes_instance_train",)
cfg.DATALOADER.NUM_WORKERS = 0
loader = build_detection_train_loader(cfg)
assert type(loader.dataset.dataset.dataset._map_func._obj) is DatasetMapper
assert type(build_optimizer(cfg, torch.nn.Linear(2, 2))) is torch.optim.SGD
cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
optimizer = build_optimizer(cfg, torch.nn.Linear(2, 2))
assert type(optimizer).__name__ == "SGDWithGradientClip"
"""

# The loop of Detectron2's tools/plain_train_net.py.
PLAIN_LOOP = """
from detectron2.checkpoint import DetectionCheckpointer, PeriodicCheckpointer
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils.events import EventStorage
from mask2former.evaluation import build_evaluator

def train(cfg):
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    checkpointer = DetectionCheckpointer(model, cfg.OUTPUT_DIR, optimizer=optimizer)
    periodic = PeriodicCheckpointer(checkpointer, 2, max_iter=cfg.SOLVER.MAX_ITER)
    os.makedirs(cfg.OUTPUT_DIR)
    before = [p.detach().clone() for p in model.parameters()]
    with EventStorage(0) as storage:
        batches = build_detection_train_loader(cfg)
        for data, iteration in zip(batches, range(cfg.SOLVER.MAX_ITER)):
            storage.iter = iteration
            losses = model(data)
            total = sum(losses.values())
            assert torch.isfinite(total).all(), losses
            optimizer.zero_grad()
            total.backward()
            check_clipping(optimizer.step, model, cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE)
            scheduler.step()
            periodic.step(iteration)
    assert any((a != b).any() for a, b in zip(before, model.parameters()))
    assert os.path.exists(cfg.OUTPUT_DIR + "/model_final.pth")
    (name,) = cfg.DATASETS.TEST
    loader = build_detection_test_loader(cfg, name)
    check_results(
        cfg, inference_on_dataset(model, loader, build_evaluator(cfg, name, cfg.OUTPUT_DIR))
    )

for task in ("instance", "panoptic", "semantic"):
    train(quickstart(task))
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
    "another model": OTHER_MODEL,
    "plain_train_net": PLAIN_LOOP,
    "without a config": WITHOUT_CFG,
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_users_script_works(name, tmp_path, shapes):
    configs = f"{REPOSITORY / 'configs/quickstart'}/"
    script = tmp_path / "script.py"
    script.write_text(f"CONFIGS = {configs!r}\n{textwrap.dedent(SETUP + SCRIPTS[name])}")
    environment = {
        **os.environ,
        "DETECTRON2_DATASETS": str(shapes.parent),
        "PYTHONPATH": os.pathsep.join([SOURCES, os.environ.get("PYTHONPATH", "")]),
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
