"""The meta-architecture: images in, losses or Detectron2 results out."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone, build_sem_seg_head
from detectron2.modeling.backbone import Backbone
from detectron2.structures import BitMasks, ImageList, Instances, PolygonMasks
from torch import Tensor, nn
from torch.nn import functional as F

from ..criterion import SetCriterion
from ..matcher import HungarianMatcher
from ..postprocessing import instance_inference


@META_ARCH_REGISTRY.register()
class MaskFormer(nn.Module):
    """Mask classification: a set of (class, mask) predictions an image.

    Args:
        backbone: gives feature maps by name.
        sem_seg_head: from feature maps to predictions.
        criterion: from predictions and targets to weighted losses.
        size_divisibility: inputs are padded to multiples of this, or of the backbone's own number
            if this is negative.
        pixel_mean: a channel, in the order of ``INPUT.FORMAT``.
        pixel_std: a channel.
        max_detections: instances an image.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: nn.Module,
        criterion: SetCriterion,
        size_divisibility: int,
        pixel_mean: list[float],
        pixel_std: list[float],
        max_detections: int,
    ):
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.criterion = criterion
        if size_divisibility < 0:
            size_divisibility = backbone.size_divisibility
        self.size_divisibility = size_divisibility
        self.max_detections = max_detections
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from a config."""
        mask_former = cfg.MODEL.MASK_FORMER
        test = mask_former.TEST
        if test.SEMANTIC_ON or test.PANOPTIC_ON or not test.INSTANCE_ON:
            raise ValueError(
                "this version predicts instances only: set MODEL.MASK_FORMER.TEST.INSTANCE_ON "
                "True, SEMANTIC_ON False and PANOPTIC_ON False"
            )
        backbone = build_backbone(cfg)
        weights = {
            "class": mask_former.CLASS_WEIGHT,
            "mask": mask_former.MASK_WEIGHT,
            "dice": mask_former.DICE_WEIGHT,
        }
        matcher = HungarianMatcher(
            **{f"cost_{key}": weight for key, weight in weights.items()},
            num_points=mask_former.TRAIN_NUM_POINTS,
        )
        criterion = SetCriterion(
            cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            matcher=matcher,
            weight_dict={
                "loss_ce": weights["class"],
                "loss_mask": weights["mask"],
                "loss_dice": weights["dice"],
            },
            deep_supervision=mask_former.DEEP_SUPERVISION,
            no_object_weight=mask_former.NO_OBJECT_WEIGHT,
            num_points=mask_former.TRAIN_NUM_POINTS,
            oversample_ratio=mask_former.OVERSAMPLE_RATIO,
            importance_sample_ratio=mask_former.IMPORTANCE_SAMPLE_RATIO,
        )
        return {
            "backbone": backbone,
            "sem_seg_head": build_sem_seg_head(cfg, backbone.output_shape()),
            "criterion": criterion,
            "size_divisibility": mask_former.SIZE_DIVISIBILITY,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
        }

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Losses in training mode, results otherwise.

        Args:
            batched_inputs: Detectron2's dicts: ``image`` uint8 (3, H, W) in ``INPUT.FORMAT``;
                ``instances`` with ``gt_classes`` and ``gt_masks`` (a bool tensor, BitMasks or
                PolygonMasks) in training; optionally ``height`` and ``width`` of the output.

        Returns:
            In training a dict of weighted losses; otherwise for each image a dict with
            ``instances`` of the output's size.
        """
        images = [
            (x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs
        ]
        batch = ImageList.from_tensors(images, self.size_divisibility)
        outputs = self.sem_seg_head(self.backbone(batch.tensor))
        padded_size = (batch.tensor.shape[-2], batch.tensor.shape[-1])
        if self.training:
            targets = [self._target(x, padded_size) for x in batched_inputs]
            return self.criterion(outputs, targets)
        return [
            {
                "instances": instance_inference(
                    logits,
                    masks,
                    padded_size=padded_size,
                    image_size=size,
                    output_size=(x.get("height", size[0]), x.get("width", size[1])),
                    max_detections=self.max_detections,
                )
            }
            for x, size, logits, masks in zip(
                batched_inputs,
                batch.image_sizes,
                outputs["pred_logits"],
                outputs["pred_masks"],
                strict=True,
            )
        ]

    def _target(self, x: dict[str, Any], padded_size: tuple[int, int]) -> dict[str, Tensor]:
        """Labels (N,) and bool masks (N, H, W) of an image, padded to the batch's size."""
        if "instances" not in x:
            raise ValueError(
                f"training needs 'instances', which the input of "
                f"{x.get('file_name', 'an image')} lacks"
            )
        instances = x["instances"]
        masks = masks_as_tensor(instances, self.device)
        height, width = masks.shape[-2:]
        masks = F.pad(masks, (0, padded_size[1] - width, 0, padded_size[0] - height))
        labels = instances.gt_classes.to(self.device)
        limit = self.criterion.num_classes
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < limit:
            raise ValueError(
                f"{x.get('file_name', 'an image')}: class {int(labels.max())} in the annotations, "
                f"but MODEL.SEM_SEG_HEAD.NUM_CLASSES is {limit}"
            )
        return {"labels": labels, "masks": masks}


def masks_as_tensor(instances: Instances, device: torch.device) -> Tensor:
    """``gt_masks`` of any of Detectron2's kinds as bool (N, H, W) on ``device``."""
    height, width = instances.image_size
    if not instances.has("gt_masks"):
        if len(instances):
            raise ValueError(
                "instances without masks: Mask2Former learns from masks; with Detectron2's own "
                "DatasetMapper set MODEL.MASK_ON True"
            )
        return torch.zeros((0, height, width), dtype=torch.bool, device=device)
    masks = instances.gt_masks
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, height, width)
    if isinstance(masks, BitMasks):
        masks = masks.tensor
    return masks.to(device=device, dtype=torch.bool)
