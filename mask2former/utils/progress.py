"""How far a long job is: a bar on a terminal, and a plain line now and then in a log."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

from mask2former_runtime.commands import print_line
from mask2former_runtime.text import clock

# Seconds between lines in a log.
LOG_SECONDS = 10.0


def on_terminal() -> bool:
    """Tell whether somebody sees both output streams; a bar then does not disturb a log."""
    return sys.stdout.isatty() and sys.stderr.isatty()


def with_progress(
    items: Iterable[Any] = (),
    description: str = "",
    *,
    total: int | None = None,
    initial: int = 0,
    unit: str = "",
    scale: bool = False,
    delay: float = 0.0,
    quiet: bool = False,
) -> tqdm[Any] | Lines:
    """Show on stderr how many of the items are done, and when the rest will be.

    Args:
        items: what is iterated over. Without it, call ``update`` of the result.
        description: what is done.
        total: the number of items, by default ``len(items)``.
        initial: how many were done before.
        unit: what the items are, such as "images".
        scale: whether to shorten numbers, such as 1500 to 1.50k.
        delay: seconds before a bar appears.
        quiet: whether to show nothing.

    Returns:
        An iterable and a context with ``update(number)`` and ``close()``.
    """
    if total is None:
        total = len(items) if hasattr(items, "__len__") and items else None  # type: ignore[arg-type]
    if quiet or not sys.stderr.isatty():
        every = math.inf if quiet else LOG_SECONDS
        return Lines(
            items,
            description,
            total=total,
            initial=initial,
            unit=unit,
            scale=scale,
            every=every,
        )
    return tqdm(
        items,
        description,
        total,
        initial=initial,
        unit=f" {unit}",
        unit_scale=scale,
        delay=delay,
        dynamic_ncols=True,
    )


class Lines:
    """Writes a line every so many seconds; see `with_progress` for the arguments."""

    def __init__(
        self,
        items: Iterable[Any],
        description: str,
        *,
        total: int | None,
        initial: int,
        unit: str,
        scale: bool,
        every: float,
    ) -> None:
        self.items = items
        self.description = description
        self.total = total
        self.initial = self.done = initial
        self.unit = unit
        self.every = every
        self.number = tqdm.format_sizeof if scale else str
        self.start = self.written = time.monotonic()

    def __iter__(self) -> Iterator[Any]:
        for item in self.items:
            yield item
            self.update()

    def update(self, number: int = 1) -> None:
        """Count further items, and write a line if it is time."""
        self.done += number
        now = time.monotonic()
        if now - self.written >= self.every:
            self.written = now
            print(self.line(now - self.start), file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """Return the line to write so many seconds after the start."""
        total = "?" if self.total is None else self.number(self.total)
        text = f"{self.description}: {self.number(self.done)}/{total} {self.unit}".rstrip()
        if self.total is None:
            return text
        left = seconds / (self.done - self.initial) * (self.total - self.done)
        return f"{text}, ETA {clock(left)}"

    def close(self) -> None:
        """Do nothing, like a bar that stays."""

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class ResultLines:
    """Prints a line per result. A bar below them shows the time left, or the lines do in a log.

    Args:
        total: the number of results, or None if it is not known.
        unit: what has the results, such as "images".
    """

    def __init__(self, total: int | None, unit: str) -> None:
        self.total = total
        self.done = 0
        self.start = time.monotonic()
        self.bar = (
            tqdm(total=total, unit=f" {unit}", dynamic_ncols=True, leave=False)
            if on_terminal()
            else None
        )

    def add(self, line: str, skipped: bool = False) -> None:
        """Print the line of the next result; that of a skipped input goes to stderr."""
        self.done += 1
        stream = sys.stderr if skipped else sys.stdout
        if self.bar is not None:
            self.bar.write(line, file=stream)
            self.bar.update()
            return
        if self.total is not None and self.done < self.total and not skipped:
            left = self.seconds / self.done * (self.total - self.done)
            line += f", ETA {clock(left)}"
        print_line(line, stream)

    @property
    def seconds(self) -> float:
        """The time since the start."""
        return time.monotonic() - self.start

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()
