"""Checks of the state that a run takes from a checkpoint, before anything uses it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..utils.schema import shown


def checked_run(state: Any, hooks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Check what a trainer and its hooks are to take from a file.

    Args:
        state: like the result of a trainer's ``state_dict``.
        hooks: the present states of the hooks by class. Those of schedules and of early stopping
            must have their form; others check their states themselves.

    Returns:
        The state, of whose schedule the keys are left that it has: it would take any attribute, and
        those of other versions of PyTorch differ.

    Raises:
        ValueError: a value is of another type, or a list has another length.
    """
    if not isinstance(state, Mapping) or not isinstance(state.get("hooks", {}), Mapping):
        raise ValueError(f"its state is {shown(state)}")
    iteration = state.get("iteration")
    if type(iteration) is not int or not 0 <= iteration < 2**63:
        raise ValueError(f"its iteration is {shown(iteration)}")
    found = dict(state.get("hooks", {}))
    for name in ("LRScheduler", "Evaluate"):
        own = hooks.get(name)
        if own is None or name not in found:
            continue
        if name == "LRScheduler" and isinstance(found[name], Mapping):
            found[name] = {key: found[name][key] for key in own.keys() & found[name].keys()}
            own = {key: own[key] for key in found[name]}
        if not _has_form(found[name], own):
            raise ValueError(f"its {name} has the state {shown(found[name])}, unlike {shown(own)}")
    return {**state, "hooks": found}


def _has_form(found: Any, own: Any) -> bool:
    if isinstance(own, Mapping):
        same_keys = isinstance(found, Mapping) and found.keys() == own.keys()
        return same_keys and all(_has_form(found[key], own[key]) for key in own)
    if isinstance(own, (list, tuple)):
        same_length = isinstance(found, (list, tuple)) and len(found) == len(own)
        return same_length and all(map(_has_form, found, own))
    if isinstance(own, (int, float)) and not isinstance(own, bool):
        return isinstance(found, (int, float)) and not math.isnan(found)
    return own is None or type(found) is type(own)


def check_optimizer(optimizer: torch.optim.Optimizer, content: Any) -> None:
    """Check what an optimizer is to take from a file.

    Args:
        optimizer: that will take it.
        content: like the result of its ``state_dict``.

    Raises:
        ValueError: a value has another shape than its parameter, or is no finite number.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    try:
        numbers = [number for group in content["param_groups"] for number in group["params"]]
        groups = [dict(group) for group in content["param_groups"]]
        states = [dict(content["state"].get(number, {})) for number in numbers]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its optimizer has a state of another form ({error!r})") from error
    for group in groups:
        for key in ("lr", "initial_lr", "weight_decay", "momentum", "eps", "betas"):
            values = group.get(key, 0.0)
            for value in values if isinstance(values, (tuple, list)) else [values]:
                if type(value) not in (int, float) or not math.isfinite(value):
                    raise ValueError(f"its optimizer has {key} {shown(values)}")
    for i, (state, parameter) in enumerate(zip(states, parameters, strict=False)):
        for key, value in state.items():
            if value is None:  # a momentum before the first step
                continue
            shape = torch.Size() if key == "step" else parameter.shape
            if not isinstance(value, Tensor) or value.shape != shape:
                found = list(value.shape) if isinstance(value, Tensor) else shown(value)
                raise ValueError(
                    f"its optimizer has {key} {found} for parameter {i}, not {list(shape)}"
                )
            if not value.isfinite().all():
                raise ValueError(f"its optimizer has {key} with NaN or infinite values")
