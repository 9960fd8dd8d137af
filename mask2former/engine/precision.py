"""The precision of training, and of evaluations that follow it."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode

from ..utils.device import choose_precision


def amp_precision(cfg: CfgNode) -> torch.dtype | None:
    """Return the dtype of autocast for ``SOLVER.AMP.ENABLED``: float16 on CUDA, else bfloat16."""
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    return torch.float16 if torch.device(cfg.MODEL.DEVICE).type == "cuda" else torch.bfloat16


def set_precision(cfg: CfgNode, wanted: str) -> None:
    """Set ``SOLVER.AMP.ENABLED`` for an evaluation in a precision; see `choose_precision`.

    Raises:
        ValueError: the device cannot compute with it, or evaluations on it do not.
    """
    chosen = choose_precision(wanted, torch.device(cfg.MODEL.DEVICE))
    cfg.SOLVER.AMP.ENABLED = chosen is not None
    mixed = amp_precision(cfg)
    if chosen != mixed:
        raise ValueError(f"precision {wanted}: evaluations on {cfg.MODEL.DEVICE} have fp32 or fp16")


def autocast(cfg: CfgNode) -> torch.autocast:
    """Return the context of training's precision."""
    precision = amp_precision(cfg)
    kind = torch.device(cfg.MODEL.DEVICE).type
    return torch.autocast(kind, dtype=precision, enabled=precision is not None)
