"""Pixel decoder and transformer decoder together: from backbone features to predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from ..pixel_decoder import build_pixel_decoder
from ..pixel_decoder.base import channels_of
from ..targets import Target
from ..transformer_decoder import TRANSFORMER_DECODER_REGISTRY

# What a transformer decoder may attend to besides one of the backbone's features.
MULTI_SCALE = "multi_scale_pixel_decoder"  # the pixel decoder's three coarsest maps
TRANSFORMER_ENCODER = "transformer_encoder"  # its transformer encoder's output
PIXEL_EMBEDDING = "pixel_embedding"  # the mask features


@SEM_SEG_HEADS_REGISTRY.register()
class MaskFormerHead(nn.Module):
    """Predicts classes and masks of queries from a backbone's features.

    Args:
        num_classes: classes without "no object".
        pixel_decoder: its ``forward_features`` turns features into mask features, the output of its
            transformer encoder and a list of maps.
        predictor: turns what it attends to, and mask features, into predictions.
        transformer_in_feature: what the predictor attends to: "multi_scale_pixel_decoder",
            "transformer_encoder", "pixel_embedding" or the name of a feature.
    """

    # Written into the metadata of every `state_dict`; the published code looks for it.
    _version = 2

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        pixel_decoder: nn.Module,
        predictor: nn.Module,
        transformer_in_feature: str = MULTI_SCALE,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor
        self.transformer_in_feature = transformer_in_feature

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Return constructor arguments from a config."""
        return {
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "pixel_decoder": build_pixel_decoder(cfg, input_shape),
            "predictor": build_transformer_decoder(cfg, input_shape),
            "transformer_in_feature": cfg.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE,
        }

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        migrate_names(state_dict, prefix)  # so that Detectron2's own loader takes old checkpoints
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def forward(
        self, features: dict[str, Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Any]:
        """Turn features by name into ``{"pred_logits", "pred_masks", "aux_outputs"}``.

        Args:
            features: maps by name.
            targets: of each image, for a predictor that trains with them.
        """
        attended, mask_features = decode_pixels(
            self.pixel_decoder, features, self.transformer_in_feature
        )
        if targets is None:
            return self.predictor(attended, mask_features)
        return self.predictor(attended, mask_features, targets)


def build_transformer_decoder(
    cfg: CfgNode, input_shape: dict[str, ShapeSpec], **arguments: Any
) -> nn.Module:
    """Build ``MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME`` for what it is to attend to.

    Args:
        cfg: the whole config.
        input_shape: the backbone's feature names and their channels and strides.
        arguments: of the constructor, besides those from `cfg`.

    Raises:
        ValueError: there is no such input, or the decoder attends to another kind of input.
    """
    name = cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME
    kind = cfg.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE
    head = cfg.MODEL.SEM_SEG_HEAD
    channels = {
        **{feature: channels_of(shape) for feature, shape in input_shape.items()},
        MULTI_SCALE: head.CONVS_DIM,
        TRANSFORMER_ENCODER: head.CONVS_DIM,
        PIXEL_EMBEDDING: head.MASK_DIM,
    }
    if kind not in channels:
        raise ValueError(
            f"MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE is {kind!r}; known are {list(channels)}"
        )
    decoder = TRANSFORMER_DECODER_REGISTRY.get(name)
    multi_scale = getattr(decoder, "multi_scale", None)  # which a class of another package lacks
    if multi_scale is not None and multi_scale != (kind == MULTI_SCALE):
        wanted = f"be {MULTI_SCALE!r}" if multi_scale else f"not be {MULTI_SCALE!r}"
        raise ValueError(
            f"MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME is {name}, for which "
            f"MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE must {wanted}, got {kind!r}"
        )
    switches = {
        "PILOTED.GROUPS": cfg.MODEL.MASK_FORMER.PILOTED.GROUPS,
        "ANNEALING.ENABLED": cfg.MODEL.MASK_FORMER.ANNEALING.ENABLED,
    }
    for key, is_on in switches.items():
        if is_on and not multi_scale:
            raise ValueError(
                f"MODEL.MASK_FORMER.{key} is for MultiScaleMaskedTransformerDecoder, but "
                f"MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME is {name}: set one or the other"
            )
    return decoder(cfg, channels[kind], **arguments)


def decode_pixels(
    pixel_decoder: nn.Module, features: dict[str, Tensor], transformer_in_feature: str
) -> tuple[Any, Tensor]:
    """Run a pixel decoder and pick what the transformer decoder attends to.

    Args:
        pixel_decoder: see `MaskFormerHead`.
        features: the backbone's maps by name.
        transformer_in_feature: see `MaskFormerHead`.

    Returns:
        A map (B, C, ., .), or a list of them from coarse to fine, and the mask features.

    Raises:
        ValueError: the pixel decoder has no transformer encoder, whose output is asked for.
    """
    single = features.get(transformer_in_feature)
    mask_features, encoded, maps = pixel_decoder.forward_features(features)  # type: ignore[operator]
    if transformer_in_feature == MULTI_SCALE:
        return maps, mask_features
    if transformer_in_feature == PIXEL_EMBEDDING:
        return mask_features, mask_features
    if single is not None:
        return single, mask_features
    if encoded is None:
        raise ValueError(
            f"MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE is {TRANSFORMER_ENCODER!r}, but "
            f"{type(pixel_decoder).__name__} has no transformer encoder: set "
            "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME to TransformerEncoderPixelDecoder"
        )
    return encoded, mask_features


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
