"""Backbones that Detectron2 does not have."""

from .encoder_only import EncoderOnlyBackbone
from .swin import D2SwinTransformer
from .timm_backbone import TimmBackbone

__all__ = ["D2SwinTransformer", "EncoderOnlyBackbone", "TimmBackbone"]
