"""The optimizer, with the parameter groups and the gradient clipping of Mask2Former."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..modeling.backbone import TimmBackbone

logger = logging.getLogger(__name__)

NORM_TYPES = (
    nn.modules.batchnorm._NormBase,  # batch, synchronised batch and instance normalisation
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)
# Parameters that are learned per position, token or channel, like embeddings and the weights of
# norms, but are not of such modules. The first two are Swin's, the others those of timm's models.
UNDECAYED_NAMES = (
    "relative_position_bias_table", "absolute_pos_embed",
    "pos_embed", "pos_embed_win", "cls_token", "reg_token", "gamma", "gamma_1", "gamma_2",
)  # fmt: skip


def param_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    weight_decay_norm: float,
    weight_decay_embed: float,
    backbone_multiplier: float,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Return trainable parameters, one group for each pair of learning rate and weight decay.

    Args:
        model: a module named ``backbone`` contains the backbone's parameters.
        lr: learning rate of everything but the backbone.
        weight_decay: weight decay of everything that is not named below.
        weight_decay_norm: weight decay of normalisation layers.
        weight_decay_embed: weight decay of ``nn.Embedding``.
        backbone_multiplier: the backbone's learning rate divided by ``lr``.
        layer_decay: the learning rate of a layer of the backbone divided by that of the next one.

    Returns:
        Groups for an optimizer of ``torch.optim``. Those of `UNDECAYED_NAMES` have no weight decay.

    Raises:
        ValueError: ``layer_decay`` is not 1 and the backbone does not number its layers.
    """
    layer_rates = {} if layer_decay == 1 else _layer_rates(model, layer_decay)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            rate, decay = lr, weight_decay
            if "backbone" in module_name.split("."):
                rate *= backbone_multiplier * layer_rates.get(parameter, 1.0)
            if name in UNDECAYED_NAMES:
                decay = 0.0
            elif isinstance(module, NORM_TYPES):
                decay = weight_decay_norm
            elif isinstance(module, nn.Embedding):
                decay = weight_decay_embed
            groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": params, "lr": rate, "weight_decay": decay}
        for (rate, decay), params in groups.items()
    ]


def _layer_rates(model: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    """Return the factor on the learning rate of each parameter of the backbone."""
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, TimmBackbone):
        raise ValueError(
            f"SOLVER.LAYER_DECAY {decay} needs MODEL.BACKBONE.NAME TimmBackbone; "
            f"{type(backbone).__name__} does not number its layers: set it to 1.0"
        )
    depths = backbone.depths()
    top = max(depths.values())
    return {p: decay ** (top - depths[name]) for name, p in backbone.named_parameters()}


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of ``SOLVER.OPTIMIZER`` ("ADAMW" or "SGD"), with gradient clipping.

    ``SOLVER.CLIP_GRADIENTS.CLIP_TYPE`` may be ``full_model`` (the norm of all gradients together,
    as published), or Detectron2's ``value`` or ``norm``. The clipping is part of ``step()``, so the
    optimizer works with any training loop.

    Raises:
        ValueError: the optimizer or the clip type is not known.
    """
    solver, clip = cfg.SOLVER, cfg.SOLVER.CLIP_GRADIENTS
    groups = param_groups(
        model,
        lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_embed=solver.WEIGHT_DECAY_EMBED,
        backbone_multiplier=solver.BACKBONE_MULTIPLIER,
        layer_decay=solver.LAYER_DECAY,
    )
    for group in groups:
        count = sum(p.numel() for p in group["params"])
        logger.info(
            "%.3fM parameters with lr %g, weight decay %g",
            count / 1e6,
            group["lr"],
            group["weight_decay"],
        )
    optimizers: dict[str, tuple[type[ClippedAdamW | ClippedSGD], dict[str, Any]]] = {
        # On a GPU, GradScaler would leave unscaling to the fused kernel, which runs after clipping.
        "ADAMW": (ClippedAdamW, {"fused": cfg.MODEL.DEVICE == "cpu"}),
        "SGD": (ClippedSGD, {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV}),
    }
    if solver.OPTIMIZER not in optimizers:
        raise ValueError(
            f"SOLVER.OPTIMIZER must be one of {sorted(optimizers)}, got '{solver.OPTIMIZER}'"
        )
    if clip.ENABLED and clip.CLIP_TYPE not in ("full_model", "value", "norm"):
        raise ValueError(
            "SOLVER.CLIP_GRADIENTS.CLIP_TYPE must be full_model, value or norm, "
            f"got '{clip.CLIP_TYPE}'"
        )
    cls, arguments = optimizers[solver.OPTIMIZER]
    optimizer = cls(groups, **arguments)
    if clip.ENABLED:
        optimizer.clipping = Clipping(clip.CLIP_TYPE, clip.CLIP_VALUE, clip.NORM_TYPE)
    return optimizer


class Clipping(NamedTuple):
    """How to clip gradients.

    Args:
        kind: "full_model" clips the norm of all gradients together, "norm" that of each tensor,
            "value" each number.
        limit: the largest norm or magnitude. "full_model" with a limit of 0 or less does not clip.
        norm_type: p of the norm.
    """

    kind: str
    limit: float
    norm_type: float = 2.0

    def apply(self, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Clip the gradients of the parameters in place.

        Returns:
            Two scalars: the norm of all gradients together before clipping, and what is compared
            with `limit`, which is the largest one of several.
        """
        if self.kind == "full_model" and self.limit > 0:
            norm = torch.nn.utils.clip_grad_norm_(parameters, self.limit, self.norm_type)
            return norm, norm
        norm = most = total_norm(parameters, self.norm_type)
        if self.kind == "value":
            most = total_norm(parameters, math.inf)
            torch.nn.utils.clip_grad_value_(parameters, self.limit)
        elif self.kind == "norm":
            norms = [
                torch.nn.utils.clip_grad_norm_(parameter, self.limit, self.norm_type)
                for parameter in parameters
            ]
            most = torch.stack(norms).max()
        return norm, most


def total_norm(parameters: Sequence[Tensor], norm_type: float = 2.0) -> Tensor:
    """Return the norm of the gradients of all parameters together, 0 without gradients."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    norms = [torch.linalg.vector_norm(gradient, norm_type) for gradient in gradients]
    return torch.linalg.vector_norm(torch.stack(norms), norm_type)


class GradientStatistics(NamedTuple):
    """Of one step, before clipping: the norm of all gradients together, and whether one clips."""

    norm: float
    clipped: bool


class _Clipped(torch.optim.Optimizer):
    """Clips the gradients at the beginning of ``step()``; a pickled copy does so too.

    Attributes:
        statistics: of the last step, or None before the first one.
    """

    clipping: Clipping | None = None
    statistics: GradientStatistics | None = None

    def step(self, closure: Any = None) -> Any:
        """Clip, then update the parameters.

        Raises:
            FloatingPointError: a gradient would make the parameters NaN. They stay as they are.
        """
        parameters = [p for group in self.param_groups for p in group["params"]]
        if self.clipping is None:
            norm = most = total_norm(parameters)
        else:
            norm, most = self.clipping.apply(parameters)
        found, largest = torch.stack([norm, most]).tolist()  # one synchronisation with a GPU
        bounded = self.clipping is not None and self.clipping.kind == "value"  # no infinity stays
        if math.isnan(found) or (math.isinf(found) and not bounded):
            raise FloatingPointError(f"the norm of the gradient is {found}")
        limit = math.inf if self.clipping is None else self.clipping.limit
        self.statistics = GradientStatistics(found, 0 < limit < largest)
        return super().step(closure)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "clipping": self.clipping}


class ClippedAdamW(_Clipped, torch.optim.AdamW):
    """``torch.optim.AdamW`` with gradient clipping."""


class ClippedSGD(_Clipped, torch.optim.SGD):
    """``torch.optim.SGD`` with gradient clipping."""


def with_clipping(
    optimizer: type[torch.optim.Optimizer], clipping: Clipping
) -> type[torch.optim.Optimizer]:
    """Return a subclass of an optimizer whose ``step()`` clips the gradients first."""
    return type(f"Clipped{optimizer.__name__}", (_Clipped, optimizer), {"clipping": clipping})
