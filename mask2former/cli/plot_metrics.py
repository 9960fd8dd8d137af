"""Plot the losses and the accuracy of a training run from its metrics.json.

python -m mask2former.cli.plot_metrics output/quickstart/instance --output curves.png
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..utils.files import write_atomically

LOSSES = ("loss_ce", "loss_mask", "loss_dice")  # those of the last prediction
METRICS = ("panoptic_seg/PQ", "sem_seg/mIoU", "segm/AP", "segm/AP50", "bbox/AP")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="OUTPUT_DIR of the run")
    parser.add_argument("--output", type=Path, help="picture (default: curves.png in the run)")
    args = parser.parse_args(arguments)
    path = args.run / "metrics.json"
    output = args.output or args.run / "curves.png"
    if not path.is_file():
        parser.exit(1, f"{parser.prog}: error: no {path}: give the OUTPUT_DIR of a training run\n")
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        figure, kind = draw(rows), output.suffix[1:] or "png"
        write_atomically(output, lambda file: figure.savefig(file, format=kind, dpi=110))
    except (ValueError, OSError) as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")
    print(f"Curves: {output}")
    return 0


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw the losses on the left and the metrics on the right.

    Args:
        rows: the lines of a `metrics.json`.
    """
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _plot(left, rows, LOSSES)
    _plot(right, rows, METRICS, marker="o")
    left.set(xlabel="iteration", ylabel="weighted loss, last prediction", ylim=(0, None))
    right.set(xlabel="iteration", ylabel="on the validation set, percent", ylim=(0, 100))
    return figure


def _plot(axes: Axes, rows: Sequence[dict[str, Any]], keys: Sequence[str], **style: Any) -> None:
    for key in keys:
        points = [(row["iteration"], row[key]) for row in rows if key in row]
        if points:
            axes.plot(*zip(*points, strict=True), label=key, **style)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()


if __name__ == "__main__":
    sys.exit(main())
