"""What a run prints: short on the console, everything in ``log.txt``."""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path

from detectron2.utils.logger import setup_logger

_COLOURS = re.compile(r"\x1b\[[\d;]*m")
_LOGGERS = ("detectron2", "fvcore", "mask2former")
# Lines of a message that the console shows in full: results and counts per class, but neither the
# model nor, of Detectron2's `default_setup`, the machine and the config
_MOST_LINES = 40
_MOST_LINES_OF = {"detectron2": 3}


class _Formatter(logging.Formatter):
    """Formats a record as another formatter does, then without colours, or cut to its first line.

    Args:
        inner: the other formatter.
        coloured: whether colours stay.
        log: where the whole message is, or None not to cut it.
    """

    def __init__(self, inner: logging.Formatter, *, coloured: bool, log: Path | None):
        super().__init__()
        self._inner, self._coloured, self._log = inner, coloured, log

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        text = self._inner.format(record)
        if not self._coloured:
            text = _COLOURS.sub("", text)
        lines = text.splitlines()
        if self._log is not None and len(lines) > _MOST_LINES_OF.get(record.name, _MOST_LINES):
            return f"{lines[0]} ({len(lines) - 1} more lines in {self._log})"
        return text


def start_logging(output_dir: str, rank: int) -> None:
    """Log to the console, where long messages are cut, and to ``log.txt``, where nothing is.

    Detectron2's `default_setup` then finds its loggers ready.

    Args:
        output_dir: the folder of the run; it is made if it does not exist.
        rank: number of the process. All but 0 log to files alone.
    """
    os.makedirs(output_dir, exist_ok=True)
    setup_logger(output_dir, distributed_rank=rank, name="fvcore")
    setup_logger(output_dir, distributed_rank=rank)
    setup_logger(output_dir, distributed_rank=rank, name="mask2former")
    log = Path(output_dir, "log.txt")
    for handler in {h for name in _LOGGERS for h in logging.getLogger(name).handlers}:
        inner = handler.formatter
        if not isinstance(handler, logging.StreamHandler) or isinstance(inner, _Formatter):
            continue
        if inner is None:
            inner = logging.Formatter()
        on_console = handler.stream in (sys.stdout, sys.stderr)
        coloured = on_console and handler.stream.isatty()
        shown = _Formatter(inner, coloured=coloured, log=log if on_console else None)
        handler.setFormatter(shown)
