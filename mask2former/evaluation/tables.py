"""Results as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

_CELLS = 12  # per row, to fit most terminals


def class_table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table of classes with several classes per row, ordered down the columns.

    Args:
        headers: titles of a class's name and values.
        rows: name and values per class.
    """
    columns = max(1, min(len(rows), _CELLS // len(headers)))
    height = math.ceil(len(rows) / columns)
    beside = [
        [cell for row in rows[line::height] for cell in row] for line in range(height)
    ]  # a short last column leaves its cells out
    return tabulate(
        beside,
        headers=list(headers) * columns,
        tablefmt="pipe",
        floatfmt=".3f",
        missingval="",
    )
