"""Doing things once in a run of several processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from detectron2.utils import comm

T = TypeVar("T")


def on_main_process(function: Callable[[], T]) -> T:
    """Call `function` on the main process; return its result, or raise its error, on all."""
    result: T | Exception | None = None
    if comm.is_main_process():
        try:
            result = function()
        except Exception as error:
            result = error
    found = comm.all_gather(result)[0]
    if isinstance(found, Exception):
        raise found
    return found
