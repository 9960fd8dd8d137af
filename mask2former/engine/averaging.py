"""An exponential moving average of the weights, which often predicts better than they do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint import WeightsError


class WeightAverage:
    """The moving average of all floating-point parameters and buffers of a model.

    After step n, counted from 0, an averaged value is ``d * average + (1 - d) * value`` with
    ``d = min(decay, (1 + n) / (10 + n))``: the first steps, far from the end, are soon forgotten.

    The average starts at the weights that the model has when it is first used. In several
    processes each has its own, and all are the same as the weights are.

    Args:
        model: the model, not wrapped for several processes.
        decay: above 0 and below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model = model
        self._decay = decay
        self._values: dict[str, Tensor] = {}
        self._steps = 0

    @property
    def started(self) -> bool:
        """Whether there is an average yet."""
        return bool(self._values)

    def start(self) -> None:
        """Start at the present weights, unless the average has started or was loaded."""
        if not self.started:
            self._values = {name: value.clone() for name, value in self._current().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights into the average."""
        self.start()
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        for name, value in self._current().items():
            self._values[name].lerp_(value, 1 - decay)
        self._steps += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model have the averaged weights within the block."""
        self.start()
        kept = {name: value.clone() for name, value in self._current().items()}
        self._copy(self._values)
        try:
            yield
        finally:
            self._copy(kept)

    def state_dict(self) -> dict[str, Any]:
        """Return the average and the number of steps in it."""
        self.start()
        return {"steps": self._steps, "values": dict(self._values)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the result of `state_dict`.

        Raises:
            WeightsError: it is of another model.
        """
        current, values = self._current(), state["values"]
        if {k: v.shape for k, v in values.items()} != {k: v.shape for k, v in current.items()}:
            raise WeightsError("the averaged weights of the checkpoint are those of another model")
        self._values = {name: values[name].to(value).clone() for name, value in current.items()}
        self._steps = int(state["steps"])

    def _current(self) -> dict[str, Tensor]:
        state = self._model.state_dict()
        return {name: value for name, value in state.items() if value.is_floating_point()}

    @torch.no_grad()
    def _copy(self, values: Mapping[str, Tensor]) -> None:
        for name, value in self._current().items():
            value.copy_(values[name])
