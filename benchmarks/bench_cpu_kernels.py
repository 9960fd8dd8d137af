#!/usr/bin/env python
"""The compiled CPU kernels beside the attention operator, against their forms in PyTorch.

Both run in turn in one process, on one thread unless told otherwise. Figures are medians, and the
CPU time of all threads together, which other programs on the machine disturb least.

    python benchmarks/bench_cpu_kernels.py [--threads 1] [--repeat 7]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from mask2former.modeling import postprocessing
from mask2former.modeling.ops.cpu_kernels import cpu_kernel
from mask2former.modeling.query_prediction import QueryPrediction

Run = Callable[[], object]


def compare(title: str, kernel: Run, pytorch: Run, repeat: int) -> None:
    """Print a row of the table."""
    times: dict[Run, list[float]] = {kernel: [], pytorch: []}
    for i in range(repeat + 1):
        for run, found in times.items():
            start = time.process_time()
            run()
            if i > 0:  # the first is for warming up
                found.append(time.process_time() - start)
    ours, theirs = (statistics.median(times[run]) * 1e3 for run in (kernel, pytorch))
    print(f"| {title} | {ours:.1f} | {theirs:.1f} | {theirs / ours:.1f}x |", flush=True)


def blobs(count: int, size: tuple[int, int]) -> Tensor:
    """Return smooth mask logits (count, h, w), above 0 in about a tenth of the pixels."""
    coarse = torch.randn(count, 1, 6, 8) * 4 - 5
    return F.interpolate(coarse, size=size, mode="bicubic")[:, 0]


@torch.no_grad()
def instance_masks(repeat: int) -> None:
    """Instances from mask logits: 100 queries, or 20 of a large photograph."""
    cases = [
        ("800x1216", 100, (200, 304), (800, 1216), (800, 1216), (800, 1216)),
        ("800x1067 to 480x640", 100, (200, 272), (800, 1088), (800, 1067), (480, 640)),
        ("800x1067 to 3000x4000", 20, (200, 272), (800, 1088), (800, 1067), (3000, 4000)),
    ]
    for name, count, size, padded, image, output in cases:
        for kind, logits in (("noise", torch.randn(count, *size)), ("blobs", blobs(count, size))):
            kernel, queries = cpu_kernel("instance_masks", logits), torch.arange(count)
            assert kernel is not None, "not compiled"
            prediction = QueryPrediction(torch.empty(0), logits, padded, image)
            compare(
                f"instance masks, {count} of {name}, {kind}",
                partial(kernel, logits, queries, padded, image, output),
                partial(postprocessing.instance_masks, prediction, queries, output),
                repeat,
            )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"{torch.backends.cpu.get_cpu_capability()}, PyTorch {torch.__version__}")
    print("| | kernel, ms | PyTorch, ms | ratio |\n|---|---|---|---|")
    instance_masks(options.repeat)


if __name__ == "__main__":
    main()
