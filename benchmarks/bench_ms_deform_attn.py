#!/usr/bin/env python
"""Multi-scale deformable attention on the CPU: the compiled operator against its peers.

The shape is that of an 800x1216 image: levels 25x38, 50x76, 100x152, as many queries as positions,
8 heads x 32 channels, 4 points. Locations are "grid", each position plus offsets of a few pixels of
the level, as in a network, or "uniform", anywhere. All of it runs in turn, in one process; figures
are medians.

    grid_sample           the PyTorch form, which other devices use
    torch-ms-deform-attn  the package of that name, if it is installed (0.1.1 is what we measured)

    python benchmarks/bench_ms_deform_attn.py [--threads 2] [--repeat 9]
"""

from __future__ import annotations

import argparse
import functools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mask2former.modeling.ops import reference_points
from mask2former.modeling.ops.library import implementation
from mask2former.modeling.ops.pytorch import ms_deform_attn_pytorch
from mask2former.modeling.pixel_decoder import msdeformattn

SHAPES = ((25, 38), (50, 76), (100, 152))
HEADS, CHANNELS, POINTS = 8, 32, 4
POSITIONS = sum(h * w for h, w in SHAPES)
Arguments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Operator = Callable[..., Tensor]


def arguments(kind: str, dtype: torch.dtype = torch.float32, queries: int = POSITIONS) -> Arguments:
    """The operator's arguments, `queries` of them taken in order."""
    torch.manual_seed(0)
    sizes = torch.tensor(SHAPES)
    starts = sizes.prod(1).cumsum(0) - sizes.prod(1)
    value = torch.randn(1, POSITIONS, HEADS, CHANNELS)
    shape = (1, POSITIONS, HEADS, len(SHAPES), POINTS)
    if kind == "uniform":
        locations = torch.rand(*shape, 2)
    else:
        points = reference_points(SHAPES, torch.device("cpu"))[:, None, None, None]
        locations = points + 2 * torch.randn(*shape, 2) / sizes.flip(1)[:, None]
    weights = torch.rand(shape).flatten(3).softmax(-1).view(shape)
    return (
        value.to(dtype),
        sizes,
        starts,
        locations[:, :queries].to(dtype),
        weights[:, :queries].to(dtype),
    )


def peers() -> dict[str, Operator]:
    """Operators by name; ours is the first."""
    found: dict[str, Operator] = {
        "here": torch.ops.mask2former.ms_deform_attn,
        "grid_sample": ms_deform_attn_pytorch,
    }
    try:
        from torch_ms_deform_attn.functional import ms_deform_attn as package
    except ImportError:
        print("torch-ms-deform-attn is not installed: not compared")
    else:
        found["torch-ms-deform-attn"] = functools.partial(package, im2col_step=64)
    return found


def with_backward(operator: Operator, args: Arguments) -> Callable[[], object]:
    """Forward and backward to all three inputs."""
    inputs = [args[i].clone().requires_grad_() for i in (0, 3, 4)]
    grad = torch.randn(1, args[3].shape[1], HEADS * CHANNELS, dtype=args[0].dtype)

    def run() -> object:
        output = operator(inputs[0], args[1], args[2], inputs[1], inputs[2])
        return torch.autograd.grad(output, inputs, grad)

    return run


def milliseconds(runs: dict[str, Callable[[], object]], repeat: int) -> dict[str, float]:
    """Medians; the runs alternate, after one of each that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(repeat + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if i:
                seconds[name].append(time.perf_counter() - start)
    return {name: 1000 * statistics.median(values) for name, values in seconds.items()}


def print_ratios(title: str, times: dict[str, float]) -> None:
    """One line; ratios are to the first."""
    base = next(iter(times.values()))
    parts = [
        f"{name} {ms:.1f} ms" + (f" ({ms / base:.1f}x)" if i else "")
        for i, (name, ms) in enumerate(times.items())
    ]
    print(f"{title}: {', '.join(parts)}", flush=True)


def extra_memory() -> None:
    """Print by how much the process's peak grows in a forward, beyond the output."""
    args = arguments("grid")
    operator = torch.ops.mask2former.ms_deform_attn
    operator(*(x[:, :64] if x.dim() > 4 else x for x in args))  # what is set up once
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory("VmRSS")
    output = operator(*args)
    print(memory("VmHWM") - before - output.numel() * output.element_size())


def memory(key: str) -> int:
    """Bytes, as Linux counts them for this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def layer_times(repeat: int) -> dict[str, float]:
    """A whole encoder layer's attention, projections included, with either operator."""
    module = msdeformattn.MSDeformAttn(
        dim=HEADS * CHANNELS, num_levels=len(SHAPES), num_heads=HEADS, num_points=POINTS
    ).eval()
    x = torch.randn(1, POSITIONS, HEADS * CHANNELS)
    points = reference_points(SHAPES, torch.device("cpu"))
    sizes, starts = arguments("grid")[1:3]
    ours = msdeformattn.ms_deform_attn

    def oracle(value: Tensor, _: object, locations: Tensor, weights: Tensor) -> Tensor:
        return ms_deform_attn_pytorch(value, sizes, starts, locations, weights)

    def layer(operator: Operator) -> Tensor:
        msdeformattn.ms_deform_attn = operator
        try:
            return module(x, x, points, SHAPES)
        finally:
            msdeformattn.ms_deform_attn = ours

    runs = {"here": lambda: layer(ours), "grid_sample": lambda: layer(oracle)}
    return milliseconds(runs, repeat)


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--extra-memory", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.extra_memory:
        extra_memory()
        return
    choice = implementation("cpu")
    print(f"here: {choice.name} ({choice.reason}), {torch.backends.cpu.get_cpu_capability()}")
    operators = peers()
    ours = operators["here"]
    for kind in ("grid", "uniform"):
        args = arguments(kind)
        with torch.no_grad():
            runs = {name: functools.partial(op, *args) for name, op in operators.items()}
            print_ratios(f"forward, {kind}", milliseconds(runs, options.repeat))
        runs = {name: with_backward(op, args) for name, op in operators.items()}
        print_ratios(f"forward + backward, {kind}", milliseconds(runs, options.repeat))
    with torch.no_grad():
        runs = {
            str(dtype).removeprefix("torch."): functools.partial(ours, *arguments("grid", dtype))
            for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64)
        }
        print_ratios("forward by dtype", milliseconds(runs, options.repeat))
        runs = {
            f"{share:.0%} of the queries": functools.partial(
                ours, *arguments("grid", queries=int(POSITIONS * share))
            )
            for share in (0.25, 0.5, 1)
        }
        print_ratios("forward", milliseconds(runs, options.repeat))
        args, times = arguments("grid"), {}
        for threads in (options.threads, 1):
            torch.set_num_threads(threads)
            name = f"{threads} thread" + "s" * (threads > 1)
            times |= milliseconds({name: lambda: ours(*args)}, options.repeat)
        torch.set_num_threads(options.threads)
        print_ratios("forward", times)
        print_ratios("attention module", layer_times(options.repeat))
    command = [sys.executable, __file__, "--extra-memory", "--threads", str(options.threads)]
    extra = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    print(f"forward: {int(extra.split()[-1]) / 2**20:.2f} MiB beyond the output")


if __name__ == "__main__":
    main()
