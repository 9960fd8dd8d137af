"""Multi-scale deformable attention."""

from .ms_deform_attn import ms_deform_attn, reference_points

__all__ = ["ms_deform_attn", "reference_points"]
