#!/usr/bin/env python
"""Inference of Mask2Former R50 (COCO instances): peak memory and time against Hugging Face.

Each case runs in a process of its own, with random weights.

    python benchmarks/bench_inference.py [--repeat 3] [--threads 2]
        Times the first call on the CPU. The peak memory is that of the whole process, including
        Python and PyTorch. Linux only.

    python benchmarks/bench_inference.py --device cuda [--precision float16]
        Takes the median of 10 calls on a GPU after 3 warm-up calls. The peak is PyTorch's peak of
        GPU memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

CONFIG = (
    Path(__file__).parents[1] / "configs/coco/instance-segmentation/maskformer2_R50_bs16_50ep.yaml"
)
# name: network input (height, width), output (height, width)
CASES = {
    "800x1216": ((800, 1216), (800, 1216)),
    "800x1067 to 3000x4000": ((800, 1067), (3000, 4000)),
}
PRECISIONS = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}
CALLS_ON_A_GPU, WARM_UP = 10, 3
Size = tuple[int, int]


def our_model(device: str) -> nn.Module:
    """Build Mask2Former R50 with random weights, in training mode."""
    from detectron2.modeling import build_model

    from mask2former import load_config

    model = build_model(load_config(str(CONFIG), ["MODEL.DEVICE", device, "MODEL.WEIGHTS", ""]))
    return model.to(memory_format=torch.channels_last) if device == "cpu" else model


def hugging_face_model(device: str) -> nn.Module:
    """Build the same architecture in ``transformers``."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetConfig

    backbone = ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
    config = Mask2FormerConfig(backbone_config=backbone, num_labels=80)
    return Mask2FormerForUniversalSegmentation(config).to(device).train()


def ours(size: Size, output: Size, device: str) -> Callable[[], int]:
    """Return the call of our model to time, which returns the number of instances."""
    model = our_model(device).eval()
    image = torch.randint(256, (3, *size), dtype=torch.uint8)
    inputs = [{"image": image, "height": output[0], "width": output[1]}]
    return lambda: len(model(inputs)[0]["instances"])


def hugging_face(size: Size, output: Size, device: str) -> Callable[[], int]:
    """Return the call of ``transformers`` to time, including its own post-processing."""
    from transformers import Mask2FormerImageProcessor

    model = hugging_face_model(device).eval()
    processor = Mask2FormerImageProcessor()
    height, width = (-(-s // 32) * 32 for s in size)
    pixels = torch.randn(1, 3, height, width, device=device)

    def run() -> int:
        outputs = model(pixel_values=pixels)
        (result,) = processor.post_process_instance_segmentation(
            outputs, threshold=0.0, target_sizes=[output], return_binary_maps=True
        )
        return len(result["segments_info"])

    return run


IMPLEMENTATIONS = {"ours": ours, "transformers": hugging_face}


@torch.no_grad()
def measure(implementation: str, case: str, options: argparse.Namespace) -> None:
    """Run one case and print the figures as JSON."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    dtype = PRECISIONS[options.precision]
    run = IMPLEMENTATIONS[implementation](*CASES[case], options.device)
    with torch.autocast(options.device, dtype=dtype, enabled=dtype is not None):
        if options.device == "cpu":
            seconds, count = timed(run)
            found = memory()
        else:
            calls = [timed(run) for _ in range(WARM_UP + CALLS_ON_A_GPU)][WARM_UP:]
            seconds, count = statistics.median(s for s, _ in calls), calls[0][1]
            found = {"peak": torch.cuda.max_memory_allocated()}
    print(json.dumps({"seconds": seconds, "instances": count, **found}))


def timed(run: Callable[[], int]) -> tuple[float, int]:
    """Return the seconds of a call, including its work on a GPU, and what it returns."""
    start = time.perf_counter()
    result = run()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def memory() -> dict[str, int]:
    """Return the ``peak`` memory of this process in bytes, and ``files``, its part in libraries.

    How many pages of a library count depends on how the system caches the file. ``ru_maxrss`` would
    include what the parent held before it started this process.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith("kB")}
    return {"peak": int(kib["VmHWM"]) * 1024, "files": int(kib["RssFile"]) * 1024}


def main() -> None:
    """Run all cases in turn and print a table of medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="of autocast; default: none"
    )
    parser.add_argument("--case", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(*args.measure, args)
        return
    print(f"{args.device}, {args.precision}, PyTorch {torch.__version__}")
    print("| case | implementation | seconds | ratio | peak GB | ratio | instances |")
    print("|---|---|---|---|---|---|---|")
    for case in args.case:
        figures: dict[str, list[dict]] = {name: [] for name in IMPLEMENTATIONS}
        for _ in range(args.repeat):
            for name in IMPLEMENTATIONS:
                command = [sys.executable, __file__, "--threads", str(args.threads)]
                command += ["--device", args.device, "--precision", args.precision]
                command += ["--measure", name, case]
                result = subprocess.run(command, capture_output=True, text=True, check=True)
                figures[name].append(json.loads(result.stdout.splitlines()[-1]))
        base = figures["transformers"]
        for name, runs in figures.items():
            seconds, peak = (statistics.median(r[k] for r in runs) for k in ("seconds", "peak"))
            base_seconds, base_peak = (
                statistics.median(r[k] for r in base) for k in ("seconds", "peak")
            )
            print(
                f"| {case} | {name} | {seconds:.3f} | {base_seconds / seconds:.2f}x faster "
                f"| {peak / 1e9:.2f} | {base_peak / peak:.2f}x less | {runs[0]['instances']} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
