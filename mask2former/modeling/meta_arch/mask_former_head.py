"""Pixel decoder and transformer decoder together: from backbone features to predictions."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from ..transformer_decoder import TRANSFORMER_DECODER_REGISTRY

MULTI_SCALE = "multi_scale_pixel_decoder"


@SEM_SEG_HEADS_REGISTRY.register()
class MaskFormerHead(nn.Module):
    """Predicts classes and masks of queries from a backbone's features.

    Args:
        num_classes: classes without "no object".
        pixel_decoder: has ``forward_features``, from features to mask features and maps.
        transformer_predictor: from maps and mask features to predictions.
    """

    # Written into the metadata of every `state_dict`; the published code looks for it.
    _version = 2

    @configurable
    def __init__(self, *, num_classes: int, pixel_decoder: nn.Module, predictor: nn.Module):
        super().__init__()
        self.num_classes = num_classes
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Constructor arguments from a config."""
        head, mask_former = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_FORMER
        missing = [name for name in head.IN_FEATURES if name not in input_shape]
        if missing:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES names {missing}; "
                f"the backbone gives {list(input_shape)}"
            )
        if mask_former.TRANSFORMER_IN_FEATURE != MULTI_SCALE:
            raise ValueError(
                f"MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE must be '{MULTI_SCALE}', "
                f"got '{mask_former.TRANSFORMER_IN_FEATURE}'"
            )
        decoder = TRANSFORMER_DECODER_REGISTRY.get(mask_former.TRANSFORMER_DECODER_NAME)
        pixel_decoder = SEM_SEG_HEADS_REGISTRY.get(head.PIXEL_DECODER_NAME)
        return {
            "num_classes": head.NUM_CLASSES,
            "pixel_decoder": pixel_decoder(cfg, input_shape),
            "predictor": decoder(cfg, head.CONVS_DIM),
        }

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        migrate_names(state_dict, prefix)  # so that Detectron2's own loader takes old checkpoints
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Any]:
        """Backbone features by name to ``{"pred_logits", "pred_masks", "aux_outputs"}``."""
        mask_features, _, maps = self.pixel_decoder.forward_features(features)  # type: ignore[operator]
        return self.predictor(maps, mask_features)


def migrate_names(state: dict[str, Any], prefix: str = "sem_seg_head.") -> None:
    """Give what stands under `prefix` in `state` the names that `MaskFormerHead` has, in place.

    The first checkpoints have the pixel decoder's parameters directly in the head, and call the
    query features "static_query". Names that are up to date stay, so this may be done twice.

    Args:
        state: from parameter names to anything.
        prefix: of the head's names.
    """
    for name in [name for name in state if name.startswith(prefix)]:
        part = name[len(prefix) :]
        if not part.startswith(("pixel_decoder.", "predictor.")):
            part = f"pixel_decoder.{part}"
        if part.startswith("predictor."):
            part = part.replace("static_query", "query_feat")
        if prefix + part != name:
            state[prefix + part] = state.pop(name)
