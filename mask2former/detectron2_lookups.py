"""Lets Detectron2's own trainer, loaders and solver understand the configs of this package.

Detectron2 has registries for models and data sets, but none for ways to clip gradients nor for
mappers: those it looks up by name in two of its modules. `extend` puts functions there that answer
for this package's configs, and pass everything else on to what was there before.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build as data_build
from detectron2.solver import build as solver_build

_OURS = "MaskFormer"  # the registered meta architecture


def extend() -> None:
    """Let Detectron2 find "full_model" clipping and the mapper that a config names.

    So ``DefaultTrainer(cfg)``, ``build_optimizer(cfg, model)`` and
    ``build_detection_train_loader(cfg)`` of Detectron2 take a config of this package. Configs of
    other models behave as before, and so does a mapper that is given explicitly.
    """
    add_clipping = solver_build.maybe_add_gradient_clipping
    default_mapper = data_build.DatasetMapper

    def maybe_add_gradient_clipping(cfg: CfgNode, optimizer: Any) -> Any:
        clip = cfg.SOLVER.CLIP_GRADIENTS
        if not clip.ENABLED or clip.CLIP_TYPE != "full_model":
            return add_clipping(cfg, optimizer)
        from .engine.optimizer import Clipping, with_clipping  # the engine is slow to import

        clipping = Clipping(clip.CLIP_TYPE, clip.CLIP_VALUE, clip.NORM_TYPE)
        if not isinstance(optimizer, torch.optim.Optimizer):
            return with_clipping(optimizer, clipping)
        optimizer.__class__ = with_clipping(type(optimizer), clipping)
        return optimizer

    def mapper(*args: Any, **kwargs: Any) -> Any:
        cfg = args[0] if args else None
        if isinstance(cfg, CfgNode) and cfg.MODEL.META_ARCHITECTURE == _OURS:
            from .data.mapper import build_mapper

            return build_mapper(*args, **kwargs)
        return default_mapper(*args, **kwargs)

    solver_build.maybe_add_gradient_clipping = maybe_add_gradient_clipping
    data_build.DatasetMapper = mapper
