"""Drawing instances, panoptic segments and semantic maps on images."""

from mask2former_runtime.drawing.colors import Color, palette_color, shade
from mask2former_runtime.drawing.instances import draw_instances
from mask2former_runtime.drawing.regions import draw_panoptic, draw_semantic

__all__ = ["Color", "draw_instances", "draw_panoptic", "draw_semantic", "palette_color", "shade"]
