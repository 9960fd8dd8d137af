"""Plot the losses, the learning rate and the accuracy of a training run from its metrics.json.

python -m mask2former.cli.plot_metrics output/quickstart/instance --output curves.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..report.run_metrics import LOSSES, METRICS, METRICS_FILE, points, read_metrics, upper_limit
from ..utils.files import write_atomically
from ..visualization import palette_color

# Colours of the palette that are dark enough for lines on white.
_LINES = (0, 5, 2, 3, 8)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="OUTPUT_DIR of the run")
    parser.add_argument("--output", type=Path, help="picture (default: curves.png in the run)")
    args = parser.parse_args(arguments)
    path = args.run / METRICS_FILE
    output = args.output or args.run / "curves.png"
    if not path.is_file():
        parser.exit(1, f"{parser.prog}: error: no {path}: give the OUTPUT_DIR of a training run\n")
    try:
        figure, kind = draw(read_metrics(path)), output.suffix[1:] or "png"
        write_atomically(output, lambda file: figure.savefig(file, format=kind, dpi=110))
    except (ValueError, OSError) as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")
    print(f"Curves: {output}")
    return 0


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw the losses over the learning rate on the left, and the metrics on the right.

    Args:
        rows: the lines of a `metrics.json`.
    """
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    axes = figure.subplot_mosaic([["loss", "metric"], ["lr", "metric"]], height_ratios=(3, 1))
    axes["lr"].sharex(axes["loss"])
    _plot(axes["loss"], rows, LOSSES)
    _plot(axes["lr"], rows, ("lr",), color="0.25")
    # Single evaluations are points; many are a line, whose points would hide it.
    evaluations = sum(any(key in row for key in METRICS) for row in rows)
    _plot(axes["metric"], rows, METRICS, marker="o", markersize=5 if evaluations < 30 else 0)
    axes["loss"].set(ylabel="weighted loss, last prediction", ylim=(0, None))
    axes["loss"].tick_params(labelbottom=False)
    axes["lr"].set(xlabel="iteration", ylabel="learning rate")
    axes["metric"].set(xlabel="iteration", ylabel="on the validation set, percent")
    axes["metric"].set_ylim(0, upper_limit(rows))
    learning_rates = [row["lr"] for row in rows if row.get("lr", 0) > 0]
    if learning_rates and max(learning_rates) > 20 * min(learning_rates):
        axes["lr"].set_yscale("log")  # steps of a tenth would be flat on a linear axis
    elif learning_rates:
        axes["lr"].set_ylim(0, 1.15 * max(learning_rates))
        axes["lr"].ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    return figure


def _plot(axes: Axes, rows: Sequence[dict[str, Any]], keys: Sequence[str], **style: Any) -> None:
    for i, key in enumerate(keys):
        if found := points(rows, key):
            red, green, blue = (value / 255 for value in palette_color(_LINES[i]))
            axes.plot(
                *zip(*found, strict=True),
                **{"label": key, "color": (red, green, blue), "linewidth": 1.6, **style},
            )
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len(axes.lines) > 1 or (axes.lines and axes.lines[0].get_label() != "lr"):
        axes.legend(frameon=False)


if __name__ == "__main__":
    sys.exit(main())
