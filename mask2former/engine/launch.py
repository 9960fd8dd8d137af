"""Starting one process per GPU, and ending each of them cleanly."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm


def launch(
    main: Callable[..., Any], num_gpus: int, *, args: tuple[Any, ...] = (), **options: Any
) -> None:
    """Run a function in one process per GPU; with a single one, in this process.

    This is Detectron2's ``launch``, but each process destroys its process groups at the end.

    Args:
        main: the function, defined at the top level of a module.
        num_gpus: processes on this machine. On a machine without GPU they communicate by gloo.
        args: the arguments of `main`.
        options: `num_machines`, `machine_rank`, `dist_url` and `timeout`, as in Detectron2.
    """
    detectron2_launch(functools.partial(_run, main), num_gpus, args=args, **options)


def _run(main: Callable[..., Any], *args: Any) -> None:
    main(*args)
    # Not in a `finally`: the connections of a process that fails close after its error is reported.
    # If they closed earlier, the other processes would fail with "Connection closed by peer", and
    # the first error to arrive is the only one that is shown.
    if comm.get_world_size() > 1:
        _destroy_process_groups()


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
