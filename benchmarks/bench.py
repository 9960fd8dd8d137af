#!/usr/bin/env python
"""How fast Mask2Former is: against its arithmetic, `transformers` and the published code.

    python benchmarks/bench.py                         all tables: about an hour on two cores
    python benchmarks/bench.py --quick                 fewer rows and calls: some minutes
    python benchmarks/bench.py --only inference start  some of the tables
    python benchmarks/bench.py --published DIR         also against a clone of the published code
    python benchmarks/bench.py --update FILE           write the tables into a Markdown file, too

Weights, images and targets are random. Each figure comes from a process of its own, so that its
peak of memory is its own. Programs that are compared take turns; times are medians. The limit is
the time of the network's multiplications and additions at the best rate that a 3x3 convolution
reaches just afterwards in the same process; post-processing is not part of it. "Others" is the
share of all cores that other programs had meanwhile. Above 5 % it is marked, because such times say
little. With ``--threads 1``, times are CPU times, whose ratios hold beside other programs, too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from machine import cpu_flags, description, median_of
from models import REPOSITORY, Case
from tables import TABLES, head, line

Figures = dict[str, Any]


class Bench:
    """Runs cases in processes of their own, and collects tables.

    Args:
        args: the command's arguments.
        scratch: a folder for weights.
    """

    def __init__(self, args: argparse.Namespace, scratch: Path):
        self.args = args
        self.scratch = scratch
        self.calls = 1 if args.quick else 3
        self.programs = ["ours", "transformers", *(["published"] if args.published else [])]
        self.goals: list[tuple[str, str, str, bool]] = []
        self.environment = {
            # Threads that wait let other programs run, as in the command `mask2former`
            "OMP_WAIT_POLICY": "PASSIVE",
            **os.environ,
            "OMP_NUM_THREADS": str(args.threads),
            "PYTHONPATH": os.pathsep.join(
                [str(REPOSITORY), str(REPOSITORY / "runtime"), os.environ.get("PYTHONPATH", "")]
            ),
            "PYTHONWARNINGS": "ignore",
        }
        self._flop: dict[Any, float] = {}

    def one(self, case: Case) -> Figures:
        """Measure a case once."""
        case = replace(case, published=self.args.published or "", device=self.args.device)
        if case.kind == "inference" and case.implementation == "ours":
            case = replace(case, folder=self.folder(case))
        script = str(Path(__file__).with_name("measure.py"))
        done = subprocess.run(
            [sys.executable, script, json.dumps(asdict(case)), "--calls", str(self.calls)],
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return json.loads(done.stdout.splitlines()[-1])

    def folder(self, case: Case) -> str:
        """Return a folder with weights of our model, which is made once."""
        folder = self.scratch / f"{case.model}_{case.queries}"
        if not folder.exists():
            folder.mkdir()
            self.one(replace(case, kind="save", folder=str(folder)))
        return str(folder)

    def compare(self, cases: dict[str, Case]) -> dict[str, Figures]:
        """Measure cases in turn; return medians, and the most that other programs took."""
        runs: dict[str, list[Figures]] = {name: [] for name in cases}
        for _ in range(self.args.repeat or (1 if self.args.quick else 3)):
            for name, case in cases.items():
                runs[name].append(self.one(case))
        return {name: _together(each) for name, each in runs.items()}

    def limit(self, case: Case, figures: Figures) -> float:
        """Return the seconds of the arithmetic of a case at the rate of the CPU beside it."""
        key = case.model, case.size
        if key not in self._flop:
            self._flop[key] = self.one(replace(case, kind="flop"))["flop"]
        return self._flop[key] / figures["rate"]

    def cases_of(self, case: Case) -> dict[str, Case]:
        """Return a case for each program."""
        return {name: replace(case, implementation=name) for name in self.programs}

    def programs_of(self, case: Case) -> dict[str, Figures]:
        """Measure a case with each program."""
        return self.compare(self.cases_of(case))

    def goal(self, what: str, goal: float, value: float, *, at_least: bool = False) -> None:
        """Note whether a figure reaches its goal."""
        reached = value >= goal if at_least else value <= goal
        self.goals.append((what, f"{'≥' if at_least else '≤'} {goal:g}", f"{value:.2f}", reached))


def _together(runs: list[Figures]) -> Figures:
    medians = {key: median_of(runs, key) for key in _MEDIANS & runs[0].keys()}
    return {**runs[0], **medians, "foreign": max(run["foreign"] for run in runs)}


_MEDIANS = {"seconds", "peak", "criterion", "rate"}


def update(file: Path, name: str, table: Sequence[str]) -> None:
    """Replace what is between ``<!-- bench: NAME -->`` and ``<!-- end -->``."""
    text = file.read_text()
    pattern = rf"(<!-- bench: {name} -->\n).*?(<!-- end -->)"
    content = "\n".join(table)
    text, count = re.subn(pattern, lambda m: f"{m[1]}\n{content}\n\n{m[2]}", text, flags=re.DOTALL)
    if count != 1:
        sys.exit(f"{file} does not have one place marked <!-- bench: {name} -->")
    file.write_text(text)


def argument_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--quick", action="store_true", help="fewer rows, one call each")
    parser.add_argument("--repeat", type=int, help="processes per figure (default: 3, or 1)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--published", metavar="DIR", help="a clone of the published code")
    parser.add_argument("--update", metavar="FILE", type=Path, help="a Markdown file with marks")
    return parser


def main() -> None:
    """Print the tables."""
    args = argument_parser().parse_args()
    args.precision = args.precision or ["fp32", *(["bf16"] if "bf16" in cpu_flags() else [])]
    notes = [
        *(["CPU times"] if args.threads == 1 else []),
        *(["--quick"] if args.quick else []),
        *([f"--repeat {args.repeat}"] if args.repeat else []),
    ]
    lines = [", ".join((description(args.threads), *notes))]
    print(lines[0], flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(args, Path(scratch))
        for name in args.only:
            table = TABLES[name](bench)
            print(f"\n{name}\n", *table, sep="\n", flush=True)
            if args.update:
                update(args.update, name, [*lines, "", *table])
        goals = head("goal", "limit", "measured", "reached")
        goals += [line(*goal[:3], "yes" if goal[3] else "no") for goal in bench.goals]
        print("\ngoals\n", *goals, sep="\n")
        if args.update:
            update(args.update, "goals", [*lines, "", *goals])


if __name__ == "__main__":
    main()
