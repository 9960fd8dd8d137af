#!/usr/bin/env python
"""Accuracy against time for each number of layers of a trained transformer decoder.

Every layer is trained to predict, so a model can stop after any of them
(MODEL.MASK_FORMER.TEST.DEC_LAYERS). The script evaluates each choice, and times the network alone
on one input, in turn with the others: the median of the calls.

    python benchmarks/bench_decoder_layers.py output/mine --data my_data
    python benchmarks/bench_decoder_layers.py output/quickstart/instance --size 800 1216

MODEL is what `mask2former predict` takes: the folder of a run, a file of weights, a published name.
Without --data, it is evaluated on the data sets of its config.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import statistics
import sys
import time
from typing import Any

import torch

from mask2former import Mask2Former

# The number that stands for the others, for each kind of results.
METRICS = {"panoptic_seg": "PQ", "segm": "AP", "sem_seg": "mIoU"}
KEY = "MODEL.MASK_FORMER.TEST.DEC_LAYERS"


@torch.inference_mode()
def seconds(model: Mask2Former, size: tuple[int, int], calls: int) -> list[float]:
    """Return the median time of the network for each number of predictions, from 1."""
    network: Any = model.network
    decoder = network.sem_seg_head.predictor
    inputs = [{"image": torch.randint(256, (3, *size), dtype=torch.uint8)}]
    times: list[list[float]] = [[] for _ in range(decoder.num_layers + 1)]
    chosen = decoder.test_layers
    for call in range(calls + 1):
        for layers, found in enumerate(times):
            decoder.test_layers = layers
            start = time.perf_counter()
            network.predict(inputs)
            if model.device.type == "cuda":
                torch.cuda.synchronize()
            if call:  # the first one warms up
                found.append(time.perf_counter() - start)
    decoder.test_layers = chosen
    return [statistics.median(found) for found in times]


def accuracy(results: dict[str, Any]) -> dict[str, float]:
    """Return the main metric of each task; of several data sets, for the first."""
    if not METRICS.keys() & results.keys():
        results = next(iter(results.values()))
    return {metric: results[key][metric] for key, metric in METRICS.items() if key in results}


def main() -> None:
    """Print a table with a row for each number of layers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--data", metavar="FOLDER", help="evaluate on the validation set of these")
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("HEIGHT", "WIDTH"),
        help="of the input to time (default: a square of INPUT.MIN_SIZE_TEST)",
    )
    parser.add_argument("--calls", type=int, default=3, help="to time (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="of PyTorch")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="of the config")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    model = Mask2Former.from_pretrained(args.model, overrides=args.opts)
    if not hasattr(model.network.sem_seg_head.predictor, "test_layers"):
        parser.error(f"{args.model} does not have MultiScaleMaskedTransformerDecoder")
    size = tuple(args.size or (model.cfg.INPUT.MIN_SIZE_TEST,) * 2)
    times = seconds(model, size, args.calls)
    logging.disable(logging.WARNING)
    rows = []
    for predictions in range(1, len(times) + 1):
        with contextlib.redirect_stdout(sys.stderr):  # what is said about the data
            results = model.evaluate(args.data, overrides=[*args.opts, KEY, predictions])
        rows.append(accuracy(results))
    print(f"{model.device}, {size[0]}x{size[1]} pixels, PyTorch {torch.__version__}")
    print(f"| layers | {KEY} | {' | '.join(rows[0])} | seconds | of all layers' |")
    print("|---|---|" + "---|" * len(rows[0]) + "---|---|")
    for layers, (row, spent) in enumerate(zip(rows, times, strict=True)):
        values = " | ".join(f"{value:.1f}" for value in row.values())
        print(f"| {layers} | {layers + 1} | {values} | {spent:.3f} | {spent / times[-1]:.0%} |")


if __name__ == "__main__":
    main()
