"""Computing a step again, watching where numbers stop being finite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from .bad_step import BadStep
from .optimizer import total_norm
from .train_loop import TrainLoop
from .trainer import Trainer


@dataclass(eq=False)
class Layer:
    """What went through one layer, called once or more.

    Attributes:
        name: of the module.
        kind: its class.
        output: the largest magnitude of its outputs; NaN if one is NaN.
        gradient: that of the gradients of its outputs, or None if none arrived.
    """

    name: str
    kind: str
    output: float = 0.0
    gradient: float | None = None


@dataclass
class Replay:
    """What a step gave.

    Attributes:
        losses: by name; none if the step ended in the middle of the model.
        error: what ended the step in the middle, or "".
        norm: of the gradient, NaN if the step ended before it was complete.
        parameters: those that were not finite before the step.
        statistics: buffers, as of batch normalisations, that are not finite after it.
        layers: in the order in which they gave their first output.
        bad_output: the first layer whose output is not finite.
        bad_gradient: the first layer, from the losses on, the gradient of whose output is not.
        bad_parameters: the parameters whose gradients are not finite, from the losses on.
    """

    losses: dict[str, float] = field(default_factory=dict)
    error: str = ""
    norm: float = float("nan")
    parameters: list[str] = field(default_factory=list)
    statistics: list[str] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    bad_output: Layer | None = None
    bad_gradient: Layer | None = None
    bad_parameters: list[str] = field(default_factory=list)


def replay(step: BadStep, cfg: CfgNode) -> Replay:
    """Compute the losses and the gradients of a step exactly as the run did.

    On the same machine, the numbers are the same bit for bit, if the run was in one process.

    Args:
        step: what the run has kept.
        cfg: the run's config.
    """
    torch.set_num_threads(step.threads)
    model = Trainer.build_model(cfg)
    model.load_state_dict(step.weights)
    loop = TrainLoop.from_config(
        cfg,
        model,
        step.batches,
        torch.optim.SGD(model.parameters(), lr=0.0),
        seed=step.seed,
        rank=step.rank,
    )
    loop.grad_scaler = torch.amp.GradScaler(
        loop.device_type, init_scale=step.scale, enabled=loop.grad_scaler.is_enabled()
    )
    loop.iter = step.iteration
    found = Replay(parameters=[name for name, p in model.named_parameters() if not _finite(p)])
    with EventStorage(step.iteration), _watched(model, found):
        try:
            losses = loop.compute_gradients()
        except FloatingPointError as error:
            found.error = str(error)
            return found
    found.statistics = [
        name for name, b in model.named_buffers() if b.is_floating_point() and not _finite(b)
    ]
    found.losses = {name: loss.item() for name, loss in losses.items()}
    found.norm = total_norm([*model.parameters()]).item() / loop.grad_scaler.get_scale()
    return found


@contextmanager
def _watched(model: nn.Module, found: Replay) -> Iterator[None]:
    """Note in `found` what goes through the layers of a model."""
    handles: list[Any] = []
    layers = {name: Layer(name, type(m).__name__) for name, m in model.named_modules() if name}

    def note_gradient(layer: Layer, gradient: Tensor) -> None:
        layer.gradient = _larger(layer.gradient, gradient)
        if found.bad_gradient is None and not _finite(gradient):
            found.bad_gradient = layer

    def note_output(layer: Layer, inputs: Any, output: Any) -> None:
        tensors = list(_tensors(output))
        if not tensors:
            return
        if layer not in found.layers:
            found.layers.append(layer)
        for tensor in tensors:
            layer.output = _larger(layer.output, tensor)
            if tensor.requires_grad:
                tensor.register_hook(lambda gradient: note_gradient(layer, gradient))
        if found.bad_output is None and not all(map(_finite, tensors)):
            # Detectron2's Conv2d contains its norm: if no layer gave what the norm got, the
            # convolution itself is what failed.
            outer = None if all(map(_finite, _tensors(inputs))) else layers.get(_outer(layer))
            found.bad_output = outer or layer

    def note_parameter(name: str, parameter: Tensor) -> None:
        if parameter.grad is not None and not _finite(parameter.grad):
            found.bad_parameters.append(name)

    for name, module in model.named_modules():
        if name:
            handles.append(
                module.register_forward_hook(
                    lambda _, inputs, output, layer=layers[name]: note_output(layer, inputs, output)
                )
            )
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            handles.append(
                parameter.register_post_accumulate_grad_hook(
                    lambda parameter, name=name: note_parameter(name, parameter)
                )
            )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _outer(layer: Layer) -> str:
    return layer.name.rpartition(".")[0]


def _finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())


def _larger(before: float | None, tensor: Tensor) -> float:
    """Return the larger magnitude; NaN wins."""
    now = tensor.detach().abs().max().item() if tensor.numel() else 0.0
    if before is None or now != now:
        return now
    return before if before != before or before > now else now


def _tensors(output: Any) -> Iterator[Tensor]:
    """Yield the tensors of floating-point numbers in nested containers."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)
