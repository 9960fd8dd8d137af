"""Layers of timm's encoders as this project needs them, and their exchange."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..draws import rand


def draw_per_image(net: nn.Module) -> None:
    """Replace timm's stochastic depth, which draws for a batch, in place."""
    from timm.layers import DropPath as TimmDropPath

    _replace(net, TimmDropPath, lambda module: DropPath(module.drop_prob or 0.0))


def open_sizes(net: nn.Module) -> None:
    """Replace the layers of timm that a program for images of any size cannot have, in place.

    Images are padded to multiples of the largest stride, so each stride divides the sides of the
    maps that it is for.
    """
    from timm.layers import Conv2dSame, RotaryEmbeddingDinoV3

    _replace(net, Conv2dSame, PaddedConv2d)
    _replace(
        net, RotaryEmbeddingDinoV3, lambda rope: rope if rope.aug_active else PatchRotation(rope)
    )


def _replace(net: nn.Module, kind: type, make: Callable[[Any], nn.Module]) -> None:
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, kind):
                setattr(module, name, make(child))


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382) whose draws depend on the image alone.

    Args:
        probability: that a sample skips the branch in training, in [0, 1).
    """

    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, ...) to the same shape: each sample is set to zero or scaled up."""
        if not self.training or self.probability == 0:
            return x
        survival = 1 - self.probability
        kept = rand([1] * len(x), *(1,) * (x.dim() - 1), device=x.device) < survival
        return x * (kept / survival).to(x.dtype)


class PaddedConv2d(nn.Conv2d):
    """A convolution of timm with the padding "same", for maps whose sides its stride divides.

    The padding is then the same for all of them. timm computes it from the sides, and programs of
    open sizes with ever longer formulas of these take very long to trace.

    Args:
        conv: whose parameters it takes over.
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            dilation=conv.dilation,  # type: ignore[arg-type]
            groups=conv.groups,
            bias=conv.bias is not None,
            device="meta",
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.margins: list[int] = []  # left, right, top, bottom
        for i in (1, 0):
            reach = self.dilation[i] * (self.kernel_size[i] - 1) + 1
            both = max(0, reach - self.stride[i])
            self.margins += [both // 2, both - both // 2]

    def forward(self, x: Tensor) -> Tensor:
        """Pad and convolve (B, C, H, W)."""
        return super().forward(F.pad(x, self.margins))


class PatchRotation(nn.Module):
    """timm's rotary position embedding of DINOv3, for grids of any size in one program.

    timm makes Python numbers of the sizes, which a program then has as constants.

    Args:
        embedding: of which it computes the same, without timm's augmentation in training.
    """

    def __init__(self, embedding: Any):
        super().__init__()
        self.embedding = embedding

    def get_embed(self, shape: tuple[int, int]) -> Tensor:
        """Return the sines and cosines of each patch of a grid: (rows * columns, channels)."""
        periods = self.embedding.periods
        centres = [(torch.arange(n, device=periods.device) + 0.5) / n for n in shape]
        places = 2 * torch.stack(torch.meshgrid(*centres, indexing="ij"), -1).flatten(0, 1) - 1
        angles = (2 * math.pi * places[..., None] / periods).flatten(1)
        if self.embedding.rotate_half:
            angles = torch.cat((angles, angles), -1)
        else:
            angles = angles.repeat_interleave(2, -1)
        return torch.cat((angles.sin(), angles.cos()), -1)
