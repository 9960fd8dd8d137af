"""Plot the losses and the accuracy of a training run from its ``metrics.json``.

python -m mask2former.cli.plot_metrics output/quickstart/instance --output curves.png
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

LOSSES = ("loss_ce", "loss_mask", "loss_dice")  # of the last prediction
METRICS = ("panoptic_seg/PQ", "sem_seg/mIoU", "segm/AP", "segm/AP50", "bbox/AP")


def series(rows: list[dict], key: str) -> tuple[list[int], list[float]]:
    """Iterations and values of the rows that have ``key``."""
    found = [(row["iteration"], row[key]) for row in rows if key in row]
    return [i for i, _ in found], [value for _, value in found]


def main() -> None:
    """Draw and save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="OUTPUT_DIR of the run")
    parser.add_argument("--output", type=Path, help="picture (default: curves.png in the run)")
    args = parser.parse_args()
    path = args.run / "metrics.json"
    if not path.is_file():
        sys.exit(f"error: no {path}: give the OUTPUT_DIR of a training run")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    _, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for key in LOSSES:
        left.plot(*series(rows, key), label=key)
    left.set(xlabel="iteration", ylabel="weighted loss, last prediction", ylim=(0, None))
    for key in METRICS:
        if any(key in row for row in rows):
            right.plot(*series(rows, key), marker="o", label=key)
    right.set(xlabel="iteration", ylabel="on the validation set, percent", ylim=(0, 100))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    output = args.output or args.run / "curves.png"
    plt.savefig(output, dpi=110)
    print(f"Curves: {output}")


if __name__ == "__main__":
    main()
