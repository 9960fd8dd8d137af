"""Feature-aligned pyramid network (FaPN, arXiv 2108.07058, section 3)."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import DeformConv2d, deform_conv2d

from .base import conv_norm
from .fpn import BasePixelDecoder


class FeatureSelection(nn.Module):
    """Strengthens the channels that matter in an image, then projects them (section 3.2).

    With z the mean of a map C over its positions and u = sigmoid(f_m(z)), the result is
    f_s(C + u C); f_m and f_s are 1x1 convolutions.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: str):
        super().__init__()
        self.importance = Conv2d(in_channels, in_channels, kernel_size=1)
        self.select = conv_norm(in_channels, out_channels, 1, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Turn (B, in_channels, H, W) into (B, out_channels, H, W)."""
        u = self.importance(x.mean(dim=(2, 3), keepdim=True)).sigmoid()
        return self.select(x + u * x)


class FeatureAlignment(nn.Module):
    """Moves the contents of an upsampled map to where a finer map has them (section 3.1).

    With a finer map C and the upsampled P, the result is f_a(P, f_o([C, P])); f_o is a convolution
    that gives an offset for each of the sampling points of f_a, a deformable convolution. At the
    start of training all offsets are 0.

    Args:
        channels: of C, of P and of the result.
        norm: of f_a.
        offset_groups: groups of channels of P that have offsets of their own.
    """

    def __init__(self, channels: int, norm: str, offset_groups: int):
        super().__init__()
        self.offset = Conv2d(2 * channels, 2 * 9 * offset_groups, kernel_size=3, padding=1)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)
        self.align = DeformConv2d(channels, channels, kernel_size=3, padding=1, bias=norm == "")
        self.norm = get_norm(norm, channels) or nn.Identity()

    def forward(self, fine: Tensor, upsampled: Tensor) -> Tensor:
        """Return P aligned to C; all are (B, C, H, W)."""
        offset = self.offset(torch.cat((fine, upsampled), dim=1))
        # In float32 under autocast, too: torchvision has no bfloat16 kernel, and offsets of less
        # than a pixel matter.
        weight, bias = self.align.weight, self.align.bias
        aligned = deform_conv2d(
            upsampled.float(),
            offset.float(),
            weight.float(),
            bias if bias is None else bias.float(),
            padding=1,
        )
        return self.norm(aligned.to(upsampled.dtype))


@SEM_SEG_HEADS_REGISTRY.register()
class FaPNPixelDecoder(BasePixelDecoder):
    """`BasePixelDecoder` that selects features and aligns each level to the finer one.

    Args:
        input_shape: see `BasePixelDecoder`.
        offset_groups: see `FeatureAlignment`; divides ``conv_dim``.
        kwargs: see `PixelDecoder`; the convolutions that give offsets and importances have no norm.
    """

    @configurable
    def __init__(self, input_shape: dict[str, ShapeSpec], *, offset_groups: int = 8, **kwargs: Any):
        super().__init__(input_shape, **kwargs)
        conv_dim, norm = self.conv_dim, self.norm
        if conv_dim % offset_groups:
            raise ValueError(f"{conv_dim} channels cannot be divided among {offset_groups} groups")
        for number, channels in enumerate(self.in_channels[:-1], start=1):
            self.add_module(f"adapter_{number}", FeatureSelection(channels, conv_dim, norm))
            self.add_module(f"align_{number}", FeatureAlignment(conv_dim, norm, offset_groups))

    def merge(self, number: int, x: Tensor, above: Tensor) -> Tensor:
        """See `BasePixelDecoder.merge`."""
        fine = getattr(self, f"adapter_{number}")(x)
        upsampled = F.interpolate(above, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return fine + getattr(self, f"align_{number}")(fine, upsampled)
