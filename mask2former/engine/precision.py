"""The precision of training."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode


def amp_precision(cfg: CfgNode) -> torch.dtype | None:
    """Return the dtype of autocast for ``SOLVER.AMP.ENABLED``: float16 on CUDA, else bfloat16."""
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    return torch.float16 if torch.device(cfg.MODEL.DEVICE).type == "cuda" else torch.bfloat16


def autocast(cfg: CfgNode) -> torch.autocast:
    """Return the context of training's precision."""
    precision = amp_precision(cfg)
    kind = torch.device(cfg.MODEL.DEVICE).type
    return torch.autocast(kind, dtype=precision, enabled=precision is not None)
