"""Run `train_net.py` in processes that are forked from one that has imported everything.

Its start then takes a fraction of a second. Nothing has run in that process but imports.
"""

from __future__ import annotations

import builtins
import multiprocessing
import os
import resource
import runpy
import signal
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from support import REPOSITORY, SOURCES

import mask2former.engine  # noqa: F401  for the processes that are forked
from mask2former.data import register_synthetic

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def start(
    arguments: list[str], log: Path, datasets: Path, *, kill_at: int = 0, file_limit: int = 0
) -> ForkServerProcess:
    """Start ``train_net.py arguments`` as the leader of a process group.

    Args:
        arguments: the command line.
        log: the file that what it prints is appended to.
        datasets: the folder of the synthetic data set.
        kill_at: kill the process at its so-many-th call that changes files. With 0, it writes the
            number of these calls to the end of the log.
        file_limit: bytes after which writing to a file fails as on a full disk: the write that
            crosses it is short, the next one fails.
    """
    # Python 3.11 imports the preloaded modules from the path of the environment.
    environment = {"PYTHONPATH": f"{SOURCES}:{Path(__file__).parent}"}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["warm_runs"])
    process = context.Process(target=_run, args=(arguments, log, datasets, kill_at, file_limit))
    with mock.patch.dict(os.environ, environment):
        process.start()
    return process


def _run(arguments: list[str], log: Path, datasets: Path, kill_at: int, file_limit: int) -> None:
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    register_synthetic(datasets)  # where the process that is forked found none
    multiprocessing.set_start_method("fork", force=True)  # as in a process that nobody forked
    sys.argv = ["train_net.py", *arguments]
    if file_limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    calls = _count_calls(kill_at)
    runpy.run_path(str(REPOSITORY / "train_net.py"), run_name="__main__")
    print(f"calls that change files: {calls[0]}", flush=True)


def _count_calls(kill_at: int) -> list[int]:
    """Count the calls that change files, and send SIGKILL to this process at one of them."""
    calls, process = [0], os.getpid()

    def counted(function: Callable[..., Any], changes: Callable[..., bool]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if os.getpid() == process and changes(*args, **kwargs):
                calls[0] += 1
                if calls[0] == kill_at:
                    os.kill(process, signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    for name in ("fsync", "replace", "chmod", "unlink", "mkdir", "write"):
        setattr(os, name, counted(getattr(os, name), lambda *args, **kwargs: True))
    os.open = counted(os.open, lambda path, flags, *args, **kwargs: bool(flags & _WRITES))
    torch.save = counted(torch.save, lambda *args, **kwargs: True)
    builtins.open = counted(
        open, lambda file, mode="r", *args, **kwargs: bool(set(mode) & set("wax+"))
    )
    return calls
