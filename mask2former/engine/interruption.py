"""Stopping a training run on SIGTERM or Ctrl-C without losing its progress."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm

from ..checkpoint import Checkpointer

SIGNALS = (signal.SIGINT, signal.SIGTERM)

logger = logging.getLogger(__name__)


class _Request:
    """The signal that asked this process to stop, and whether an iteration is running."""

    received: int = 0
    in_iteration: bool = False


_request = _Request()


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C save a checkpoint after the current iteration and end the process.

    The exit status is 128 plus the signal's number: 143 after SIGTERM and 130 after Ctrl-C. Where
    no iteration is running, such as during an evaluation, the process ends without delay. A second
    signal always ends it at once, without a new checkpoint.
    """
    owner = os.getpid()

    def handle(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a data loading worker: the main process will end it
            return
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        _request.received = number
        name = signal.Signals(number).name
        if _request.in_iteration or comm.get_world_size() > 1:
            logger.warning("%s: saving after this iteration; a second signal ends at once", name)
        else:
            raise SystemExit(128 + number)

    previous = {number: signal.signal(number, handle) for number in SIGNALS}
    _request.received, _request.in_iteration = 0, False
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class SaveAndStop(HookBase):
    """Saves and ends a run that a signal has asked to stop: see `stop_on_signals`.

    It comes before the evaluation and after the schedule and the periodic checkpoints.

    Args:
        checkpointer: saves in the main process.
        period: iterations between the periodic checkpoints.
        device: where the processes exchange that one of them has received a signal.
    """

    def __init__(self, checkpointer: Checkpointer, period: int, device: str) -> None:
        self._checkpointer = checkpointer
        self._period = period
        self._device = device
        self._saved = True

    def before_step(self) -> None:
        """Note that the weights are about to change."""
        _request.in_iteration = True

    def after_step(self) -> None:
        """Note that the iteration is complete; stop if a signal has come."""
        _request.in_iteration = False
        done = self.trainer.iter + 1
        self._saved = done % self._period == 0 or done == self.trainer.max_iter
        number = _request.received
        if comm.get_world_size() > 1:
            shared = torch.tensor(number, device=self._device)
            dist.all_reduce(shared, dist.ReduceOp.MAX)
            number = int(shared)
        if number:
            raise SystemExit(128 + number)

    def after_train(self) -> None:
        """Save what a stop would lose, and do not evaluate after a stop or a failed write."""
        error = sys.exc_info()[1]
        if isinstance(error, SystemExit) and not self._saved and not _request.in_iteration:
            if comm.is_main_process():
                name = f"model_{self.trainer.iter:07d}"
                self._checkpointer.save(name, iteration=self.trainer.iter)
            logger.info("Stopped; continue with --resume")
        if isinstance(error, SystemExit | OSError):
            raise error
