"""Data loaders whose worker processes leave signals to the main process."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing.util import Finalize
from typing import Any

from torch.utils.data import DataLoader

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class SignalSafeLoader(DataLoader[Any]):
    """A data loader whose workers end when the main process ends them, and not before.

    Schedulers and terminals signal all processes of a run at once. Torch's own handler would end a
    worker then, which fails the main process before it has saved. Systems without ``sigwaitinfo``,
    such as macOS, keep torch's handler.

    Args:
        dataset: as for ``DataLoader``, and so are the `options`, without `worker_init_fn`.
    """

    def __init__(self, dataset: Any, **options: Any) -> None:
        super().__init__(dataset, worker_init_fn=_leave_signals_to_main_process, **options)

    def __iter__(self) -> Any:
        """Start the workers; signals that come meanwhile are handled afterwards."""
        _end_workers_at_exit(os.getpid())
        with _signals_deferred():
            return super().__iter__()


@functools.cache
def _end_workers_at_exit(_pid: int) -> None:
    """Do what ``multiprocessing`` does when a process exits, but more than once.

    A worker that has not handled a SIGTERM from elsewhere yet, which it ignores, does not see one
    of the main process in addition.
    """

    def end() -> None:
        for worker in multiprocessing.active_children():
            while worker.daemon and worker.is_alive():
                worker.terminate()
                worker.join(0.5)

    Finalize(None, end, exitpriority=10)  # before that of `multiprocessing`


@contextlib.contextmanager
def _signals_deferred() -> Iterator[None]:
    """Handle signals after the block; processes that it starts have them blocked."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    previous = {n: signal.signal(n, lambda n, _frame: arrived.append(n)) for n in _SIGNALS}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS) if _BLOCKS else set()
    try:
        yield
    finally:
        if _BLOCKS:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in previous.items():
            signal.signal(number, handler)
        for each in arrived:
            signal.raise_signal(each)


_BLOCKS = hasattr(signal, "sigwaitinfo")


def _leave_signals_to_main_process(_worker_id: int) -> None:
    main_process = os.getppid()

    def wait_for_main_process() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != main_process:
            pass
        os._exit(0)  # as torch's handler does

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _BLOCKS:
        # Threads that start later do not get the signal either.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=wait_for_main_process, daemon=True).start()
