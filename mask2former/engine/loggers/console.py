"""What a run prints: short on the console, everything in ``log.txt``."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detectron2.utils.logger import setup_logger

_COLOURS = re.compile(r"\x1b\[[\d;]*m")
LOGGERS = ("detectron2", "fvcore", "mask2former")
"""The loggers whose messages concern a run."""
# Lines of a message that the console shows in full: results, but not the model
_MOST_LINES = 40
# Beginnings of the messages that `log.txt` alone gets, by logger: what Detectron2's `default_setup`
# says of the machine and the config, counts per class, and how the data is kept in memory
_ONLY_IN_LOG = {
    "detectron2": ("Rank of", "Environment info", "Command line", "Contents of", "Running with"),
    "detectron2.data.build": ("Distribution of",),
    "detectron2.data.common": ("Serializ",),
    "detectron2.checkpoint.detection_checkpoint": ("[DetectionCheckpointer] Loading from",),
}
# Seconds between two lines that say how far a long evaluation is
_EVALUATION_SECONDS = 60.0


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
        if self._log is not None and len(lines) > _MOST_LINES:
            return f"{lines[0]} ({len(lines) - 1} more lines in {self._log})"
        return text


class _Filter(logging.Filter):
    """Chooses what the console shows.

    Attributes:
        evaluating_since: when an evaluation began, or said how far it is; None outside of one.
    """

    evaluating_since: float | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the console shows a record."""
        message = record.getMessage()
        if message.startswith(_ONLY_IN_LOG.get(record.name, ())):
            return False
        if self.evaluating_since is None or record.levelno >= logging.WARNING:
            return True
        now = time.monotonic()
        if not message.startswith("Inference done") or (
            now - self.evaluating_since < _EVALUATION_SECONDS
        ):
            return False
        self.evaluating_since = now
        return True


console_filter = _Filter()


@contextmanager
def short_evaluation() -> Iterator[None]:
    """Let the console show warnings, and now and then how far an evaluation is, in the block."""
    console_filter.evaluating_since = time.monotonic()
    try:
        yield
    finally:
        console_filter.evaluating_since = None


def start_logging(output_dir: str, rank: int) -> None:
    """Log to the console, where long messages are cut, and some left out, and to ``log.txt``, all.

    Detectron2's `default_setup` then finds its loggers ready.

    Args:
        output_dir: the folder of the run; it is made if it does not exist.
        rank: number of the process. All but 0 log to files alone.
    """
    os.makedirs(output_dir, exist_ok=True)
    # Detectron2 imports it to describe the machine. It warns where there is CUDA, but no GPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    setup_logger(output_dir, distributed_rank=rank, name="fvcore")
    setup_logger(output_dir, distributed_rank=rank)
    setup_logger(output_dir, distributed_rank=rank, name="mask2former")
    log = Path(output_dir, "log.txt")
    for handler in {h for name in LOGGERS for h in logging.getLogger(name).handlers}:
        inner = handler.formatter
        if not isinstance(handler, logging.StreamHandler) or isinstance(inner, _Formatter):
            continue
        if inner is None:
            inner = logging.Formatter()
        on_console = handler.stream in (sys.stdout, sys.stderr)
        coloured = on_console and handler.stream.isatty()
        shown = _Formatter(inner, coloured=coloured, log=log if on_console else None)
        handler.setFormatter(shown)
        if on_console:
            handler.addFilter(console_filter)
