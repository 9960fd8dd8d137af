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

from .pixel_decoder.base import PixelDecoder
from .transformer_decoder import TRANSFORMER_DECODER_REGISTRY

# The two architectures need heads with different outputs. Others are those of users.
_HEADS = {
    "MaskFormer": ("MaskFormerHead", "EncoderOnlyHead"),
    "SemanticSegmentor": ("SemSegFPNHead", "PerPixelBaselineHead", "PerPixelBaselinePlusHead"),
}
# Of Detectron2, which has assertions where MODEL.FPN.IN_FEATURES is wrong: it is empty by default.
_PYRAMIDS = ("build_resnet_fpn_backbone", "build_retinanet_resnet_fpn_backbone")


def check_names(cfg: CfgNode) -> None:
    """Check the names of a model's parts before it is built.

    Raises:
        ValueError: nothing is registered under one of them, and the message names the most similar
            one; the head does not go with the architecture; or a feature pyramid lacks features.
    """
    model = cfg.MODEL
    named = [
        ("META_ARCHITECTURE", model.META_ARCHITECTURE, META_ARCH_REGISTRY),
        ("BACKBONE.NAME", model.BACKBONE.NAME, BACKBONE_REGISTRY),
    ]
    if model.META_ARCHITECTURE == "MaskFormer":
        head = model.SEM_SEG_HEAD
        decoder = model.MASK_FORMER.TRANSFORMER_DECODER_NAME
        named += [
            ("SEM_SEG_HEAD.NAME", head.NAME, SEM_SEG_HEADS_REGISTRY),
            ("SEM_SEG_HEAD.PIXEL_DECODER_NAME", head.PIXEL_DECODER_NAME, SEM_SEG_HEADS_REGISTRY),
            ("MASK_FORMER.TRANSFORMER_DECODER_NAME", decoder, TRANSFORMER_DECODER_REGISTRY),
        ]
    problems = []
    for key, name, registry in named:
        known = [registered for registered, _ in registry]
        if name not in known:
            similar = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {similar[0]}?" if similar else ""
            problems.append(f"MODEL.{key} is {name!r}, which nothing is registered as{hint}")
    if not problems and (problem := _wrong_head(model.META_ARCHITECTURE, model.SEM_SEG_HEAD.NAME)):
        problems.append(problem)
    if problem := _wrong_pyramid(model):
        problems.append(problem)
    if problems:
        raise ValueError("\n".join(problems))


def _wrong_head(architecture: str, head: str) -> str:
    """Return why a head does not go with an architecture, or ""."""
    if architecture not in _HEADS:
        return ""
    for wanted, heads in _HEADS.items():
        if head in heads and wanted != architecture:
            return (
                f"MODEL.SEM_SEG_HEAD.NAME {head} needs MODEL.META_ARCHITECTURE {wanted}, not "
                f"{architecture}"
            )
    registered = dict(SEM_SEG_HEADS_REGISTRY).get(head)
    if isinstance(registered, type) and issubclass(registered, PixelDecoder):
        return (
            f"MODEL.SEM_SEG_HEAD.NAME is {head}, a pixel decoder: set it to MaskFormerHead, and "
            f"MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME to {head}"
        )
    return ""


def _wrong_pyramid(model: CfgNode) -> str:
    """Return why Detectron2's pyramid cannot be built on its ResNet, or ""."""
    features, given = list(model.FPN.IN_FEATURES), list(model.RESNETS.OUT_FEATURES)
    dilated = model.RESNETS.RES5_DILATION > 1  # then res5 is as large as res4
    stages = ["res2", "res3", "res4", "res5"]
    chains = [stages[:3], stages[3:]] if dilated else [stages]
    parts = [chain[i : i + len(features)] for chain in chains for i in range(len(chain))]
    if model.BACKBONE.NAME not in _PYRAMIDS or (
        features and features in parts and set(features) <= set(given)
    ):
        return ""
    of_sizes = " (with RES5_DILATION above 1, res5 is as large as res4)" if dilated else ""
    return (
        f"MODEL.FPN.IN_FEATURES is {features}, but {model.BACKBONE.NAME} needs one or more of "
        f"MODEL.RESNETS.OUT_FEATURES, {given}, each half as large as the one before{of_sizes}"
    )


def check_encoder(cfg: CfgNode) -> None:
    """Check the keys ``MODEL.TIMM`` of a model before it is built, by an encoder without memory.

    Raises:
        ValueError: timm does not have such an encoder, or it does not suit the keys.
        ImportError: timm is not installed.
    """
    if cfg.MODEL.BACKBONE.NAME == "TimmBackbone":
        with torch.device("meta"):
            build_backbone(cfg)
