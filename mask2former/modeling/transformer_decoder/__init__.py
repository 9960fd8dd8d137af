"""Transformer decoders: from pixel decoders' maps to class and mask predictions of queries."""

from .encoder_only import EncoderOnlyHead
from .mask2former_decoder import MultiScaleMaskedTransformerDecoder
from .registry import TRANSFORMER_DECODER_REGISTRY
from .standard_decoder import StandardTransformerDecoder

__all__ = [
    "TRANSFORMER_DECODER_REGISTRY",
    "EncoderOnlyHead",
    "MultiScaleMaskedTransformerDecoder",
    "StandardTransformerDecoder",
]
