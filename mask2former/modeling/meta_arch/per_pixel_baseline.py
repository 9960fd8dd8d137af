"""The per-pixel baselines of MaskFormer (arXiv 2107.06278, section 4.1).

They classify each pixel where `MaskFormerHead` classifies masks. Detectron2's meta-architecture
`SemanticSegmentor` runs them.

Shapes:
    B: batch, K: classes, H, W: size of the image, h, w: of the mask features, H and W over
    ``common_stride``, rounded up.
"""

from __future__ import annotations

from typing import Any

import fvcore.nn.weight_init as weight_init
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from ..pixel_decoder import build_pixel_decoder
from .mask_former_head import build_transformer_decoder, decode_pixels, migrate_names


class PerPixelHead(nn.Module):
    """What both baselines share: the loss, and results of the image's size.

    Subclasses have a ``predictor`` and implement `predict`.

    Args:
        num_classes: K.
        pixel_decoder: has ``forward_features``, see `MaskFormerHead`.
        common_stride: of the mask features, by which predictions are enlarged.
        loss_weight: factor on each loss.
        ignore_value: label of pixels that are left out of the loss.
    """

    # Written into the metadata of every `state_dict`; the published code looks for it.
    _version = 2

    def __init__(
        self,
        *,
        num_classes: int,
        pixel_decoder: nn.Module,
        common_stride: int,
        loss_weight: float = 1.0,
        ignore_value: int = 255,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.pixel_decoder = pixel_decoder
        self.common_stride = common_stride
        self.loss_weight = loss_weight
        self.ignore_value = ignore_value  # SemanticSegmentor pads labels with it

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Return constructor arguments from a config."""
        head = cfg.MODEL.SEM_SEG_HEAD
        return {
            "num_classes": head.NUM_CLASSES,
            "pixel_decoder": build_pixel_decoder(cfg, input_shape),
            "common_stride": head.COMMON_STRIDE,
            "loss_weight": head.LOSS_WEIGHT,
            "ignore_value": head.IGNORE_VALUE,
        }

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        migrate_names(state_dict, prefix)  # so that Detectron2's own loader takes old checkpoints
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def predict(self, features: dict[str, Tensor]) -> list[Tensor]:
        """Return logits (B, K, h, w) of every prediction, the one that counts first."""
        raise NotImplementedError

    def forward(
        self, features: dict[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Compute what `SemanticSegmentor` asks of a head.

        Args:
            features: the backbone's maps by name.
            targets: classes (B, H, W) int64, needed in training.

        Returns:
            In training None and losses: ``loss_sem_seg``, and ``loss_sem_seg_{i}`` of intermediate
            prediction i. Otherwise logits (B, K, h * common_stride, w * common_stride), which is
            the image's size or a little more, and no losses.

        Raises:
            ValueError: targets are missing, or have a class that is neither below ``num_classes``
                nor ``ignore_value``.
        """
        if not self.training:
            return self._enlarge(self.predict(features)[0]), {}
        if targets is None:
            raise ValueError(
                "training a per-pixel baseline needs 'sem_seg', which the input lacks: set "
                "INPUT.DATASET_MAPPER_NAME to mask_former_semantic"
            )
        labelled = targets[targets != self.ignore_value]
        if len(labelled) and not 0 <= int(labelled.min()) <= int(labelled.max()) < self.num_classes:
            raise ValueError(
                f"classes {int(labelled.min())} to {int(labelled.max())} in the annotations, but "
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {self.num_classes} and IGNORE_VALUE "
                f"{self.ignore_value}"
            )
        last, *intermediate = self.predict(features)
        losses = {"loss_sem_seg": self._loss(last, targets)}
        for i, logits in enumerate(intermediate):
            losses[f"loss_sem_seg_{i}"] = self._loss(logits, targets)
        return None, losses

    def _enlarge(self, logits: Tensor) -> Tensor:
        return F.interpolate(
            logits.float(), scale_factor=self.common_stride, mode="bilinear", align_corners=False
        )

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy, averaged over the labelled pixels; 0 if there are none."""
        H, W = targets.shape[-2:]
        # features of a size that the stride does not divide are rounded up
        logits = self._enlarge(logits)[..., :H, :W]
        total = F.cross_entropy(logits, targets, ignore_index=self.ignore_value, reduction="sum")
        return self.loss_weight * total / (targets != self.ignore_value).sum().clamp(min=1)


@SEM_SEG_HEADS_REGISTRY.register()
class PerPixelBaselineHead(PerPixelHead):
    """A 1x1 convolution over the mask features.

    Args:
        mask_dim: channels of the mask features.
        kwargs: see `PerPixelHead`.
    """

    @configurable
    def __init__(self, *, mask_dim: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.predictor = Conv2d(mask_dim, self.num_classes, kernel_size=1)
        weight_init.c2_msra_fill(self.predictor)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Return constructor arguments from a config."""
        return {
            **super().from_config(cfg, input_shape),
            "mask_dim": cfg.MODEL.SEM_SEG_HEAD.MASK_DIM,
        }

    def predict(self, features: dict[str, Tensor]) -> list[Tensor]:
        """See `PerPixelHead.predict`."""
        mask_features, _, _ = self.pixel_decoder.forward_features(features)  # type: ignore[operator]
        return [self.predictor(mask_features)]


@SEM_SEG_HEADS_REGISTRY.register()
class PerPixelBaselinePlusHead(PerPixelHead):
    """MaskFormer's transformer decoder with one query per class, whose mask is the class's logits.

    Args:
        predictor: a transformer decoder without class prediction and with ``num_classes`` queries.
        transformer_in_feature: what the predictor attends to, see `MaskFormerHead`.
        deep_supervision: whether intermediate predictions are trained too.
        kwargs: see `PerPixelHead`.
    """

    @configurable
    def __init__(
        self,
        *,
        predictor: nn.Module,
        transformer_in_feature: str,
        deep_supervision: bool,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.predictor = predictor
        self.transformer_in_feature = transformer_in_feature
        self.deep_supervision = deep_supervision

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Return constructor arguments from a config.

        Raises:
            ValueError: the number of queries differs from that of classes, or the transformer
                decoder predicts classes.
        """
        mask_former, head = cfg.MODEL.MASK_FORMER, cfg.MODEL.SEM_SEG_HEAD
        if mask_former.NUM_OBJECT_QUERIES != head.NUM_CLASSES:
            raise ValueError(
                "PerPixelBaselinePlusHead has one query for each class, but "
                f"MODEL.MASK_FORMER.NUM_OBJECT_QUERIES is {mask_former.NUM_OBJECT_QUERIES} and "
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES {head.NUM_CLASSES}"
            )
        if mask_former.TRANSFORMER_DECODER_NAME == "MultiScaleMaskedTransformerDecoder":
            raise ValueError(
                "MultiScaleMaskedTransformerDecoder always predicts classes: for "
                "PerPixelBaselinePlusHead set MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME to "
                "StandardTransformerDecoder"
            )
        return {
            **super().from_config(cfg, input_shape),
            "predictor": build_transformer_decoder(cfg, input_shape, mask_classification=False),
            "transformer_in_feature": mask_former.TRANSFORMER_IN_FEATURE,
            "deep_supervision": mask_former.DEEP_SUPERVISION,
        }

    def predict(self, features: dict[str, Tensor]) -> list[Tensor]:
        """See `PerPixelHead.predict`."""
        attended, mask_features = decode_pixels(
            self.pixel_decoder, features, self.transformer_in_feature
        )
        outputs = self.predictor(attended, mask_features)
        intermediate = outputs["aux_outputs"] if self.deep_supervision else []
        return [x["pred_masks"] for x in (outputs, *intermediate)]
