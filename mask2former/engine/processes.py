"""Run a function in several processes, and end all of them if one fails."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any, NamedTuple

# Seconds to end after SIGTERM, before SIGKILL. A process that waits for another one in compiled
# code does not react to SIGTERM.
GRACE = 20.0
# Seconds for writing the last checkpoint of a run that a signal has stopped
GRACE_AFTER_STOP = 300.0
# Seconds in which a failure makes other processes fail too: the cause is looked for among them.
_SPREAD = 1.0


class Mistake(SystemExit):
    """Ends the process with a message for the user, who can set things right.

    Args:
        message: one or more lines.
        status: of the process, if the caller handles it; Python itself makes it 1.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class _Report(NamedTuple):
    """When and why a process failed; a mistake of the user's has a status, and no traceback."""

    time: float
    text: str
    mistake_status: int | None


class _Child(NamedTuple):
    rank: int
    process: SpawnProcess
    reports: Connection


def run_processes(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> None:
    """Call a function in one new process per tuple of arguments, and wait for all of them.

    If one fails or is killed, the others get SIGTERM, and SIGKILL after `GRACE` seconds. SIGTERM
    and SIGINT of this process are passed on, and if this process is killed, the others end.

    Args:
        function: defined at the top level of a module.
        arguments: of each process.

    Raises:
        SystemExit: with the status or message of the process that ended first (a `Mistake`), or a
            message that one was killed.
        RuntimeError: a process raised an exception. The message contains its traceback.
    """
    context = multiprocessing.get_context("spawn")
    children = []
    for rank, args in enumerate(arguments):
        reports, sender = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(sender, function, args))
        children.append(_Child(rank, process, reports))
    with _passing_signals_on(children) as received:
        for child in children:
            child.process.start()
        failed = _first_failures(children)
        if failed:
            stopped = bool(received) or all((c.process.exitcode or 0) > 128 for c in failed)
            _end(children, GRACE_AFTER_STOP if stopped else 0.0)
    if received:
        raise SystemExit(128 + received[-1])
    if failed:
        _raise_cause(failed)


def _child(reports: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Call the function in a new process, and report why it failed."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # Ctrl-C reaches the parent only, which passes it on once
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        function(*args)
    except SystemExit as error:
        if not error.code:
            raise
        status = error.code if isinstance(error.code, int) else getattr(error, "status", 1)
        if isinstance(error.code, str):
            reports.send(_Report(time.time(), error.code, status))
    except BaseException:
        status = 1
        reports.send(_Report(time.time(), traceback.format_exc()[-20000:], None))
    else:
        return
    # At a normal exit, threads of a process group that is still in use may abort the process.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def _passing_signals_on(children: Sequence[_Child]) -> Iterator[list[int]]:
    """Pass SIGTERM and SIGINT on to the processes within the block; yield those that have come."""
    received: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        for child in children:
            if child.process.pid is not None and child.process.exitcode is None:
                os.kill(child.process.pid, number)

    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread can handle signals
        return
    previous = {n: signal.signal(n, pass_on) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _first_failures(children: Sequence[_Child]) -> list[_Child]:
    """Wait until all processes have ended, or some have failed, and return these."""
    running: dict[Any, SpawnProcess] = {c.process.sentinel: c.process for c in children}
    while running:
        for sentinel in wait(list(running)):
            process = running.pop(sentinel)
            process.join()
            if process.exitcode:
                time.sleep(_SPREAD)
                return [child for child in children if child.process.exitcode]
    return []


def _end(children: Sequence[_Child], patience: float) -> None:
    """Wait for the processes for `patience` seconds, then end them."""
    _join(children, patience)
    for child in children:
        child.process.terminate()
    _join(children, GRACE)
    for child in children:
        child.process.kill()
        child.process.join()


def _join(children: Sequence[_Child], seconds: float) -> None:
    end = time.monotonic() + seconds
    for child in children:
        child.process.join(max(0.0, end - time.monotonic()))


def _raise_cause(failed: Sequence[_Child]) -> None:
    """Raise what ended the first process: the others may have failed because of it."""
    for rank, process, _ in failed:
        if process.exitcode is not None and process.exitcode < 0:
            name = signal.Signals(-process.exitcode).name
            raise SystemExit(
                f"error: process {rank} (pid {process.pid}) was killed by {name}, as when memory "
                "runs out; the others were ended. Checkpoints written before are whole: continue "
                "with --resume"
            )
    found, silent = [], []
    for child in failed:
        try:
            if not child.reports.poll():
                raise EOFError
            found.append((child.reports.recv(), child.rank))
        except EOFError:  # it has printed its message itself
            silent.append(child)
    if silent and all(report.mistake_status is not None for report, _ in found):
        raise SystemExit(silent[0].process.exitcode)
    report, rank = min(found, key=lambda pair: pair[0].time)
    if report.mistake_status is not None:
        raise Mistake(report.text, report.mistake_status)
    raise RuntimeError(f"process {rank} failed:\n{report.text}")
