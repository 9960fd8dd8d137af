#!/usr/bin/env python
"""Training iterations of Mask2Former R50 (COCO instances) on a GPU against Hugging Face.

Weights, images and targets are random: batches of 1024x1024 images with 20 ellipses each, the
published settings of the losses (12544 points, nine auxiliary predictions), AdamW and a clipped
gradient norm. An iteration is forward pass, matching, backward pass and step, without loading data.
The figures are medians of 10 iterations after 3 warm-up iterations, and PyTorch's peak of GPU
memory. Each case runs in a process of its own.

    python benchmarks/bench_training.py [--batch 2] [--precision float16]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable

import torch
from bench_inference import PRECISIONS, hugging_face_model, our_model, timed
from torch import Tensor, nn

SIZE, TARGETS, CLASSES = 1024, 20, 80
ITERATIONS, WARM_UP = 10, 3
Losses = Callable[[], Tensor]


def ellipses() -> Tensor:
    """Draw the masks of one image: bool (TARGETS, SIZE, SIZE)."""
    centre, radius = torch.rand(2, TARGETS, 2).mul_(SIZE).unbind()
    steps = torch.arange(SIZE) + 0.5
    y, x = (
        ((steps - centre[:, i, None]) / radius[:, i, None].clamp(min=16) * 3) ** 2 for i in (0, 1)
    )
    return y[:, :, None] + x[:, None, :] < 1


def ours(batch: int) -> tuple[nn.Module, Losses]:
    """Return our model and a function for its loss on Detectron2's inputs, which are on the CPU."""
    from detectron2.structures import Instances

    from mask2former.structures import PackedMasks

    model = our_model("cuda")
    inputs = []
    for _ in range(batch):
        instances = Instances((SIZE, SIZE))
        instances.gt_masks = PackedMasks.from_masks(iter(ellipses().numpy()), (SIZE, SIZE))
        instances.gt_classes = torch.randint(CLASSES, (TARGETS,))
        image = torch.randint(256, (3, SIZE, SIZE), dtype=torch.uint8)
        inputs.append({"image": image, "instances": instances})
    return model, lambda: sum(model(inputs).values())


def hugging_face(batch: int) -> tuple[nn.Module, Losses]:
    """Return the model of ``transformers`` and a function for its loss on inputs on the GPU."""
    model = hugging_face_model("cuda")
    pixels = torch.randn(batch, 3, SIZE, SIZE, device="cuda")
    masks = [ellipses().float().cuda() for _ in range(batch)]
    labels = [torch.randint(CLASSES, (TARGETS,), device="cuda") for _ in range(batch)]
    return model, lambda: model(
        pixel_values=pixels, mask_labels=masks, class_labels=labels
    ).loss.sum()


IMPLEMENTATIONS = {"ours": ours, "transformers": hugging_face}


def measure(implementation: str, batch: int, precision: str) -> None:
    """Train for some iterations and print the figures as JSON."""
    torch.manual_seed(0)
    model, losses = IMPLEMENTATIONS[implementation](batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.05)
    dtype = PRECISIONS[precision]
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)

    def iteration() -> int:
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=dtype, enabled=dtype is not None):
            loss = losses()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        scaler.step(optimizer)
        scaler.update()
        return 0

    seconds = [timed(iteration)[0] for _ in range(WARM_UP + ITERATIONS)][WARM_UP:]
    peak = torch.cuda.max_memory_allocated()
    print(json.dumps({"seconds": statistics.median(seconds), "peak": peak}))


def main() -> None:
    """Run both in turn and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[2])
    parser.add_argument("--precision", choices=PRECISIONS, nargs="+", default=["float32"])
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure, args.batch[0], args.precision[0])
        return
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}")
    print("| images | precision | implementation | seconds | ratio | peak GB | ratio |")
    print("|---|---|---|---|---|---|---|")
    for batch in args.batch:
        for precision in args.precision:
            figures = {}
            for name in IMPLEMENTATIONS:
                command = [sys.executable, __file__, "--batch", str(batch)]
                command += ["--precision", precision, "--measure", name]
                result = subprocess.run(command, capture_output=True, text=True, check=True)
                figures[name] = json.loads(result.stdout.splitlines()[-1])
            base = figures["transformers"]
            for name, found in figures.items():
                print(
                    f"| {batch} | {precision} | {name} | {found['seconds']:.3f} "
                    f"| {base['seconds'] / found['seconds']:.2f}x faster "
                    f"| {found['peak'] / 1e9:.2f} | {base['peak'] / found['peak']:.2f}x less |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
