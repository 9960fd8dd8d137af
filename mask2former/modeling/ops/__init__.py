"""Multi-scale deformable attention."""

from .ms_deform_attn import ms_deform_attn, ms_deform_attn_projected, reference_points

__all__ = ["ms_deform_attn", "ms_deform_attn_projected", "reference_points"]
