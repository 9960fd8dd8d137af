"""Sine position encoding of images (DETR, arXiv 2005.12872, appendix A.4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine_position_encoding(
    height: int,
    width: int,
    channels: int,
    device: torch.device | str | None = None,
    temperature: float = 10000.0,
) -> Tensor:
    """Encode pixel positions, scaled to (0, 2 pi], by sines of geometrically decreasing frequency.

    Args:
        height: rows of the map.
        width: columns of the map.
        channels: a multiple of 4; the first half encodes y, the second x, sine and cosine in turn.
        device: of the result.
        temperature: the longest wavelength over the shortest.

    Returns:
        (channels, height, width), float32.
    """
    if channels % 4:
        raise ValueError(f"position encoding needs a multiple of 4 channels, got {channels}")
    half = channels // 2
    frequencies = temperature ** (-torch.arange(0, half, 2, device=device).float() / half)

    def encode(size: int) -> Tensor:  # (size, half)
        # 1e-6 as in the published code: its checkpoints were trained with it
        position = torch.arange(1, size + 1, device=device).float() / (size + 1e-6) * 2 * math.pi
        angle = position[:, None] * frequencies
        return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)

    y = encode(height).T[:, :, None].expand(-1, -1, width)
    x = encode(width).T[:, None, :].expand(-1, height, -1)
    return torch.cat((y, x))
