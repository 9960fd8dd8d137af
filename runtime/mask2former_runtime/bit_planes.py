"""Masks at one bit per pixel.

Shapes:
    N: masks, H, W: height and width. Planes are (ceil(N / 8), H, W), uint8: mask n is bit n % 8 of
    plane n // 8.
"""

from __future__ import annotations

import numpy as np


def empty(count: int, size: tuple[int, int]) -> np.ndarray:
    """Return the planes of `count` masks (H, W) without a pixel."""
    return np.zeros((-(-count // 8), *size), np.uint8)


def add(planes: np.ndarray, n: int, mask: np.ndarray, corner: tuple[int, int] = (0, 0)) -> None:
    """Add pixels to mask n.

    Args:
        planes: are written to.
        n: number of the mask.
        mask: bool, the mask or a part of it.
        corner: (row, column) of that part.
    """
    (top, left), (height, width) = corner, mask.shape
    part = planes[n // 8, top : top + height, left : left + width]
    part |= mask.view(np.uint8) << np.uint8(n % 8)


def unpack(planes: np.ndarray, n: int) -> np.ndarray:
    """Return mask n: (H, W), bool."""
    return (planes[n // 8] & np.uint8(1 << n % 8)) != 0
