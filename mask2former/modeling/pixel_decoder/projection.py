"""No pixel decoder: a backbone's maps as they are, brought to the channels that are needed."""

from __future__ import annotations

from typing import Any

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from .base import DecodedFeatures, PixelDecoder, conv_norm


@SEM_SEG_HEADS_REGISTRY.register()
class ProjectionPixelDecoder(PixelDecoder):
    """Takes maps as they are, for a vision transformer whose layers have mixed them already.

    EoMT (arXiv 2503.19108, table 1) finds that a large, well pre-trained vision transformer does
    not need more. A map without ``conv_dim`` channels gets a 1x1 convolution; the mask features are
    another one on the finest map.

    Takes what `PixelDecoder` takes. ``projections`` are numbered from the coarsest map.
    """

    @configurable
    def __init__(self, input_shape: dict[str, ShapeSpec], **kwargs: Any):
        super().__init__(input_shape, **kwargs)
        self.check_finest_stride()
        self.projections = nn.ModuleList(
            nn.Identity()
            if channels == self.conv_dim
            else conv_norm(channels, self.conv_dim, 1, self.norm)
            for channels in self.in_channels[::-1][: self.num_output_levels]
        )
        self.mask_features = conv_norm(self.in_channels[0], self.mask_dim, 1)

    def forward_features(self, features: dict[str, Tensor]) -> DecodedFeatures:
        """See `PixelDecoder.forward_features`."""
        pyramid = self.inputs(features)
        maps = [
            proj(x) for proj, x in zip(self.projections, self.multi_scale(pyramid), strict=True)
        ]
        return self.mask_features(pyramid[0]), None, maps
