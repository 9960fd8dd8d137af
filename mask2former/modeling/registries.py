"""Whether the parts that a config names are there."""

from __future__ import annotations

import difflib

import torch
from detectron2.config import CfgNode
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    build_backbone,
)

from .transformer_decoder import TRANSFORMER_DECODER_REGISTRY

# Those of Detectron2 and of this package; what a head returns differs.
_HEADS = {
    "MaskFormer": ("MaskFormerHead",),
    "SemanticSegmentor": ("SemSegFPNHead", "PerPixelBaselineHead", "PerPixelBaselinePlusHead"),
}


def check_names(cfg: CfgNode) -> None:
    """Check the names of a model's parts before it is built.

    Raises:
        ValueError: nothing is registered under one of them; the message names the most similar one.
            Or they do not go together.
    """
    model = cfg.MODEL
    named = [
        ("META_ARCHITECTURE", model.META_ARCHITECTURE, META_ARCH_REGISTRY),
        ("BACKBONE.NAME", model.BACKBONE.NAME, BACKBONE_REGISTRY),
    ]
    if model.META_ARCHITECTURE == "MaskFormer":
        parts = model.SEM_SEG_HEAD
        decoder = model.MASK_FORMER.TRANSFORMER_DECODER_NAME
        named += [
            ("SEM_SEG_HEAD.NAME", parts.NAME, SEM_SEG_HEADS_REGISTRY),
            ("SEM_SEG_HEAD.PIXEL_DECODER_NAME", parts.PIXEL_DECODER_NAME, SEM_SEG_HEADS_REGISTRY),
            ("MASK_FORMER.TRANSFORMER_DECODER_NAME", decoder, TRANSFORMER_DECODER_REGISTRY),
        ]
    problems = []
    for key, name, registry in named:
        known = [registered for registered, _ in registry]
        if name not in known:
            similar = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {similar[0]}?" if similar else ""
            problems.append(f"MODEL.{key} is {name!r}, which nothing is registered as{hint}")
    head_name = model.SEM_SEG_HEAD.NAME
    wanted = next(
        (architecture for architecture, heads in _HEADS.items() if head_name in heads), ""
    )
    if {wanted, model.META_ARCHITECTURE} == set(_HEADS):
        problems.append(
            f"MODEL.SEM_SEG_HEAD.NAME {head_name} needs MODEL.META_ARCHITECTURE {wanted}, not "
            f"{model.META_ARCHITECTURE}"
        )
    if problems:
        raise ValueError("\n".join(problems))


def check_encoder(cfg: CfgNode) -> None:
    """Check the keys ``MODEL.TIMM`` of a model before it is built, by an encoder without memory.

    Raises:
        ValueError: timm does not have such an encoder, or it does not suit the keys.
        ImportError: timm is not installed.
    """
    if cfg.MODEL.BACKBONE.NAME == "TimmBackbone":
        with torch.device("meta"):
            build_backbone(cfg)
