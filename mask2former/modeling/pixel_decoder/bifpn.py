"""Weighted bi-directional feature pyramid (EfficientDet, arXiv 1911.09070, section 3).

Levels are numbered from the finest, 0, to the coarsest.
"""

from __future__ import annotations

from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from .base import DecodedFeatures, PixelDecoder, conv_norm


class Fusion(nn.Module):
    """Fast normalised fusion of maps, then a depthwise separable convolution.

    The maps are weighted by non-negative numbers that sum to nearly 1. The convolution is followed
    by normalisation and swish.

    Args:
        channels: of each map and of the result.
        num_inputs: number of maps.
        norm: of the convolution.
    """

    epsilon = 1e-4

    def __init__(self, channels: int, num_inputs: int, norm: str):
        super().__init__()
        self.weights = nn.Parameter(torch.ones(num_inputs))
        self.depthwise = Conv2d(
            channels, channels, kernel_size=3, padding=1, groups=channels, bias=False
        )
        weight_init.c2_xavier_fill(self.depthwise)
        self.pointwise = conv_norm(channels, channels, 1, norm, F.silu)

    def forward(self, *maps: Tensor) -> Tensor:
        """Fuse maps (B, C, H, W), as many as ``num_inputs``, into (B, C, H, W)."""
        weights = F.relu(self.weights)
        weights = weights / (weights.sum() + self.epsilon)
        x = weights[0] * maps[0]
        for weight, other in zip(weights[1:], maps[1:], strict=True):
            x = x + weight * other
        return self.pointwise(self.depthwise(x))


class BiFPNLayer(nn.Module):
    """One pass from coarse to fine and one back; inputs are added again on the way back.

    Args:
        channels: of every level.
        num_levels: at least 2.
        norm: of the convolutions.
    """

    def __init__(self, channels: int, num_levels: int, norm: str):
        super().__init__()
        # The coarsest level has nothing above it and the finest nothing below it. A node with one
        # input is left out.
        self.down = nn.ModuleList(Fusion(channels, 2, norm) for _ in range(num_levels - 1))
        self.up = nn.ModuleList(
            Fusion(channels, 3 if level < num_levels - 1 else 2, norm)
            for level in range(1, num_levels)
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Turn maps (B, C, H_l, W_l), fine to coarse, into maps of the same shapes."""
        middle = [maps[-1]]  # fine to coarse, as all lists
        for x, fuse in zip(maps[-2::-1], reversed(self.down), strict=True):
            above = F.interpolate(middle[0], size=x.shape[-2:], mode="nearest")
            middle.insert(0, fuse(x, above))
        outputs = [middle[0]]
        for level, fuse in enumerate(self.up, start=1):
            below = F.max_pool2d(outputs[-1], kernel_size=3, stride=2, padding=1)
            inner = [] if level == len(self.up) else [middle[level]]
            outputs.append(fuse(maps[level], *inner, below))
        return outputs


@SEM_SEG_HEADS_REGISTRY.register()
class BiFPNPixelDecoder(PixelDecoder):
    """Layers of `BiFPNLayer` over all maps, projected to as many channels.

    Mask features are a projection of the finest level.

    Args:
        input_shape: see `PixelDecoder`; at least two features, each of twice the stride of the
            one before.
        num_layers: of `BiFPNLayer`, at least 1.
        kwargs: see `PixelDecoder`.
    """

    @configurable
    def __init__(self, input_shape: dict[str, ShapeSpec], *, num_layers: int, **kwargs: Any):
        super().__init__(input_shape, **kwargs)
        self.check_finest_stride()
        doubled = [self.common_stride * 2**i for i in range(len(self.in_strides))]
        if self.in_strides != doubled or len(doubled) < 2:
            raise ValueError(
                "BiFPNPixelDecoder needs two or more features in MODEL.SEM_SEG_HEAD.IN_FEATURES, "
                f"each of twice the stride of the one before; those of {self.in_features} are "
                f"{self.in_strides}"
            )
        if num_layers < 1:
            raise ValueError(f"MODEL.SEM_SEG_HEAD.BIFPN_LAYERS must be 1 or more, got {num_layers}")
        conv_dim, norm = self.conv_dim, self.norm
        self.input_proj = nn.ModuleList(
            conv_norm(channels, conv_dim, 1, norm) for channels in self.in_channels
        )
        self.layers = nn.ModuleList(
            BiFPNLayer(conv_dim, len(self.in_channels), norm) for _ in range(num_layers)
        )
        self.mask_features = conv_norm(conv_dim, self.mask_dim, 1)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Return constructor arguments from a config."""
        return {
            **super().from_config(cfg, input_shape),
            "num_layers": cfg.MODEL.SEM_SEG_HEAD.BIFPN_LAYERS,
        }

    def forward_features(self, features: dict[str, Tensor]) -> DecodedFeatures:
        """See `PixelDecoder.forward_features`."""
        levels = [proj(x) for proj, x in zip(self.input_proj, self.inputs(features), strict=True)]
        for layer in self.layers:
            levels = layer(levels)
        return self.mask_features(levels[0]), None, self.multi_scale(levels)
