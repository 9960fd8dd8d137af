"""Compute the step again that ended a training run, and say where numbers stop being finite.

python -m mask2former.cli.replay output/mine/bad_batch

A run that ends because a loss or the gradient is NaN or infinite writes this folder: the samples of
that step, the weights before it, and what its random draws depend on. So the losses and the
gradients are those of the run. The command names the first layer whose output is not finite and,
going back from the losses, the first whose gradient is not, and draws the samples with their
targets into the folder.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mask2former_runtime.commands import run_reporting_errors, start_output

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from ..engine.bad_step import BadStep
    from ..engine.replay import Layer, Replay

_BEFORE = 3  # layers to show before the one that fails


def argument_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="bad_batch in the OUTPUT_DIR of the run")
    parser.add_argument("--layers", action="store_true", help="print all layers")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argument_parser()
    args = parser.parse_args(arguments)
    start_output("mask2former")
    return run_reporting_errors(parser.prog, run, args)


def run(args: argparse.Namespace) -> int:
    """Replay a step.

    Raises:
        ValueError: the folder does not hold a step.
    """
    from .. import load_config
    from ..engine.bad_step import CONFIG_FILE, read_step
    from ..engine.replay import replay

    step = read_step(args.folder)
    cfg = load_config(str(args.folder / CONFIG_FILE), ["MODEL.WEIGHTS", ""])
    images = sum(map(len, step.batches))
    print(f"Iteration {step.iteration}, {images} images. The run ended with: {step.error}")
    if step.processes > 1:
        print(
            f"It had {step.processes} processes, and these are the images of one: losses that are "
            "averaged over all of them differ"
        )
    print(f"Samples: {draw_samples(step, cfg, args.folder)}")
    found = replay(step, cfg)
    if found.error and found.error == step.error:
        found.error = "the error of the run"
    describe(found, all_layers=args.layers)
    return 0


def draw_samples(step: BadStep, cfg: CfgNode, folder: Path) -> Path:
    """Draw the samples of a step with their targets, and return the folder of the pictures."""
    import torch

    from mask2former_runtime.files import write_atomically
    from mask2former_runtime.stored import STORED_TYPES

    from ..data.mapper import get_preset
    from ..data.metadata import find_classes
    from ..engine.bad_step import CONFIG_FILE
    from ..report.training_samples import draw
    from ..structures import Classes

    count = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    classes = find_classes(cfg, str(folder / CONFIG_FILE)) or Classes.numbered(count)
    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    samples = [sample for batch in step.batches for sample in batch]
    for number, sample in enumerate(samples, start=1):
        image = sample["image"].nan_to_num(0, 255, 0)
        if cfg.INPUT.FORMAT not in STORED_TYPES:
            image = image.clamp(0, 255).to(torch.uint8)
        shown = {**sample, "image": image}
        shown.setdefault("padding_mask", torch.zeros(image.shape[-2:], dtype=torch.bool))
        picture = draw(shown, get_preset(cfg).targets, classes, cfg.INPUT.FORMAT)
        name = f"{number:03d}_{Path(sample.get('file_name', 'image')).stem}.jpg"
        save = partial(picture.convert("RGB").save, format="JPEG", quality=92)
        write_atomically(pictures / name, save)
    return pictures


def describe(found: Replay, *, all_layers: bool) -> None:
    """Print what a step gave."""
    for name in found.parameters[:_BEFORE]:
        print(f"Before the step, the parameter {name} holds NaN or infinite values")
    if len(found.parameters) > _BEFORE:
        print(f"... and so do {len(found.parameters) - _BEFORE} more parameters")
    if found.bad_output is not None:
        print(f"The first output that is not finite is that of {_name(found.bad_output)}")
    if all_layers:
        print_layers(found.layers)
    elif found.bad_output in found.layers:
        end = found.layers.index(found.bad_output) + 1
        print_layers(found.layers[max(0, end - 1 - _BEFORE) : end])
    if found.error:
        print(f"Then: {found.error}")
        return
    print("Losses: " + ", ".join(f"{name} {value:.6g}" for name, value in found.losses.items()))
    print(f"Norm of the gradient: {found.norm:.6g}")
    if found.bad_gradient is not None:
        print(f"The first gradient that is not finite is that of the output of "
              f"{_name(found.bad_gradient)}")  # fmt: skip
    if found.bad_parameters:
        more = len(found.bad_parameters) - 1
        what = f" and of {more} more parameters" if more else ""
        print(f"The gradient of {found.bad_parameters[0]}{what} is not finite")
    for name in found.statistics[:_BEFORE]:
        print(f"After the step, the statistic {name} holds NaN or infinite values")
    numbers = [*found.losses.values(), found.norm]
    if found.bad_output is None and all(map(math.isfinite, numbers)) and not found.statistics:
        print("All of these numbers are finite: the error does not occur on this machine")


def print_layers(layers: Sequence[Layer]) -> None:
    """Print the largest magnitudes of outputs and of their gradients."""
    width = max((len(_name(layer)) for layer in layers), default=0)
    print(f"  {'layer':{width}}  largest output  largest gradient")
    for layer in layers:
        gradient = "-" if layer.gradient is None else f"{layer.gradient:.4g}"
        print(f"  {_name(layer):{width}}  {layer.output:14.4g}  {gradient:>16}")


def _name(layer: Layer) -> str:
    return f"{layer.name} ({layer.kind})"


if __name__ == "__main__":
    sys.exit(main())
