#!/usr/bin/env python
"""The compiled CPU kernels beside the attention operator, against their forms in PyTorch.

Both run in turn in one process, on one thread unless told otherwise. Figures are medians, and the
CPU time of all threads together, which other programs on the machine disturb least.

    python benchmarks/bench_cpu_kernels.py [--threads 1] [--repeat 7] [--only criterion]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mask2former.modeling.criterion import SetCriterion
from mask2former.modeling.draws import draws_per_image
from mask2former.modeling.matcher import HungarianMatcher
from mask2former.modeling.ops import ms_deform_attn_projected, reference_points
from mask2former.modeling.ops.cpu_kernels import pytorch_forms
from mask2former.modeling.pixel_decoder.msdeformattn import upsampled_and_added
from mask2former.modeling.postprocessing import instance_inference
from mask2former.modeling.query_prediction import QueryPrediction
from mask2former.structures import PackedMasks

Run = Callable[[], object]


def compare(title: str, run: Run, repeat: int) -> None:
    """Print a row of the table."""
    times: dict[str, list[float]] = {"kernel": [], "pytorch": []}
    for i in range(repeat + 1):
        for form, found in times.items():
            with nullcontext() if form == "kernel" else pytorch_forms():
                start = time.process_time()
                run()
                seconds = time.process_time() - start
            if i > 0:  # the first is for warming up
                found.append(seconds)
    ours, theirs = (statistics.median(found) * 1e3 for found in times.values())
    print(f"| {title} | {ours:.1f} | {theirs:.1f} | {theirs / ours:.1f}x |", flush=True)


def blobs(count: int, size: tuple[int, int]) -> Tensor:
    """Return smooth mask logits (count, h, w), above 0 in about a tenth of the pixels."""
    coarse = torch.randn(count, 1, 6, 8) * 4 - 5
    return F.interpolate(coarse, size=size, mode="bicubic")[:, 0]


@torch.no_grad()
def instances(repeat: int) -> None:
    """Instances from mask logits: 100 queries, or 20 of a large photograph."""
    cases = [
        ("800x1216", 100, (200, 304), (800, 1216), (800, 1216), (800, 1216)),
        ("800x1067 to 480x640", 100, (200, 272), (800, 1088), (800, 1067), (480, 640)),
        ("800x1067 to 3000x4000", 20, (200, 272), (800, 1088), (800, 1067), (3000, 4000)),
    ]
    for name, count, size, padded, image, output in cases:
        for kind, logits in (("noise", torch.randn(count, *size)), ("blobs", blobs(count, size))):
            # every query has one class that is certain
            classes = torch.tensor([20.0, -20.0]).expand(count, 2)
            prediction = QueryPrediction(classes, logits, padded, image)
            compare(
                f"instances, {count} of {name}, {kind}",
                partial(instance_inference, prediction, output, max_detections=count),
                repeat,
            )


@torch.no_grad()
def attention(repeat: int) -> None:
    """The encoder's attention between its linear layers, for an image of 800x1216."""
    levels = [(25, 38), (50, 76), (100, 152)]
    references = reference_points(levels, torch.device("cpu"))
    for dtype in (torch.float32, torch.bfloat16):
        value = torch.randn(1, len(references), 8, 32).to(dtype)
        projected = (torch.randn(1, len(references), 8 * 3 * 4 * 3) / 10).to(dtype)
        title = f"deformable attention from projections, {str(dtype).removeprefix('torch.')}"
        run = partial(ms_deform_attn_projected, value, levels, references, projected)
        compare(title, run, repeat)


@torch.no_grad()
def feature_pyramid(repeat: int) -> None:
    """The last level of the pixel decoder's feature pyramid, for an image of 800x1216."""
    for dtype in (torch.float32, torch.bfloat16):
        for memory in (torch.contiguous_format, torch.channels_last):
            above, lateral = (
                torch.randn(1, 256, *size).to(dtype).contiguous(memory_format=memory)
                for size in ((100, 152), (200, 304))
            )
            name = "channels last" if memory == torch.channels_last else "channels first"
            title = f"upsample and add, {name}, {str(dtype).removeprefix('torch.')}"
            compare(title, partial(upsampled_and_added, lateral, above), repeat)


def criterion(repeat: int) -> None:
    """The losses of one prediction, forward and backward, of an image of 1024x1024."""
    losses = SetCriterion(
        80,
        matcher=HungarianMatcher(cost_class=2.0, cost_mask=5.0, cost_dice=5.0, num_points=12544),
        weight_dict={"loss_ce": 2.0, "loss_mask": 5.0, "loss_dice": 5.0},
        deep_supervision=False,
        no_object_weight=0.1,
        num_points=12544,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
    )
    size = (1024, 1024)
    for count, queries in ((20, 100), (100, 100), (300, 300)):
        masks = PackedMasks.from_masks((blobs(1, size)[0].numpy() > 0 for _ in range(count)), size)
        targets = [{"labels": torch.randint(80, (count,)), "masks": masks}]
        outputs = {
            "pred_logits": torch.randn(1, queries, 81, requires_grad=True),
            "pred_masks": torch.randn(1, queries, 256, 256, requires_grad=True),
        }
        title = f"criterion, one prediction, {count} targets of {queries} queries"
        compare(title, partial(step, losses, outputs, targets), repeat)


def step(losses: SetCriterion, outputs: dict[str, Tensor], targets: list[dict[str, Any]]) -> None:
    """Compute losses and gradients, with points that depend on the image, as in training."""
    with draws_per_image([{"seed": 0}], torch.device("cpu")):
        torch.stack(list(losses(outputs, targets).values())).sum().backward()


PARTS = {
    "attention": attention,
    "instances": instances,
    "pyramid": feature_pyramid,
    "criterion": criterion,
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--only", choices=PARTS, nargs="+", help="default: everything")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"{torch.backends.cpu.get_cpu_capability()}, PyTorch {torch.__version__}")
    print("| | kernel, ms | PyTorch, ms | ratio |\n|---|---|---|---|")
    for part in options.only or PARTS:
        PARTS[part](options.repeat)


if __name__ == "__main__":
    main()
