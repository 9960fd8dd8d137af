#!/usr/bin/env python
"""Measures one case in this process, which should not have run anything before: see ``bench.py``.

    python benchmarks/measure.py '{"kind": "inference", "folder": "output/mine"}' [--calls 3]

The argument has the fields of `models.Case` as JSON; the last line of the output has the figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import Meter, convolution_rate, memory
from models import CONFIGS, PRECISIONS, REPOSITORY, Case, inference, save_weights, training

Figures = dict[str, Any]


def measure(case: Case, calls: int) -> Figures:
    """Measure a case in this process, which has not run anything before."""
    torch.manual_seed(0)
    if case.as_command:
        from mask2former.utils.memory import reuse_freed_memory

        reuse_freed_memory()
    if case.kind == "flop":
        return {"flop": 2 * _multiplications(case)}
    if case.kind == "save":
        save_weights(case, Path(case.folder))
        return {}
    criterion = None
    if case.kind == "training":
        run, criterion = training(case)
    else:
        run = inference(case)
    _timed(run, case)  # the first call, which also makes what later calls reuse
    meters, result = zip(*(_timed(run, case) for _ in range(calls)), strict=True)
    figures: Figures = {
        "seconds": statistics.median(meter.seconds for meter in meters),
        "foreign": max(meter.foreign for meter in meters),
        "result": result[0],
        **(memory() if case.device == "cpu" else {"peak": torch.cuda.max_memory_allocated()}),
    }
    if criterion is not None:
        criterion()
        figures["criterion"] = statistics.median(
            _timed(criterion, case)[0].seconds for _ in range(calls)
        )
    elif case.with_rate and case.implementation == "ours" and case.device == "cpu":
        figures["rate"] = convolution_rate(PRECISIONS[case.precision])
    return figures


def _timed(run: Callable[[], Any], case: Case) -> tuple[Meter, Any]:
    with Meter(torch.get_num_threads()) as meter:
        result = run()
        if case.device == "cuda":
            torch.cuda.synchronize()
    return meter, result


def _multiplications(case: Case) -> int:
    from mask2former import analysis, load_config

    model = analysis.build_on_meta(
        load_config(str(REPOSITORY / CONFIGS[case.model]), case.overrides)
    )
    size = analysis.padded_size(model, *case.size)
    return sum(analysis.count_operators(model, *size).flops.values())


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("case", help="JSON")
    parser.add_argument("--calls", type=int, default=3, help="after one that is not counted")
    args = parser.parse_args()
    values = json.loads(args.case)
    values |= {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
    print(json.dumps(measure(Case(**values), args.calls)))


if __name__ == "__main__":
    main()
