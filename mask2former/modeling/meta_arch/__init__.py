"""Meta-architectures and heads."""

from .mask_former import MaskFormer
from .mask_former_head import MaskFormerHead

__all__ = ["MaskFormer", "MaskFormerHead"]
