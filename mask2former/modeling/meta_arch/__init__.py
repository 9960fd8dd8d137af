"""Meta-architectures and heads."""

from .mask_former import MaskFormer
from .mask_former_head import MaskFormerHead
from .per_pixel_baseline import PerPixelBaselineHead, PerPixelBaselinePlusHead

__all__ = ["MaskFormer", "MaskFormerHead", "PerPixelBaselineHead", "PerPixelBaselinePlusHead"]
