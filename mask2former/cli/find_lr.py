"""Find a learning rate for your data: the loss of some steps with a growing rate.

The command trains about 100 steps, each with a greater learning rate than the one before, and
suggests the rate at which the loss falls fastest. It writes a picture of the losses and nothing
else: no run begins. All settings but the rate are those that `mask2former train` would have.

Examples:
  mask2former find-lr --data my_data
  mask2former find-lr --data my_data --model quickstart/panoptic --steps 200
  mask2former find-lr --data my_data --output rates.png --opts SOLVER.IMS_PER_BATCH 4
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mask2former_runtime.commands import run_reporting_errors, start_output

from ..flags.trust import add_trust_flags
from .flags import add_config_flags, add_data, recognised_data, run_of
from .train import MODEL_CHOICE_HELP, choose_config

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..engine.lr_finder import Sweep


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the data, the model and the sweep."""
    add_data(parser)
    parser.add_argument("--model", metavar="NAME", help=MODEL_CHOICE_HELP)
    _add_sweep_flags(parser)
    add_config_flags(parser)


def _add_sweep_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--steps", type=int, default=100, metavar="N", help="training steps (default: %(default)s)"
    )
    parser.add_argument(
        "--range",
        type=float,
        nargs=2,
        default=(1e-6, 1e-1),
        metavar=("LOW", "HIGH"),
        help="learning rates of the first and the last step (default: 1e-6 0.1)",
    )
    parser.add_argument(
        "--output",
        default="learning_rates.png",
        metavar="FILE",
        help="picture of the losses (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Choose a model for the data as `mask2former train` does, and try learning rates."""
    import torch

    found = recognised_data(args)
    config_file, why = choose_config(args.model, args.task)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"Model: {config_file}, on {device}{why}", flush=True)
    overrides = ["MODEL.DEVICE", device, *args.opts]
    return find(run_of(args, config_file, overrides, found=found), args)


def find(run: argparse.Namespace, args: argparse.Namespace) -> int:
    """Try learning rates, draw the losses, and print the suggestion.

    Args:
        run: arguments of `train_net.py`.
        args: the arguments of the sweep.

    Raises:
        ValueError: the arguments, the config or the data are not usable, or the losses are not
            finite.
        OSError: the picture cannot be written.
    """
    from mask2former_runtime.files import write_atomically

    from ..engine.lr_finder import check_sweep, find_learning_rate
    from ..engine.setup import checked_config

    kind = _kind(Path(args.output))
    check_sweep(args.range[0], args.range[1], args.steps)
    cfg, _, settings = checked_config(run)
    if settings.choices:
        print(settings, flush=True)
    sweep = find_learning_rate(
        cfg,
        low=args.range[0],
        high=args.range[1],
        steps=args.steps,
        allow_unsafe_weights=run.allow_unsafe_weights,
        quiet=False,
    )
    figure = draw(sweep, cfg.SOLVER.BASE_LR)
    if sweep.suggestion is not None:
        print(_suggestion(sweep, cfg.SOLVER.BASE_LR), flush=True)
    write_atomically(args.output, lambda file: figure.savefig(file, format=kind, dpi=110))
    print(f"Losses: {args.output}")
    if sweep.suggestion is None:
        print("No suggestion: the loss does not fall. Try more --steps, or another --range")
        return 1
    return 0


def _suggestion(sweep: Sweep, configured: float) -> str:
    least = sweep.rates[sweep.best]
    return (
        f"Suggestion: SOLVER.BASE_LR {sweep.suggestion:.1e}, where the loss falls fastest\n"
        f"The loss is least at {least:.1e}; a tenth of that, {least / 10:.1e}, is a bolder choice. "
        f"The config has {configured:.1e}"
    )


def _kind(output: Path) -> str:
    """Return the format of the picture; it is checked before the sweep, which takes long."""
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = FigureCanvasBase.get_supported_filetypes()
    kind = output.suffix[1:].lower() or "png"
    if kind not in kinds:
        raise ValueError(f"--output {output}: a picture ends with .png, .svg or .pdf")
    if not output.parent.is_dir():
        raise ValueError(f"--output {output}: there is no folder {output.parent}")
    return kind


def draw(sweep: Sweep, configured: float) -> Figure:
    """Draw the losses over the learning rate.

    Args:
        sweep: the losses.
        configured: the learning rate of the config.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(sweep.rates, sweep.losses, color="0.75", linewidth=1, label="loss of a step")
    axes.plot(sweep.rates, sweep.smoothed, color="tab:blue", linewidth=2, label="smoothed")
    if sweep.rates[0] <= configured <= sweep.rates[-1]:
        label = f"config: {configured:.1e}"
        axes.axvline(configured, color="0.45", linestyle=":", label=label)
    if sweep.suggestion is not None:
        label = f"suggestion: {sweep.suggestion:.1e}"
        axes.axvline(sweep.suggestion, color="tab:red", linestyle="--", label=label)
    # Losses of a model that has diverged would flatten the rest.
    low, high = sweep.losses.min(), min(sweep.losses.max(), 1.5 * sweep.losses[:10].mean())
    margin = 0.05 * (high - low) or 0.1
    axes.set(xscale="log", xlabel="learning rate (SOLVER.BASE_LR)", ylabel="total loss")
    axes.set_ylim(low - margin, high + margin)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def argument_parser() -> argparse.ArgumentParser:
    """Build the parser of `python -m mask2former.cli.find_lr`."""
    from ..engine.data_flags import add_data_flags
    from ..engine.start import run_arguments

    parser = argparse.ArgumentParser("find_lr.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config-file", required=True, metavar="FILE", help="YAML config")
    _add_sweep_flags(parser)
    add_data_flags(parser)
    add_trust_flags(parser)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys to change")
    parser.set_defaults(**vars(run_arguments()))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, which has the data arguments of `train_net.py`; return its status."""
    start_output("mask2former")
    args = argument_parser().parse_args(arguments)
    return run_reporting_errors("find_lr.py", lambda args: find(args, args), args)


if __name__ == "__main__":
    sys.exit(main())
