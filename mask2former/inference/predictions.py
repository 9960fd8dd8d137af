"""What a model found in one image, made of Detectron2's results.

The types are those of `mask2former_runtime`, and hold their masks in NumPy's memory.
"""

from __future__ import annotations

from typing import Any

from detectron2.structures import Instances
from torch import Tensor

from mask2former_runtime.classes import Classes
from mask2former_runtime.prediction import ImageSource
from mask2former_runtime.predictions import (
    InstancePrediction,
    PanopticPrediction,
)

from ..structures import PackedMasks


def of_instances(instances: Instances, classes: Classes, source: ImageSource) -> InstancePrediction:
    """Take over Detectron2's ``Instances`` on the CPU; see `confident`."""
    packed = PackedMasks.from_tensor(instances.pred_masks)
    if instances.has("pred_boxes"):
        boxes = instances.pred_boxes.tensor
    else:
        boxes = packed.get_bounding_boxes().tensor
    return InstancePrediction(
        size=instances.image_size,
        classes=classes,
        labels=instances.pred_classes.numpy(),
        scores=instances.scores.float().numpy(),
        boxes=boxes.float().numpy(),
        planes=packed.planes.numpy(),
        source=source,
    )


def of_panoptic_seg(
    output: tuple[Tensor, list[dict[str, Any]]], classes: Classes, source: ImageSource
) -> PanopticPrediction:
    """Take over Detectron2's ``panoptic_seg``."""
    id_map, segments = output
    return PanopticPrediction.from_segments(id_map.cpu().numpy(), segments, classes, source)
