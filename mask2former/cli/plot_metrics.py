"""Plot losses, gradient, learning rate and accuracy of a training run from its metrics.json.

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
from matplotlib.lines import Line2D

from mask2former_runtime.commands import run_reporting_errors
from mask2former_runtime.files import write_atomically

from ..report.run_metrics import (
    AVERAGE,
    GRADIENT_NORM,
    LOSSES,
    METRICS,
    METRICS_FILE,
    TOTAL_LOSSES,
    points,
    read_metrics,
    upper_limit,
)
from ..visualization import palette_color

# Colours of the palette that are dark enough for lines on white.
_LINES = (0, 5, 2, 3, 8)
_NAMED_BY_AXIS = ("lr", GRADIENT_NORM)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="OUTPUT_DIR of the run")
    parser.add_argument("--output", type=Path, help="picture (default: curves.png in the run)")
    return run_reporting_errors(parser.prog, run, parser.parse_args(arguments))


def run(args: argparse.Namespace) -> int:
    """Draw the curves of a run; return 0.

    Raises:
        ValueError: there is no such run, or its file is damaged.
    """
    path = args.run / METRICS_FILE
    output = args.output or args.run / "curves.png"
    if not path.is_file():
        raise ValueError(f"no {path}: give the OUTPUT_DIR of a training run")
    figure, kind = draw(read_metrics(path)), output.suffix[1:] or "png"
    write_atomically(output, lambda file: figure.savefig(file, format=kind, dpi=110))
    print(f"Curves: {output}")
    return 0


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw the losses, the gradient and the learning rate on the left, evaluations on the right.

    Args:
        rows: the lines of a `metrics.json`. Of the gradient, averaged weights and losses on the
            validation set, it shows what the run has.
    """
    with_gradient = bool(points(rows, GRADIENT_NORM))
    below = "total" if points(rows, TOTAL_LOSSES[1]) else "metric"
    layout: list[Any] = [
        ["loss", "metric"],
        *([["gradient", below]] if with_gradient else []),
        ["lr", below],
    ]
    heights = (3, 1.2, 1) if with_gradient else (3, 1)
    figure = Figure(figsize=(11, 5.6 if with_gradient else 4.6), layout="constrained")
    axes = figure.subplot_mosaic(layout, height_ratios=heights)
    axes["lr"].sharex(axes["loss"])
    _plot(axes["loss"], rows, LOSSES)
    _plot(axes["lr"], rows, ("lr",), color="0.25")
    # Single evaluations are points; many are a line, whose points would hide it.
    evaluations = sum(any(key in row for key in METRICS) for row in rows)
    points_of = {"marker": "o", "markersize": 5 if evaluations < 30 else 0}
    _plot(axes["metric"], rows, METRICS, **points_of)
    averages = [AVERAGE + key for key in METRICS]
    _plot(axes["metric"], rows, averages, linestyle="--", **points_of)
    _name_once(axes["metric"], averages, "of averaged weights (ema/)")
    if with_gradient:
        axes["gradient"].sharex(axes["loss"])
        _plot(axes["gradient"], rows, (GRADIENT_NORM,), color="0.25")
        axes["gradient"].set(ylabel="gradient\nnorm")
        if _is_steep(_positive(rows, GRADIENT_NORM)):
            axes["gradient"].set_yscale("log")
        else:
            axes["gradient"].set_ylim(0, None)
        axes["gradient"].tick_params(labelbottom=False)
    if below == "total":
        _plot(axes["total"], rows, TOTAL_LOSSES[:1])
        _plot(axes["total"], rows, ("", TOTAL_LOSSES[1]), **points_of)
        axes["total"].set(ylabel="all losses", ylim=(0, None))
        axes["metric"].sharex(axes["total"])
        axes["metric"].tick_params(labelbottom=False)
    axes["loss"].set(ylabel="weighted loss, last prediction", ylim=(0, None))
    axes["loss"].tick_params(labelbottom=False)
    axes["lr"].set(xlabel="iteration", ylabel="learning\nrate")
    axes["metric"].set(ylabel="on the validation set, percent")
    axes[below].set(xlabel="iteration")
    axes["metric"].set_ylim(0, upper_limit(rows))
    learning_rates = _positive(rows, "lr")
    if _is_steep(learning_rates):
        axes["lr"].set_yscale("log")  # steps of a tenth would be flat on a linear axis
    elif learning_rates:
        axes["lr"].set_ylim(0, 1.15 * max(learning_rates))
        axes["lr"].ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    return figure


def _positive(rows: Sequence[dict[str, Any]], key: str) -> list[float]:
    return [value for _, value in points(rows, key) if value > 0]


def _is_steep(values: Sequence[float]) -> bool:
    """Tell whether positive values need a logarithmic axis."""
    return bool(values) and max(values) > 20 * min(values)


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
    if len(axes.lines) > 1 or (axes.lines and axes.lines[0].get_label() not in _NAMED_BY_AXIS):
        axes.legend(frameon=False)


def _name_once(axes: Axes, keys: Sequence[str], name: str) -> None:
    """Give lines one entry in the legend together, whose colour is none of theirs."""
    lines = [line for line in axes.lines if line.get_label() in keys]
    if not lines:
        return
    named = [line for line in axes.lines if line not in lines]
    sign = Line2D([], [], color="0.25", linestyle="--", label=name)
    axes.legend(handles=[*named, sign], frameon=False)


if __name__ == "__main__":
    sys.exit(main())
