"""Containers of targets."""

from .packed_masks import PackedMasks

__all__ = ["PackedMasks"]
