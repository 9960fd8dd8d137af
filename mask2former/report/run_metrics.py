"""What a training run writes into its ``metrics.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.json"
LOSSES = ("loss_ce", "loss_mask", "loss_dice")  # those of the last prediction
METRICS = ("panoptic_seg/PQ", "sem_seg/mIoU", "segm/AP", "segm/AP50", "bbox/AP")
# Of runs that have them: of averaged weights, and the losses on the validation set
AVERAGE, VALIDATION = "ema/", "validation/"
TOTAL_LOSSES = ("total_loss", f"{VALIDATION}total_loss")
GRADIENT_NORM = "gradient/norm"  # of all gradients together, before clipping

Rows = Sequence[dict[str, Any]]


def read_metrics(path: Path) -> Rows:
    """Read the rows, one per iteration, in ascending order.

    A resumed run may repeat iterations, of which the last ones count.

    Raises:
        ValueError: a line is not JSON.
        OSError: the file cannot be read.
    """
    by_iteration: dict[int, dict[str, Any]] = {}
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        by_iteration[row["iteration"]] = by_iteration.get(row["iteration"], {}) | row
    return [by_iteration[iteration] for iteration in sorted(by_iteration)]


def points(rows: Rows, key: str) -> list[tuple[float, float]]:
    """Return (iteration, value) of the rows that have a key."""
    return [(row["iteration"], row[key]) for row in rows if key in row]


def upper_limit(rows: Rows) -> float:
    """Return the end of an axis of `METRICS`: above the highest value, and at most 100."""
    keys = [*METRICS, *(AVERAGE + key for key in METRICS)]
    values = [row[key] for row in rows for key in keys if key in row]
    most = max((value for value in values if math.isfinite(value)), default=0.0)
    if most <= 0:
        return 100.0
    step = 10.0 ** math.floor(math.log10(most))  # 1.7 ends at 2, 17 at 20, 62 at 70
    return min(100.0, step * math.ceil(1.05 * most / step))
