"""What a run says of an evaluation in a few lines; ``log.txt`` has all tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

AVERAGE = "ema"  # where the results of averaged weights are


def summary(results: Mapping[str, Any]) -> str:
    """Return the main numbers, those of averaged weights below those of the weights.

    Args:
        results: metrics by task, or by data set and task. `AVERAGE` holds more such results.

    Returns:
        A line of names and values, or a table if there are several rows; an empty text without
        results. The names are those of ``metrics.json``.
    """
    plain = {name: value for name, value in results.items() if name != AVERAGE}
    rows = _rows(plain, "weights")
    if AVERAGE in results:
        rows |= _rows(results[AVERAGE], "average")
    if len(rows) <= 1:
        values = next(iter(rows.values()), {})
        return ", ".join(f"{name} {value:.2f}" for name, value in values.items())
    names = list(dict.fromkeys(name for values in rows.values() for name in values))
    first = max(map(len, rows))
    lines = [" " * first + "".join(f"  {name}" for name in names)]
    for label, values in rows.items():
        cells = (
            f"{values[name]:{len(name) + 2}.2f}" if name in values else " " * (len(name) + 2)
            for name in names
        )
        lines.append(f"{label:{first}}" + "".join(cells))
    return "\n".join(f"  {line.rstrip()}" for line in lines)


def _rows(results: Mapping[str, Any], label: str) -> dict[str, dict[str, float]]:
    """Return the first metric of each task, in a row per data set."""
    rows: dict[str, dict[str, float]] = {}
    for name, found in results.items():
        if not isinstance(found, Mapping):
            continue
        if any(isinstance(value, Mapping) for value in found.values()):  # of one of several sets
            rows |= _rows(found, f"{name}, {label}")
        elif found:
            metric = next(iter(found))
            rows.setdefault(label, {})[f"{name}/{metric}"] = float(found[metric])
    return rows
