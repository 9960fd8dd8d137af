"""Panoptic FPN's semantic branch (arXiv 1901.02446, section 3.1) as a pixel decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from .base import DecodedFeatures, conv_norm
from .fpn import BasePixelDecoder


class UpsamplingBranch(nn.Module):
    """Convolutions that take a level of the pyramid up to the finest one, stage by stage.

    Args:
        channels: of the level and of the result.
        num_stages: each is a convolution, then an upsampling to the next finer level.
        norm: of the convolutions.
    """

    def __init__(self, channels: int, num_stages: int, norm: str):
        super().__init__()
        # the finest level has a convolution too, and no upsampling
        self.convs = nn.ModuleList(
            conv_norm(channels, channels, 3, norm, F.relu_) for _ in range(max(num_stages, 1))
        )

    def forward(self, x: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Upsample (B, C, ., .) to `sizes`, those of the finer levels, in turn."""
        if not sizes:
            return self.convs[0](x)
        for conv, size in zip(self.convs, sizes, strict=True):
            x = F.interpolate(conv(x), size=size, mode="bilinear", align_corners=False)
        return x


@SEM_SEG_HEADS_REGISTRY.register()
class SemanticFPNPixelDecoder(BasePixelDecoder):
    """`BasePixelDecoder` whose mask features are the sum of all its levels, each upsampled.

    Takes what `BasePixelDecoder` takes. ``branches`` are numbered from the finest level.
    """

    @configurable
    def __init__(self, input_shape: dict[str, ShapeSpec], **kwargs: Any):
        super().__init__(input_shape, **kwargs)
        self.branches = nn.ModuleList(
            UpsamplingBranch(self.conv_dim, level, self.norm) for level in range(self.num_levels)
        )
        self.mask_features = conv_norm(self.conv_dim, self.mask_dim, 1)

    def forward_features(self, features: dict[str, Tensor]) -> DecodedFeatures:
        """See `PixelDecoder.forward_features`."""
        levels = self.pyramid(self.inputs(features))
        sizes = [(int(x.shape[-2]), int(x.shape[-1])) for x in levels]
        total = self.branches[0](levels[0], ())
        for i in range(1, self.num_levels):
            total = total + self.branches[i](levels[i], sizes[i - 1 :: -1])
        return self.mask_features(total), None, self.multi_scale(levels)
