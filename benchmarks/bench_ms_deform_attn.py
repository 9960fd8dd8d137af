#!/usr/bin/env python
"""Multi-scale deformable attention: the operator against its peers, on the CPU or a GPU.

The shape is that of an 800x1216 image: levels 25x38, 50x76 and 100x152, as many queries as
positions, 8 heads of 32 channels, 4 points. Locations are "grid" (each position plus offsets of a
few pixels of the level), "initial" (the offsets of an untrained network) or "uniform" (anywhere).
All implementations run in turn in one process. Figures are medians, on a GPU by its own clock.

    grid_sample           the PyTorch form, which other devices use
    transformers          Hugging Face's function, if it is installed
    torch-ms-deform-attn  the package of that name, if it is installed (0.1.1 is what we measured)
    triton                the Triton form, on a GPU

    python benchmarks/bench_ms_deform_attn.py [--device cuda] [--threads 2] [--repeat 9]
"""

from __future__ import annotations

import argparse
import functools
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mask2former.modeling.ops import reference_points, triton_kernels
from mask2former.modeling.ops.library import implementation
from mask2former.modeling.ops.pytorch import ms_deform_attn_pytorch
from mask2former.modeling.pixel_decoder import msdeformattn

SHAPES = ((25, 38), (50, 76), (100, 152))
HEADS, CHANNELS, POINTS = 8, 32, 4
POSITIONS = sum(h * w for h, w in SHAPES)
HALF = (torch.bfloat16, torch.float16)
Arguments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Operator = Callable[..., Tensor]


def arguments(
    kind: str,
    dtype: torch.dtype = torch.float32,
    *,
    device: str = "cpu",
    batch: int = 1,
    queries: int = POSITIONS,
) -> Arguments:
    """Make the operator's arguments for the first `queries` positions.

    With half types on a GPU, locations and weights are float32, as autocast leaves them.
    """
    torch.manual_seed(0)
    sizes = torch.tensor(SHAPES)
    starts = sizes.prod(1).cumsum(0) - sizes.prod(1)
    value = torch.randn(batch, POSITIONS, HEADS, CHANNELS, device=device)
    shape = (batch, POSITIONS, HEADS, len(SHAPES), POINTS)
    if kind == "uniform":
        locations = torch.rand(*shape, 2, device=device)
    else:
        points = reference_points(SHAPES, torch.device(device))[:, None, None, None]
        offsets = initial_offsets().to(device)
        if kind == "grid":
            offsets = 2 * torch.randn(*shape, 2, device=device)
        locations = (points + offsets / sizes.flip(1).to(device)[:, None]).expand(*shape, 2)
    weights = torch.rand(shape, device=device).flatten(3).softmax(-1).view(shape)
    coordinates = torch.float32 if dtype in HALF and device == "cuda" else dtype
    return (
        value.to(dtype),
        sizes,
        starts,
        locations[:, :queries].to(coordinates).contiguous(),
        weights[:, :queries].to(coordinates).contiguous(),
    )


def initial_offsets() -> Tensor:
    """Return offsets in pixels (HEADS, 1, POINTS, 2): head i looks along 2 pi i / HEADS."""
    angle = torch.arange(HEADS) * (2 * math.pi / HEADS)
    direction = torch.stack((angle.cos(), angle.sin()), dim=-1)
    direction /= direction.abs().amax(-1, keepdim=True)
    return direction[:, None, None] * torch.arange(1, POINTS + 1)[:, None]


def peers(device: str) -> dict[str, Operator]:
    """Return the operators by name; ours is the first."""
    found: dict[str, Operator] = {
        "here": torch.ops.mask2former.ms_deform_attn,
        "grid_sample": ms_deform_attn_pytorch,
    }
    try:
        from transformers.models.mask2former.modeling_mask2former import (
            multi_scale_deformable_attention,
        )
    except ImportError:
        print("transformers is not installed: not compared")
    else:
        found["transformers"] = lambda value, sizes, starts, locations, weights: (
            multi_scale_deformable_attention(value, SHAPES, locations, weights)
        )
    if device == "cpu":
        try:
            from torch_ms_deform_attn.functional import ms_deform_attn as package
        except ImportError:
            print("torch-ms-deform-attn is not installed: not compared")
        else:
            found["torch-ms-deform-attn"] = functools.partial(package, im2col_step=64)
    return found


def with_backward(operator: Operator, args: Arguments) -> Callable[[], object]:
    """Run the forward pass, and the backward pass to all three inputs."""
    inputs = [args[i].clone().requires_grad_() for i in (0, 3, 4)]
    grad = torch.randn(*args[3].shape[:2], HEADS * CHANNELS).to(args[0])

    def run() -> object:
        output = operator(inputs[0], args[1], args[2], inputs[1], inputs[2])
        return torch.autograd.grad(output, inputs, grad)

    return run


def triton(args: Arguments) -> dict[str, Callable[[], object]]:
    """Return the Triton form with the sizes on the GPU, where it expects them."""
    args = (args[0], *(x.cuda() for x in args[1:]))
    grad = torch.randn(*args[3].shape[:2], HEADS * CHANNELS).to(args[0])

    def both() -> None:
        triton_kernels.ms_deform_attn_triton(*args)
        triton_kernels.ms_deform_attn_backward_triton(grad, *args)

    return {
        "forward": functools.partial(triton_kernels.ms_deform_attn_triton, *args),
        "forward + backward": both,
    }


def one_measurement(run: Callable[[], object], device: str, runs: int) -> float:
    """Return the milliseconds per run, as the mean of several runs."""
    if device == "cpu":
        start = time.perf_counter()
        for _ in range(runs):
            run()
        return 1000 * (time.perf_counter() - start) / runs
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(runs):
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / runs


def milliseconds(runs: dict[str, Callable[[], object]], repeat: int, device: str) -> dict:
    """Return medians of alternating runs, after one or two warm-up runs of each.

    On a GPU a measurement is of as many runs as take 5 ms, so that the queue never runs empty.
    """
    counts = dict.fromkeys(runs, 1)
    if device == "cuda":
        for name, run in runs.items():
            fastest = min(one_measurement(run, device, 1) for _ in range(4))
            counts[name] = max(1, min(50, int(5 / fastest)))
    found: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(repeat + 1):
        for name, run in runs.items():
            ms = one_measurement(run, device, counts[name])
            if i:
                found[name].append(ms)
    return {name: statistics.median(values) for name, values in found.items()}


def print_ratios(title: str, times: dict[str, float]) -> None:
    """Format one line; ratios are relative to the first time."""
    base = next(iter(times.values()))
    parts = [
        f"{name} {ms:.{1 if base > 5 else 3}f} ms" + (f" ({ms / base:.1f}x)" if i else "")
        for i, (name, ms) in enumerate(times.items())
    ]
    print(f"{title}: {', '.join(parts)}", flush=True)


def compare(device: str, batch: int, dtype: torch.dtype, repeat: int) -> None:
    """Print the operator and its peers, for the forward pass alone and for both passes."""
    operators = peers(device)
    if dtype in HALF:  # which takes values and locations of one type alone
        operators.pop("transformers", None)
    for kind in ("grid", "initial", "uniform"):
        args = arguments(kind, dtype, device=device, batch=batch)
        title = f"{kind}, {str(dtype).removeprefix('torch.')}, batch {batch}"
        with torch.no_grad():
            runs = {name: functools.partial(op, *args) for name, op in operators.items()}
            if device == "cuda":
                runs["triton"] = triton(args)["forward"]
            print_ratios(f"forward, {title}", milliseconds(runs, repeat, device))
        runs = {name: with_backward(op, args) for name, op in operators.items()}
        if device == "cuda":
            runs["triton"] = triton(args)["forward + backward"]
        print_ratios(f"forward + backward, {title}", milliseconds(runs, repeat, device))


def extra_memory(device: str) -> float:
    """Return by how many MiB the peak grows in a forward pass, beyond the output."""
    args = arguments("grid", device=device)
    operator = torch.ops.mask2former.ms_deform_attn
    operator(*(x[:, :64] if x.dim() > 4 else x for x in args))  # what is set up once
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        output = operator(*args)
        peak = torch.cuda.max_memory_allocated()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = memory("VmRSS")
        output = operator(*args)
        peak = memory("VmHWM")
    return (peak - before - output.numel() * output.element_size()) / 2**20


def memory(key: str) -> int:
    """Return bytes as Linux counts them for this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def layer_times(repeat: int, device: str) -> dict[str, float]:
    """Time the attention of an encoder layer, including projections, per operator."""
    module = msdeformattn.MSDeformAttn(
        dim=HEADS * CHANNELS, num_levels=len(SHAPES), num_heads=HEADS, num_points=POINTS
    )
    module.eval().to(device)
    x = torch.randn(1, POSITIONS, HEADS * CHANNELS, device=device)
    points = reference_points(SHAPES, torch.device(device))
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
    return milliseconds(runs, repeat, device)


def shares_and_threads(threads: int, repeat: int) -> None:
    """Print how the CPU's time grows with queries and threads."""
    ours = torch.ops.mask2former.ms_deform_attn
    runs = {
        f"{share:.0%} of the queries": functools.partial(
            ours, *arguments("grid", queries=int(POSITIONS * share))
        )
        for share in (0.25, 0.5, 1)
    }
    print_ratios("forward", milliseconds(runs, repeat, "cpu"))
    args, times = arguments("grid"), {}
    for count in (threads, 1):
        torch.set_num_threads(count)
        name = f"{count} thread" + "s" * (count > 1)
        times |= milliseconds({name: lambda: ours(*args)}, repeat, "cpu")
    torch.set_num_threads(threads)
    print_ratios("forward", times)


@torch.no_grad()
def by_dtype(device: str, repeat: int) -> dict[str, float]:
    """Print the time of the forward pass by the type of the value."""
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    runs = {
        str(dtype).removeprefix("torch."): functools.partial(
            torch.ops.mask2former.ms_deform_attn, *arguments("grid", dtype, device=device)
        )
        for dtype in dtypes
    }
    return milliseconds(runs, repeat, device)


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--extra-memory", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    device, repeat = options.device, options.repeat
    torch.set_num_threads(options.threads)
    if options.extra_memory:
        print(extra_memory(device))
        return
    choice = implementation(device)
    processor = (
        torch.cuda.get_device_name()
        if device == "cuda"
        else torch.backends.cpu.get_cpu_capability()
    )
    print(f"here: {choice.name} ({choice.reason}), {processor}, PyTorch {torch.__version__}")
    compare(device, 1, torch.float32, repeat)
    if device == "cuda":
        compare(device, 1, torch.float16, repeat)
        compare(device, 16, torch.float32, repeat)
        compare(device, 16, torch.float16, repeat)
    print_ratios("forward by dtype", by_dtype(device, repeat))
    with torch.no_grad():
        if device == "cpu":
            shares_and_threads(options.threads, repeat)
        print_ratios("attention module", layer_times(repeat, device))
    # in a process that has held nothing yet
    command = [sys.executable, __file__, "--extra-memory", "--device", device]
    command += ["--threads", str(options.threads)]
    extra = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    print(f"forward: {float(extra.split()[-1]):.2f} MiB beyond the output")


if __name__ == "__main__":
    main()
