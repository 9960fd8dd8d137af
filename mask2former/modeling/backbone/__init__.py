"""Backbones that Detectron2 does not have."""

from .swin import D2SwinTransformer

__all__ = ["D2SwinTransformer"]
