"""Pixel decoders: from backbone features to mask features and multi-scale maps."""

from .msdeformattn import MSDeformAttnPixelDecoder

__all__ = ["MSDeformAttnPixelDecoder"]
