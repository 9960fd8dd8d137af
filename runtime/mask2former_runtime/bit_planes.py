"""Masks at one bit per pixel.

Shapes:
    N: masks, H, W: height and width. Planes are (ceil(N / 8), H, W), uint8: mask n is bit n % 8 of
    plane n // 8.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def pack(masks: Iterable[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Pack masks (H, W), bool, as they come; only one of them is held at a time.

    Args:
        masks: N masks.
        size: (H, W), also if there are no masks.
    """
    planes: list[np.ndarray] = []
    for n, mask in enumerate(masks):
        if n % 8 == 0:
            planes.append(np.zeros(size, np.uint8))
        planes[-1] |= mask.view(np.uint8) << np.uint8(n % 8)
    return np.stack(planes) if planes else np.zeros((0, *size), np.uint8)


def unpack(planes: np.ndarray, n: int) -> np.ndarray:
    """Return mask n: (H, W), bool."""
    return (planes[n // 8] & np.uint8(1 << n % 8)) != 0
