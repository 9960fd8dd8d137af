"""Count a model's parameters, FLOPs and activations, or print its structure. No weights are needed.

python -m mask2former.cli.analyze_model parameter flop \\
    --config-file configs/coco/instance-segmentation/maskformer2_R50_bs16_50ep.yaml
python -m mask2former.cli.analyze_model flop --config-file config.yaml --input photos/
python -m mask2former.cli.analyze_model structure --config-file config.yaml \\
    --opts MODEL.RESNETS.DEPTH 101

FLOPs and activations are those of backbone and head per image. They are means over the first 100
images of DATASETS.TEST, resized as in evaluation, or the values for one input of 800x1216 pixels if
the data set is not there. A multiplication with an addition counts as one FLOP, as in papers.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from tabulate import tabulate
from torch import nn

from mask2former_runtime.commands import run_reporting_errors
from mask2former_runtime.image import IMAGE_SUFFIXES
from mask2former_runtime.preprocessing import network_size

from .. import load_config
from ..analysis import (
    OperatorCounts,
    build_on_meta,
    count_operators,
    padded_size,
    parameters_by_part,
)
from ..data.checks.image_files import image_header
from ..data.files import require, walk_files
from ..utils.progress import with_progress
from ..utils.size import Size

TASKS = ("parameter", "flop", "activation", "structure")
FIXED_SIZE = (800, 1216)


def argument_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="+", choices=TASKS, metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--config-file", required=True, metavar="FILE", help="YAML config")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--input", metavar="DIR", help="use the sizes of the images in this folder")
    source.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("HEIGHT", "WIDTH"),
        help="use one input of this size, without resizing",
    )
    parser.add_argument(
        "--num-inputs",
        type=int,
        default=100,
        metavar="N",
        help="number of images of the data set or folder to use (default: %(default)s)",
    )
    parser.add_argument(
        "--opts", nargs="*", default=[], metavar="KEY VALUE", help="config keys to change"
    )
    return parser


def input_sizes(cfg: CfgNode, args: argparse.Namespace) -> tuple[list[Size], str]:
    """Return the sizes of the network's inputs before padding, and a text about their source.

    Raises:
        ValueError: a size is not positive, the folder has no images or a file is not an image.
    """
    if args.size is not None:
        if min(args.size) < 1:
            raise ValueError(f"--size {args.size[0]} {args.size[1]}: no such size")
        return [tuple(args.size)], "one input of the given size"
    if args.num_inputs < 1:
        raise ValueError(f"--num-inputs {args.num_inputs}: at least one is needed")
    if args.input is not None:
        require(args.input, "folder of images")
        files = sorted(f for f in walk_files(args.input) if f.lower().endswith(IMAGE_SUFFIXES))
        if not files:
            raise ValueError(f"--input {args.input}: there is no image in this folder")
        sizes = [image_header(Path(args.input, file)).upright for file in files[: args.num_inputs]]
        source = f"of {args.input}"
    else:
        names = cfg.DATASETS.TEST
        try:
            records = DatasetCatalog.get(names[0]) if names else []
        except (KeyError, OSError, ValueError) as error:
            return [FIXED_SIZE], f"one input of a fixed size, as {names[0]} is not there: {error}"
        if not records:
            return [FIXED_SIZE], "one input of a fixed size, as DATASETS.TEST is empty"
        sizes = [
            (record["height"], record["width"])
            if "height" in record
            else image_header(record["file_name"]).upright
            for record in records[: args.num_inputs]
        ]
        source = f"of {names[0]}"
    return [
        network_size(*size, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) for size in sizes
    ], f"{len(sizes)} images {source}"


def count_all(model: nn.Module, sizes: Sequence[Size]) -> list[OperatorCounts]:
    """Count operators for inputs of these sizes, which are sizes before padding."""
    padded = [padded_size(model, *size) for size in sizes]
    # Only the size matters, and a set of photographs has few different sizes.
    known = {
        size: count_operators(model, *size)
        for size in with_progress(sorted(set(padded)), "Counting", unit="sizes", delay=2)
    }
    return [known[size] for size in padded]


def report_counts(counts: Sequence[Counter[tuple[str, str]]], unit: float, name: str) -> str:
    """Format a table of means per operator and part, and the mean and deviation of the sums."""
    total: Counter[tuple[str, str]] = Counter()
    for count in counts:
        total.update(count)
    mean = {key: value / len(counts) / unit for key, value in total.items()}
    parts = list(dict.fromkeys(part for part, _ in mean))
    operators = Counter[str]()
    for (_, operator), value in mean.items():
        operators[operator] += value  # type: ignore[assignment]
    rows = [
        [operator, *(mean.get((part, operator), 0) for part in parts), value]
        for operator, value in operators.most_common()
    ]
    rows.append(
        ["all", *(sum(v for (p, _), v in mean.items() if p == part) for part in parts),
         sum(mean.values())]
    )  # fmt: skip
    sums = np.array([sum(count.values()) for count in counts]) / unit
    table = tabulate(rows, [name, *parts, "all"], floatfmt=",.3f")
    return f"{table}\n\n{name}: {sums.mean():.1f} ± {sums.std():.1f}"


def report_parameters(model: nn.Module) -> str:
    """Format a table of parameters per part."""
    counts = parameters_by_part(model)
    rows = [[part, count, count / 1e6] for part, count in counts.items()]
    total = sum(counts.values())
    rows.append(["all", total, total / 1e6])
    return tabulate(rows, ["parameters", "", "millions"], intfmt=",", floatfmt=".2f")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argument_parser()
    return run_reporting_errors(parser.prog, run, parser.parse_args(arguments))


def run(args: argparse.Namespace) -> int:
    """Print what is asked for; return 0.

    Raises:
        ValueError: the config or the images are not usable.
    """
    cfg = load_config(args.config_file, args.opts)
    model = build_on_meta(cfg)
    if "structure" in args.tasks:
        print(model, end="\n\n")
    if "parameter" in args.tasks:
        print(report_parameters(model), end="\n\n")
    if "flop" in args.tasks or "activation" in args.tasks:
        sizes, source = input_sizes(cfg, args)
        _report_operators(args.tasks, model, sizes, source)
    return 0


def _report_operators(
    tasks: Sequence[str], model: nn.Module, sizes: Sequence[Size], source: str
) -> None:
    counts = count_all(model, sizes)
    heights, widths = zip(*(padded_size(model, *size) for size in sizes), strict=True)
    mean = f"{np.mean(heights):.0f}x{np.mean(widths):.0f}"
    print(f"Means over {source}; network inputs of {mean} (height x width) on average.\n")
    if "flop" in tasks:
        print(report_counts([c.flops for c in counts], 1e9, "GFLOPs"), end="\n\n")
    if "activation" in tasks:
        print(report_counts([c.activations for c in counts], 1e6, "M activations"), end="\n\n")
    unknown = sum((c.unknown for c in counts), Counter[str]())
    if unknown:
        listed = ", ".join(f"{name} ({calls} calls)" for name, calls in unknown.items())
        print(f"NOT COUNTED, because their cost is not known: {listed}")
    else:
        print(
            "Counted as 0: elementwise arithmetic, softmax, pooling, batch norms and moving data. "
            "All operators are known."
        )


if __name__ == "__main__":
    sys.exit(main())
