#!/usr/bin/env python
"""What the options of training gain on a user's own data, in equal time.

Each option trains for so many minutes, with its schedule fitted to them, once per seed, one run
after the other. The table has the accuracy of the last weights and of their average, as means with
their range. Runs that are there already are not repeated.

    python benchmarks/bench_training_options.py --data my_data --minutes 4 --output output/options
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from tabulate import tabulate

from mask2former.engine.settings.recipe import METRICS

SCRATCH = ("MODEL.WEIGHTS", "")
OPTIONS: dict[str, tuple[str, ...]] = {
    "from scratch": SCRATCH,
    "pretrained": (),
    "pretrained, mask-piloted": ("MODEL.MASK_FORMER.PILOTED.GROUPS", "3"),
    "pretrained, mask annealing": ("MODEL.MASK_FORMER.ANNEALING.ENABLED", "True"),
    "pretrained, augmented as photographs": ("INPUT.AUGMENTATION", "photographs"),
    "from scratch, mask-piloted": (*SCRATCH, "MODEL.MASK_FORMER.PILOTED.GROUPS", "3"),
    "from scratch, augmented as photographs": (*SCRATCH, "INPUT.AUGMENTATION", "photographs"),
}


def main() -> None:
    """Train with each option and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder, as of `mask2former train`")
    parser.add_argument("--task", choices=METRICS, default="instance")
    parser.add_argument("--model", help="as of `mask2former train`")
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--options", nargs="+", choices=OPTIONS, default=list(OPTIONS))
    parser.add_argument("--output", required=True, help="folder of the runs")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE ... of all runs"
    )
    args = parser.parse_args()
    metric = METRICS[args.task]
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(args.seeds):
        for option in args.options:
            folder = Path(args.output, f"{option.replace(', ', '_').replace(' ', '_')}_{seed}")
            if not (folder / "model_final.pth").exists():
                train(args, option, seed, folder)
            values = last_metrics(folder / "metrics.json")
            pair = values[metric], values[f"ema/{metric}"]
            found.setdefault(option, []).append(pair)
            print(f"seed {seed}, {option}: {pair[0]:.1f}, averaged {pair[1]:.1f}", flush=True)
    rows = [
        (option, *(summary([pair[i] for pair in pairs]) for i in (0, 1)))
        for option, pairs in found.items()
    ]
    print(tabulate(rows, headers=["", metric, "of the averaged weights"], tablefmt="github"))


def train(args: argparse.Namespace, option: str, seed: int, folder: Path) -> None:
    """Train in a process of its own."""
    model = ["--model", args.model] if args.model else []
    command = [
        *(sys.executable, "-m", "mask2former"),
        *("train", "--data", args.data, "--task", args.task, *model, "--output", str(folder)),
        *("--time-budget", f"{args.minutes}m", "--opts", "SEED", str(seed)),
        *(*OPTIONS[option], *args.opts),
    ]
    subprocess.run(command, check=True, stdout=sys.stderr)


def last_metrics(file: Path) -> dict[str, float]:
    """Return the last value of each metric."""
    values: dict[str, float] = {}
    for line in file.read_text().splitlines():
        values.update(json.loads(line))
    return values


def summary(values: list[float]) -> str:
    """Return the mean and the range."""
    return f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
