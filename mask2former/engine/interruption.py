"""Stopping a training run on SIGTERM or Ctrl-C without losing its progress."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
import torch.distributed as dist
from detectron2.utils import comm

SIGNALS = (signal.SIGINT, signal.SIGTERM)

logger = logging.getLogger(__name__)


class _Request:
    """The signal that asked this process to stop, and what that did.

    Attributes:
        received: the signal, or 0.
        in_iteration: an iteration is running, after which a signal is obeyed.
        raised: `SystemExit` was raised at once, wherever the process was.
    """

    received: int = 0
    in_iteration: bool = False
    raised: bool = False


request = _Request()


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
        request.received = number
        name = signal.Signals(number).name
        if request.in_iteration or comm.get_world_size() > 1:
            logger.warning("%s: saving after this iteration; a second signal ends at once", name)
        else:
            request.raised = True
            raise SystemExit(128 + number)

    previous = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    except BaseException as error:
        # Other packages may turn the exception of the handler into one of theirs.
        if request.raised and not isinstance(error, OSError):
            raise SystemExit(128 + request.received) from None
        raise
    finally:
        request.received, request.in_iteration, request.raised = 0, False, False
        for number, handler in previous.items():
            signal.signal(number, handler)


def requested_signal(device: str) -> int:
    """Return the signal that one of the processes has received, or 0.

    Args:
        device: where the processes exchange it.
    """
    if comm.get_world_size() == 1:
        return request.received
    shared = torch.tensor(request.received, device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return int(shared)
