"""Training and evaluation in several processes, one per GPU."""

from __future__ import annotations

import gc
import importlib
import os
import re
import socket
import sys
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm

from mask2former_runtime.text import counted

from .processes import Mistake, run_processes

# torchrun's environment variables
NUMBERS = ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "RANK", "WORLD_SIZE")

# What a collective operation reports when another process has ended
_LOST = re.compile(r"connection closed by peer|connection reset by peer|broken pipe", re.IGNORECASE)


class _Place(NamedTuple):
    """Where a process stands among those of its machine and of all machines."""

    local_rank: int
    local_size: int
    rank: int
    size: int
    url: str
    timeout: timedelta


def launch(
    main: Callable[..., Any],
    num_gpus: int,
    *,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    timeout: timedelta = DEFAULT_TIMEOUT,
    args: tuple[Any, ...] = (),
) -> None:
    """Run a function in one process per GPU. A single process is this one.

    On a machine without a GPU, the processes run on the CPU. Where torchrun, or another launcher
    that sets its environment variables, has started the processes, join them instead. If one
    process fails or is killed, the others are ended: see `run_processes`.

    Args:
        main: the function, defined at the top level of a module.
        num_gpus: processes on this machine.
        num_machines: machines, each of which calls this function.
        machine_rank: number of this machine, from 0.
        dist_url: where the processes find each other: "tcp://HOST:PORT" of machine 0, or "auto"
            for a free port on a single machine.
        timeout: how long a process waits for the others.
        args: the arguments of `main`.

    Raises:
        SystemExit: a process ended with this status or message, was killed or could not start, or
            the numbers are wrong (a `Mistake`).
        RuntimeError: a process raised an exception. The message contains its traceback.
    """
    for flag, number in (("--num-gpus", num_gpus), ("--num-machines", num_machines)):
        if number < 1:
            raise Mistake(f"error: {flag} is {number}, but must be at least 1", 2)
    if not 0 <= machine_rank < num_machines:
        text = f"--machine-rank is {machine_rank}, but must be from 0 to {num_machines - 1}"
        raise Mistake(f"error: {text}", 2)
    size = num_gpus * num_machines
    if os.environ.keys() >= {*NUMBERS, "MASTER_ADDR", "MASTER_PORT"}:
        if size > 1:
            text = "torchrun starts the processes: leave out --num-gpus, --num-machines"
            raise Mistake(f"error: {text}", 2)
        local_rank, local_size, rank, size = (int(os.environ[name]) for name in NUMBERS)
        _run(_Place(local_rank, local_size, rank, size, "env://", timeout), main, args)
        return
    if size == 1:
        main(*args)
        return
    if torch.cuda.is_available() and num_gpus > torch.cuda.device_count():
        here = counted(torch.cuda.device_count(), "GPU")
        raise Mistake(f"error: --num-gpus is {num_gpus}, but this machine has {here}", 2)
    if dist_url == "auto":
        if num_machines > 1:
            text = "several machines need --dist-url tcp://HOST:PORT of machine 0"
            raise Mistake(f"error: {text}", 2)
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    first = machine_rank * num_gpus
    places = [_Place(i, num_gpus, first + i, size, dist_url, timeout) for i in range(num_gpus)]
    run_processes(_run, [(place, main, args) for place in places])


def is_lost_connection(error: BaseException) -> bool:
    """Tell whether a process failed because another one has ended."""
    return isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def _run(place: _Place, main: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Join the other processes, call the function, and leave them."""
    # `DistributedDataParallel` imports it, and if there are process groups by then, they are kept
    # alive: see `_destroy_process_groups`.
    importlib.import_module("torch._dynamo")
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(place.local_rank)
    try:
        dist.init_process_group(
            backend="nccl" if has_gpu else "gloo",
            store=_meet(place),
            world_size=place.size,
            rank=place.rank,
            timeout=place.timeout,
        )
    except (RuntimeError, ValueError) as error:
        sys.exit(
            f"error: process {place.rank} of {place.size} cannot join the others at {place.url}: "
            f"{str(error).splitlines()[0]}. Check that the port is free and can be reached; "
            "--dist-url tcp://HOST:PORT sets it"
        )
    try:
        comm.create_local_process_group(place.local_size)
        comm.synchronize()
        main(*args)
    except RuntimeError as error:
        if not is_lost_connection(error):
            raise
        sys.exit(
            f"error: process {place.rank} of {place.size} lost its connection to another one, "
            "which has ended: see the output of that one. Checkpoints written before are whole: "
            "continue with --resume"
        )
    # Not in a `finally`: the connections of a process that fails close after its error is reported.
    _destroy_process_groups()


def _meet(place: _Place) -> dist.Store:
    """Return a store that only the processes of this start share.

    When torchrun starts its workers again, their store still holds the addresses of the earlier
    ones (https://github.com/pytorch/pytorch/issues/135712). So process 0 chooses a prefix and
    tells it to each process by a name that this process has just made up.
    """
    rendezvous = dist.rendezvous(place.url, place.rank, place.size, timeout=place.timeout)
    store, _, _ = next(rendezvous)
    me = uuid.uuid4().hex
    if place.rank > 0:
        store.set(f"process/{place.rank}", me)
        prefix = store.get(f"prefix/{me}").decode()  # waits for it
        store.set(f"{prefix}/{place.rank}", "met")
        return dist.PrefixStore(prefix, store)
    missing = set(range(1, place.size))
    end = time.monotonic() + place.timeout.total_seconds()
    while missing:
        if time.monotonic() > end:
            raise RuntimeError(f"timed out waiting for processes {sorted(missing)}")
        for rank in missing:
            if store.check([f"process/{rank}"]):
                store.set(f"prefix/{store.get(f'process/{rank}').decode()}", me)
        missing = {rank for rank in missing if not store.check([f"{me}/{rank}"])}
        time.sleep(0.02)
    return dist.PrefixStore(me, store)


def _destroy_process_groups() -> None:
    """Destroy all process groups and wait until their threads have ended.

    A thread of gloo that still releases a tensor while Python shuts down would abort the process
    (SIGABRT, "terminate called without an active exception"). A group joins its threads when the
    last reference to it is dropped. Detectron2 keeps references, and so does a distributed model
    that is part of a reference cycle.
    """
    dist.destroy_process_group()
    comm._LOCAL_PROCESS_GROUP = None
    comm.create_local_process_group.cache_clear()
    comm._get_global_gloo_group.cache_clear()
    gc.collect()
