"""The pixel decoders of MaskFormer (arXiv 2107.06278, section 4.1): feature pyramid networks."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor
from torch.nn import functional as F

from ..transformer_decoder.detr import EncoderOnly
from .base import DecodedFeatures, PixelDecoder, conv_norm


@SEM_SEG_HEADS_REGISTRY.register()
class BasePixelDecoder(PixelDecoder):
    """Feature Pyramid Network (arXiv 1612.03144): each map is merged with the coarser one above.

    ``adapter_1`` and ``layer_1`` belong to the finest map, as the published parameters are
    numbered. The coarsest map has no adapter: nothing is above it.

    Args:
        input_shape: see `PixelDecoder`; the finest feature has the stride of the mask features.
        kwargs: see `PixelDecoder`.
    """

    @configurable
    def __init__(self, input_shape: dict[str, ShapeSpec], **kwargs: Any):
        super().__init__(input_shape, **kwargs)
        self.check_finest_stride()
        conv_dim, norm = self.conv_dim, self.norm
        self.num_levels = len(self.in_channels)
        for number, channels in enumerate(self.in_channels, start=1):
            if number < self.num_levels:
                self.add_module(f"adapter_{number}", conv_norm(channels, conv_dim, 1, norm))
                channels = conv_dim
            self.add_module(f"layer_{number}", conv_norm(channels, conv_dim, 3, norm, F.relu_))
        self.mask_features = conv_norm(conv_dim, self.mask_dim, 3)

    def merge(self, number: int, x: Tensor, above: Tensor) -> Tensor:
        """Merge the backbone's map `x` of level `number` with the level above, at `x`'s size."""
        lateral = getattr(self, f"adapter_{number}")(x)
        return lateral + F.interpolate(above, size=lateral.shape[-2:], mode="nearest")

    def pyramid(self, maps: list[Tensor]) -> list[Tensor]:
        """Turn maps (B, C_l, H_l, W_l), fine to coarse, into maps (B, conv_dim, H_l, W_l)."""
        levels = [getattr(self, f"layer_{self.num_levels}")(maps[-1])]
        for number in range(self.num_levels - 1, 0, -1):
            merged = self.merge(number, maps[number - 1], levels[0])
            levels.insert(0, getattr(self, f"layer_{number}")(merged))
        return levels

    def forward_features(self, features: dict[str, Tensor]) -> DecodedFeatures:
        """See `PixelDecoder.forward_features`."""
        levels = self.pyramid(self.inputs(features))
        return self.mask_features(levels[0]), None, self.multi_scale(levels)


@SEM_SEG_HEADS_REGISTRY.register()
class TransformerEncoderPixelDecoder(BasePixelDecoder):
    """`BasePixelDecoder` with a transformer encoder over the coarsest map.

    Args:
        input_shape: see `BasePixelDecoder`.
        transformer_dropout: of the encoder's branches and attention weights.
        transformer_nheads: heads of its attention.
        transformer_dim_feedforward: hidden channels of its feed-forward networks.
        transformer_enc_layers: number of its layers.
        transformer_pre_norm: normalise before instead of after each branch.
        kwargs: see `PixelDecoder`.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        transformer_dropout: float,
        transformer_nheads: int,
        transformer_dim_feedforward: int,
        transformer_enc_layers: int,
        transformer_pre_norm: bool,
        **kwargs: Any,
    ):
        super().__init__(input_shape, **kwargs)
        conv_dim = self.conv_dim
        self.input_proj = conv_norm(self.in_channels[-1], conv_dim, 1)
        self.transformer = EncoderOnly(
            num_layers=transformer_enc_layers,
            dim=conv_dim,
            num_heads=transformer_nheads,
            dim_feedforward=transformer_dim_feedforward,
            dropout=transformer_dropout,
            pre_norm=transformer_pre_norm,
        )
        # the coarsest level, which gets the encoder's output instead of the backbone's
        output = conv_norm(conv_dim, conv_dim, 3, self.norm, F.relu_)
        self.add_module(f"layer_{self.num_levels}", output)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Return constructor arguments from a config."""
        mask_former = cfg.MODEL.MASK_FORMER
        return {
            **super().from_config(cfg, input_shape),
            "transformer_dropout": mask_former.DROPOUT,
            "transformer_nheads": mask_former.NHEADS,
            "transformer_dim_feedforward": mask_former.DIM_FEEDFORWARD,
            "transformer_enc_layers": cfg.MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS,
            "transformer_pre_norm": mask_former.PRE_NORM,
        }

    def forward_features(self, features: dict[str, Tensor]) -> DecodedFeatures:
        """See `PixelDecoder.forward_features`."""
        *maps, coarsest = self.inputs(features)
        encoded = self.transformer(self.input_proj(coarsest))
        levels = self.pyramid([*maps, encoded])
        return self.mask_features(levels[0]), encoded, self.multi_scale(levels)
