"""Drawing instances, panoptic segments and semantic maps on images."""

from .colors import Color, palette_color, shade
from .instances import draw_instances
from .regions import draw_panoptic, draw_semantic

__all__ = ["Color", "draw_instances", "draw_panoptic", "draw_semantic", "palette_color", "shade"]
