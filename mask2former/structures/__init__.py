"""What the other rooms hand to each other: masks and classes."""

from mask2former_runtime.classes import Classes, Color

from .packed_masks import PackedMasks

__all__ = ["Classes", "Color", "PackedMasks"]
