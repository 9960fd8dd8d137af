"""Transformer decoders: from multi-scale maps to class and mask predictions of queries."""

from .mask2former_decoder import MultiScaleMaskedTransformerDecoder
from .registry import TRANSFORMER_DECODER_REGISTRY

__all__ = ["TRANSFORMER_DECODER_REGISTRY", "MultiScaleMaskedTransformerDecoder"]
