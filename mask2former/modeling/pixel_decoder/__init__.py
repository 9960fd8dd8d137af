"""Pixel decoders: from backbone features to mask features and multi-scale maps."""

from .base import PixelDecoder, build_pixel_decoder
from .bifpn import BiFPNPixelDecoder
from .fapn import FaPNPixelDecoder
from .fpn import BasePixelDecoder, TransformerEncoderPixelDecoder
from .msdeformattn import MSDeformAttnPixelDecoder
from .projection import ProjectionPixelDecoder
from .semantic_fpn import SemanticFPNPixelDecoder

__all__ = [
    "BasePixelDecoder",
    "BiFPNPixelDecoder",
    "FaPNPixelDecoder",
    "MSDeformAttnPixelDecoder",
    "PixelDecoder",
    "ProjectionPixelDecoder",
    "SemanticFPNPixelDecoder",
    "TransformerEncoderPixelDecoder",
    "build_pixel_decoder",
]
