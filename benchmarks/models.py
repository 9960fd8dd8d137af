"""Mask2Former for COCO instances in three implementations, with random weights, to be timed.

    ours          as `Mask2Former.from_pretrained` and `Trainer` run it
    transformers  Hugging Face's, with its own post-processing
    published     the code of the paper, from a clone (``--published DIR``); its attention runs in
                  PyTorch on a CPU, where its own operator does not exist

Nothing here is imported before the implementation is known: the published code and this project's
package have the same name, and each has a process of its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

REPOSITORY = Path(__file__).parents[1]
COCO = "configs/coco/instance-segmentation"
CONFIGS = {
    "R50": f"{COCO}/maskformer2_R50_bs16_50ep.yaml",
    "Swin-T": f"{COCO}/swin/maskformer2_swin_tiny_bs16_50ep.yaml",
    "Swin-B": f"{COCO}/swin/maskformer2_swin_base_384_bs16_50ep.yaml",
    "quickstart": "configs/quickstart/instance.yaml",
}
CLASSES = 80
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Step = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """What to measure.

    Attributes:
        kind: "inference", "training" or a name of `bench.py`.
        implementation: "ours", "transformers" or "published".
        model: a name of `CONFIGS`.
        precision: a name of `PRECISIONS`: of autocast.
        size: height and width of the network's input.
        output: height and width of the result; by default `size`.
        batch: images per call.
        queries: of the decoder.
        instances: per image, in training.
        device: "cpu" or "cuda".
        with_rate: whether to measure the rate of a convolution afterwards, for ours on a CPU.
        published: the clone with the published code.
        folder: with weights of ours, from `save_weights`.
    """

    kind: str
    implementation: str = "ours"
    model: str = "R50"
    precision: str = "fp32"
    size: tuple[int, int] = (800, 1216)
    output: tuple[int, int] | None = None
    batch: int = 1
    queries: int = 100
    instances: int = 20
    device: str = "cpu"
    with_rate: bool = False
    as_command: bool = False  # keep freed memory, as `mask2former predict` does
    published: str = ""
    folder: str = ""

    @property
    def overrides(self) -> list[Any]:
        """The keys of our config and of the published one that depend on the case."""
        return [
            *("MODEL.DEVICE", self.device, "MODEL.WEIGHTS", ""),
            *("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", self.queries),
            *("SOLVER.AMP.ENABLED", self.precision != "fp32"),
        ]

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of the precision."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device, dtype=PRECISIONS[self.precision])


def save_weights(case: Case, folder: Path) -> None:
    """Write a run of ours with random weights, for `Mask2Former.from_pretrained`."""
    from detectron2.modeling import build_model

    from mask2former import load_config

    cfg = load_config(str(REPOSITORY / CONFIGS[case.model]), case.overrides)
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, folder / "model_final.pth")
    (folder / "config.yaml").write_text(cfg.dump())


def inference(case: Case) -> Callable[[], int]:
    """Return the call to time, from pixels to masks on the CPU; it returns their number."""
    return _INFERENCE[case.implementation](case)


def training(case: Case) -> tuple[Step, Step | None]:
    """Return a training step, and for ours what the criterion does in it, to be timed alone."""
    return _TRAINING[case.implementation](case)


def _our_inference(case: Case) -> Callable[[], int]:
    from mask2former import Mask2Former

    precision = str(PRECISIONS[case.precision]).removeprefix("torch.")
    model = Mask2Former.from_pretrained(case.folder, device=case.device, precision=precision)
    predictor = model.segmenter().predictor
    if case.output is None:
        predictor.min_size = 0  # the network sees the image as it is
    images = [pixels(case).permute(1, 2, 0).numpy() for _ in range(case.batch)]
    return lambda: sum(len(x["instances"].to("cpu")) for x in predictor.batch(images))


def _published_inference(case: Case) -> Callable[[], int]:
    model = _published_model(case).eval()
    height, width = case.output or case.size
    image = torch.randint(256, (3, *case.size), dtype=torch.uint8)
    inputs = [{"image": image, "height": height, "width": width} for _ in range(case.batch)]

    def run() -> int:
        with torch.no_grad(), case.autocast():
            return sum(len(x["instances"].to("cpu")) for x in model(inputs))

    return run


def _their_inference(case: Case) -> Callable[[], int]:
    from transformers import Mask2FormerImageProcessor

    model = _their_model(case).eval()
    processor = Mask2FormerImageProcessor()
    height, width = (-(-side // 32) * 32 for side in case.size)
    images = torch.randn(case.batch, 3, height, width, device=case.device)
    sizes = [case.output or case.size] * case.batch

    def run() -> int:
        with torch.no_grad(), case.autocast():
            outputs = model(pixel_values=images)
            results = processor.post_process_instance_segmentation(
                outputs, threshold=0.0, target_sizes=sizes, return_binary_maps=True
            )
        return sum(len(result["segments_info"]) for result in results)

    return run


def _our_training(case: Case) -> tuple[Step, Step | None]:
    from mask2former import load_config
    from mask2former.engine import Trainer
    from mask2former.modeling.draws import draws_per_image
    from mask2former.structures import PackedMasks

    cfg = load_config(str(REPOSITORY / CONFIGS[case.model]), case.overrides)
    model: Any = Trainer.build_model(cfg).train()
    masks = (iter(ellipses(case).numpy()) for _ in range(case.batch))
    inputs = _inputs(case, [PackedMasks.from_masks(each, case.size) for each in masks])
    step = _step(case, model, lambda: model(inputs), Trainer.build_optimizer(cfg, model))
    seen: list[Any] = []

    def criterion() -> None:
        if not seen:  # the first call: what the network gives to the criterion
            hook = model.criterion.register_forward_pre_hook(lambda _, given: seen.extend(given))
            with torch.no_grad(), case.autocast():
                model(inputs)
            hook.remove()
        outputs, targets = seen
        leaves = {**_leaves(outputs), "aux_outputs": [_leaves(x) for x in outputs["aux_outputs"]]}
        with case.autocast(), draws_per_image(inputs, model.device):
            sum(model.criterion(leaves, targets).values()).backward()

    return step, criterion


def _leaves(outputs: dict[str, Any]) -> dict[str, Tensor]:
    """Detach a prediction, so that the backward pass ends there."""
    names = ("pred_logits", "pred_masks")
    return {name: outputs[name].detach().requires_grad_() for name in names}


def _published_training(case: Case) -> tuple[Step, Step | None]:
    model = _published_model(case).train()
    inputs = _inputs(case, [ellipses(case) for _ in range(case.batch)])
    return _step(case, model, lambda: model(inputs)), None


def _their_training(case: Case) -> tuple[Step, Step | None]:
    model = _their_model(case).train()
    images = torch.randn(case.batch, 3, *case.size, device=case.device)
    masks = [ellipses(case).float().to(case.device) for _ in range(case.batch)]
    labels = [torch.randint(CLASSES, (case.instances,), device=case.device) for _ in masks]

    def losses() -> dict[str, Tensor]:
        return {"loss": model(images, mask_labels=masks, class_labels=labels).loss.sum()}

    return _step(case, model, losses), None


def _step(
    case: Case,
    model: nn.Module,
    losses: Callable[[], dict[str, Tensor]],
    optimizer: torch.optim.Optimizer | None = None,
) -> Step:
    """Return forward pass, matching, backward pass and update, with a clipped gradient norm."""
    clips = optimizer is not None  # ours clips within its step
    if optimizer is None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05)
    scaler = torch.amp.GradScaler(case.device, enabled=case.precision == "fp16")

    def step() -> None:
        optimizer.zero_grad()
        with case.autocast():
            loss = sum(losses().values())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        if not clips:
            nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        scaler.step(optimizer)
        scaler.update()

    return step


def _published_model(case: Case) -> nn.Module:
    if not (Path(case.published) / "mask2former").is_dir():
        raise ValueError(f"--published {case.published}: there is no folder mask2former in it")
    sys.path.insert(0, case.published)
    operator = "MultiScaleDeformableAttention"
    if importlib.util.find_spec(operator) is None:  # then it uses its PyTorch form, once imported
        sys.modules[operator] = ModuleType(operator)
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model
    from detectron2.projects.deeplab import add_deeplab_config

    package = importlib.import_module("mask2former")
    assert Path(package.__file__ or "").is_relative_to(Path(case.published).resolve())
    cfg = get_cfg()
    add_deeplab_config(cfg)
    package.add_maskformer2_config(cfg)
    cfg.merge_from_file(f"{case.published}/{CONFIGS[case.model]}")
    cfg.merge_from_list(case.overrides)
    return build_model(cfg)


def _their_model(case: Case) -> nn.Module:
    from transformers import (
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        ResNetConfig,
        SwinConfig,
    )

    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone: Any = ResNetConfig(out_features=stages)
    if case.model == "Swin-B":
        sizes = {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]}
        backbone = SwinConfig(image_size=384, window_size=12, out_features=stages, **sizes)
    config = Mask2FormerConfig(
        backbone_config=backbone, num_labels=CLASSES, num_queries=case.queries
    )
    return Mask2FormerForUniversalSegmentation(config).to(case.device)


def pixels(case: Case) -> Tensor:
    """Draw an image: uint8 (3, height, width), of the size of the result."""
    return torch.randint(256, (3, *(case.output or case.size)), dtype=torch.uint8)


def ellipses(case: Case) -> Tensor:
    """Draw the masks of one image: bool (instances, height, width)."""
    extents = torch.tensor(case.size)[:, None]
    centre, radius = torch.rand(2, 2, case.instances) * extents
    y, x = (
        ((torch.arange(n) + 0.5 - c[:, None]) / r[:, None].clamp(min=16) * 3) ** 2
        for n, c, r in zip(case.size, centre, radius, strict=True)
    )
    return y[:, :, None] + x[:, None, :] < 1


def _inputs(case: Case, masks: list[Any]) -> list[dict[str, Any]]:
    """Make Detectron2's inputs of training."""
    from detectron2.structures import Instances

    inputs = []
    for each in masks:
        instances = Instances(case.size)
        instances.gt_masks = each
        instances.gt_classes = torch.randint(CLASSES, (case.instances,))
        image = torch.randint(256, (3, *case.size), dtype=torch.uint8)
        inputs.append({"image": image, "instances": instances, "seed": len(inputs)})
    return inputs


_INFERENCE = {
    "ours": _our_inference,
    "transformers": _their_inference,
    "published": _published_inference,
}
_TRAINING = {
    "ours": _our_training,
    "transformers": _their_training,
    "published": _published_training,
}
