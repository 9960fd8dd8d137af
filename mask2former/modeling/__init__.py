"""The model. Importing this registers every part with Detectron2."""

from .backbone import D2SwinTransformer, EncoderOnlyBackbone, TimmBackbone
from .criterion import SetCriterion
from .matcher import HungarianMatcher
from .meta_arch import (
    MaskFormer,
    MaskFormerHead,
    PerPixelBaselineHead,
    PerPixelBaselinePlusHead,
)
from .pixel_decoder import (
    BasePixelDecoder,
    BiFPNPixelDecoder,
    FaPNPixelDecoder,
    MSDeformAttnPixelDecoder,
    ProjectionPixelDecoder,
    SemanticFPNPixelDecoder,
    TransformerEncoderPixelDecoder,
)
from .transformer_decoder import (
    TRANSFORMER_DECODER_REGISTRY,
    EncoderOnlyHead,
    MultiScaleMaskedTransformerDecoder,
    StandardTransformerDecoder,
)

__all__ = [
    "TRANSFORMER_DECODER_REGISTRY",
    "BasePixelDecoder",
    "BiFPNPixelDecoder",
    "D2SwinTransformer",
    "EncoderOnlyBackbone",
    "EncoderOnlyHead",
    "FaPNPixelDecoder",
    "HungarianMatcher",
    "MSDeformAttnPixelDecoder",
    "MaskFormer",
    "MaskFormerHead",
    "MultiScaleMaskedTransformerDecoder",
    "PerPixelBaselineHead",
    "PerPixelBaselinePlusHead",
    "ProjectionPixelDecoder",
    "SemanticFPNPixelDecoder",
    "SetCriterion",
    "StandardTransformerDecoder",
    "TimmBackbone",
    "TransformerEncoderPixelDecoder",
]
