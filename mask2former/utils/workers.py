"""Signals in the worker processes of data loaders."""

from __future__ import annotations

import signal
from types import FrameType


def leave_signals_to_main_process(_worker_id: int) -> None:
    """Let a data loading worker outlive the first SIGTERM and every Ctrl-C.

    Schedulers and terminals signal all processes of a run at once. The main process ends its
    workers when it has saved. Torch's own handler would end a worker, and so fail the main process.
    This is a `worker_init_fn` of ``DataLoader``.
    """

    def leave_once(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, leave_once)
