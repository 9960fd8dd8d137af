#!/usr/bin/env python
"""Exported files against the model in PyTorch: size, time to export, time and memory to run.

    python benchmarks/bench_export.py                                   R50 at 800x1216, all files
    python benchmarks/bench_export.py --model quickstart --size 256 256
    python benchmarks/bench_export.py --only eager onnx openvino --threads 1

Weights and images are random. Only the network runs, without post-processing. Each run has a
process of its own, so that its peak of memory is its own; the variants take turns, and times are
medians. "Others" is the share of all cores that other programs had meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import Meter, description, memory
from models import CONFIGS, REPOSITORY, Case, save_weights
from tabulate import tabulate

VARIANTS: dict[str, tuple[str, ...]] = {
    "eager": (),
    "eager bf16": (),
    "onnx": ("--output", "gather.onnx"),
    "onnx grid_sample": ("--output", "grid_sample.onnx", "--operator", "grid_sample"),
    "onnx plugin": ("--output", "plugin.onnx", "--operator", "plugin"),
    "onnx fp16": ("--output", "fp16.onnx", "--precision", "fp16"),
    "onnx int8": ("--output", "int8.onnx", "--precision", "int8"),
    "openvino": ("--output", "gather.xml"),
    "openvino plugin": ("--output", "plugin.xml", "--operator", "plugin"),
    "openvino bf16": ("--output", "bf16.xml", "--precision", "bf16"),
    "pt2": ("--output", "mine.pt2"),
    "aoti": ("--output", "aoti.pt2", "--format", "aoti"),
}
"""The arguments of ``mask2former export`` by name."""
WITHOUT_ALL = ("aoti",)
"""Variants that must be asked for, because they take many minutes."""


def main() -> None:
    """Export, measure and print the table; or, with ``--run``, measure one file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=CONFIGS, default="R50")
    parser.add_argument("--size", nargs=2, type=int, default=(800, 1216), metavar=("H", "W"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=2, help="per round, after one not counted")
    parser.add_argument("--only", nargs="+", choices=VARIANTS)
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        print(json.dumps(measure(args.run[0], Path(args.run[1]), args)))
        return
    names = args.only or [name for name in VARIANTS if name not in WITHOUT_ALL]
    with tempfile.TemporaryDirectory() as scratch:
        table(names, Path(scratch), args)


def table(names: list[str], folder: Path, args: argparse.Namespace) -> None:
    """Export the variants into a folder, measure them in turn, and print the table."""
    save_weights(Case("save", model=args.model, folder=str(folder)), folder)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(args.threads),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "runtime")]),
    }
    runtimes = {runtime_of(name) for name in names if name.endswith("plugin")}
    if runtimes:
        build = [sys.executable, "-m", "mask2former.cli.build_operator", *runtimes]
        run([*build, "--output", folder], environment)
    exported = {}
    for name in names:
        if VARIANTS[name]:
            start = time.monotonic()
            flags = [*VARIANTS[name][2:], "--output", folder / VARIANTS[name][1]]
            command = [sys.executable, "-m", "mask2former", "export", folder, *flags]
            run(command, environment | library(name, folder))
            exported[name] = time.monotonic() - start
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(args.rounds):
        for name in names:
            command = [sys.executable, *sys.argv, "--run", name, folder]
            output = run(command, environment | library(name, folder))
            found[name].append(json.loads(output.splitlines()[-1]))
    base = median(found[names[0]], "seconds"), median(found[names[0]], "peak")
    rows = [
        (
            name,
            size_of(name, folder),
            exported.get(name, ""),
            median(figures, "seconds"),
            median(figures, "seconds") / base[0],
            median(figures, "peak") / 1e6,
            median(figures, "peak") / base[1],
            f"{max(f['foreign'] for f in figures):.0%}",
        )
        for name, figures in found.items()
    ]
    head = ["", "MB", "export s", "run s", f"/ {names[0]}", "peak MB", f"/ {names[0]}", "others"]
    print(f"{args.model}, {args.size[0]}x{args.size[1]}; {description(args.threads)}")
    print(
        tabulate(
            rows,
            headers=head,
            tablefmt="github",
            floatfmt=("", ".0f", ".0f", ".3f", ".2f", ".0f", ".2f"),
        )
    )


def measure(name: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run a variant in this process, which has not run anything before."""
    images = np.random.default_rng(0).standard_normal((1, 3, *args.size), np.float32)
    call = eager(name, folder) if name.startswith("eager") else exported_call(name, folder, args)
    call(images)
    meters = []
    for _ in range(args.calls):
        with Meter(args.threads) as meter:
            call(images)
        meters.append(meter)
    return {
        "seconds": statistics.median(meter.seconds for meter in meters),
        "foreign": max(meter.foreign for meter in meters),
        **memory(),
    }


def eager(name: str, folder: Path):  # type: ignore[no-untyped-def]
    """Return the network in PyTorch as a function of images."""
    import torch

    from mask2former import Mask2Former
    from mask2former.export.program import Network

    precision = torch.bfloat16 if name.endswith("bf16") else None
    network = Network(Mask2Former.from_pretrained(folder).network, precision)

    def call(images: np.ndarray) -> None:
        with torch.inference_mode():
            network(torch.from_numpy(images).to(memory_format=torch.channels_last))

    return call


def exported_call(name: str, folder: Path, args: argparse.Namespace):  # type: ignore[no-untyped-def]
    """Return the network of an exported file as a function of images."""
    file = folder / VARIANTS[name][1]
    if file.suffix == ".pt2":
        import torch

        from mask2former.inference.exported import open_exported

        _, run = open_exported(file, allow_unsafe=True)

        def call(images: np.ndarray) -> None:
            with torch.inference_mode():
                run(torch.from_numpy(images))

        return call
    from mask2former_runtime.networks import open_network

    return open_network(file, threads=args.threads)


def library(name: str, folder: Path) -> dict[str, str]:
    """Return the variable of the environment that names the library of a variant."""
    if not name.endswith("plugin"):
        return {}
    file = folder / f"libmask2former_{runtime_of(name)}.so"
    return {"MASK2FORMER_OPERATOR_LIBRARY": str(file)}


def runtime_of(name: str) -> str:
    """Return the runtime of a variant that is not one of PyTorch's."""
    return "openvino" if name.startswith("openvino") else "onnxruntime"


def size_of(name: str, folder: Path) -> float:
    """Return the megabytes of a variant's files."""
    file = folder / VARIANTS[name][1] if VARIANTS[name] else folder / "model_final.pth"
    files = [file, *([file.with_suffix(".bin")] if file.suffix == ".xml" else [])]
    return sum(f.stat().st_size for f in files) / 1e6


def median(figures: list[dict[str, Any]], key: str) -> float:
    """Return the median of a figure over the rounds."""
    return statistics.median(f[key] for f in figures)


def run(command: list[Any], environment: dict[str, str]) -> str:
    """Run a command and return its output."""
    done = subprocess.run(
        [str(part) for part in command],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


if __name__ == "__main__":
    main()
