#!/usr/bin/env python
"""What the options of training gain on a user's own data, in equal time.

Each option trains for so many minutes, with its schedule fitted to them, once per seed, one run
after the other. The table has the accuracy of the last weights and of their average, as means with
their range. Runs that are there already are not repeated.

    python benchmarks/bench_training_options.py --data my_data --minutes 4 --output output/options

With ``--cpu-time``, the minutes are of CPU time: short runs of the options in turn measure the CPU
time of an iteration, which gives the number of iterations. The least time counts, because other
programs on the machine make iterations slower and never faster.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tabulate import tabulate

from mask2former.tasks import TASKS

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
    parser.add_argument("--task", choices=TASKS, default="instance")
    parser.add_argument("--model", help="as of `mask2former train`")
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--cpu-time", action="store_true", help="of all threads together")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--options", nargs="+", choices=OPTIONS, default=list(OPTIONS))
    parser.add_argument("--output", required=True, help="folder of the runs")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE ... of all runs"
    )
    args = parser.parse_args()
    metric = TASKS[args.task].metric
    found: dict[str, list[tuple[float, float]]] = {}
    lengths = dict.fromkeys(args.options, ("--time-budget", f"{args.minutes}m"))
    if args.cpu_time:
        for option, count in iterations(args).items():
            lengths[option] = "--iterations", str(count)
    for seed in range(args.seeds):
        for option in args.options:
            folder = Path(args.output, f"{option.replace(', ', '_').replace(' ', '_')}_{seed}")
            if not (folder / "model_final.pth").exists():
                train(args, option, seed, folder, *lengths[option])
            values = last_metrics(folder / "metrics.json")
            pair = values[metric], values.get(f"ema/{metric}", math.nan)  # none of a short run
            found.setdefault(option, []).append(pair)
            print(f"seed {seed}, {option}: {pair[0]:.1f}, averaged {pair[1]:.1f}", flush=True)
    rows = [
        (option, *(summary([pair[i] for pair in pairs]) for i in (0, 1)))
        for option, pairs in found.items()
    ]
    print(tabulate(rows, headers=["", metric, "of the averaged weights"], tablefmt="github"))


def iterations(args: argparse.Namespace, rounds: int = 3) -> dict[str, int]:
    """Return how many iterations of each option take the wanted CPU time."""
    steps: dict[str, list[float]] = {option: [] for option in args.options}
    few, more = 10, 40
    for _ in range(rounds):
        for option, found in steps.items():
            found.append(
                (cpu_time(args, option, more) - cpu_time(args, option, few)) / (more - few)
            )
    counts = {option: round(60 * args.minutes / min(found)) for option, found in steps.items()}
    for option, count in counts.items():
        print(f"{option}: {min(steps[option]):.3f} s of CPU time per iteration, {count} iterations")
    return counts


def cpu_time(args: argparse.Namespace, option: str, count: int) -> float:
    """Return the CPU time of a run of so many iterations, in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        before = os.times()
        train(args, option, 0, Path(folder), "--iterations", str(count), "TEST.EVAL_PERIOD", "0")
        after = os.times()
    return sum(after[2:4]) - sum(before[2:4])


def train(
    args: argparse.Namespace,
    option: str,
    seed: int,
    folder: Path,
    flag: str,
    length: str,
    *keys: str,
) -> None:
    """Train in a process of its own."""
    model = ["--model", args.model] if args.model else []
    command = [
        *(sys.executable, "-m", "mask2former"),
        *("train", "--data", args.data, "--task", args.task, *model, "--output", str(folder)),
        *(flag, length, "--opts", "SEED", str(seed)),
        *(*OPTIONS[option], *args.opts, *keys),
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
