#!/usr/bin/env python
"""Where the time of inference goes: each stage against the roofline of this machine.

    python benchmarks/stages.py [--model Swin-B] [--precision bf16] [--size 800 1216]

A stage cannot be faster than its multiplications and additions at the best rate of a 3x3
convolution, nor than the bytes that its operators read and write at the rate of a large copy, if
they find nothing in a cache. "Attainable" is the larger of the two. Times are medians of calls in
this process, after one that is not counted, of the model as `Mask2Former.from_pretrained` runs it,
with random weights. With ``--threads 1``, they are CPU times.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from bench import update
from machine import QUIET, Meter, convolution_rate, copy_rate, description, now
from models import CONFIGS, PRECISIONS, REPOSITORY, Case, pixels, save_weights
from tables import head, line
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from mask2former import Mask2Former, analysis, load_config

# Stage: the module and the method that runs it. A stage within another does not count there.
STAGES = {
    "backbone": ("backbone", "forward"),
    "FPN": ("sem_seg_head.pixel_decoder", "forward_features"),
    "encoder": ("sem_seg_head.pixel_decoder.transformer", "forward"),
    "decoder": ("sem_seg_head.predictor", "forward"),
}
REST = "resizing, post-processing"
# Operators of the pixel decoder that are not of the encoder
_OF_FPN = {"convolution", "group norm", "resizing"}


class Clock:
    """Adds up the time that is spent in each stage."""

    def __init__(self) -> None:
        self.stages = [REST]
        self.seconds: Counter[str] = Counter()
        self.last = now()

    def switch(self) -> None:
        """Count the time since the last switch for the current stage."""
        time = now()
        self.seconds[self.stages[-1]] += time - self.last
        self.last = time

    @contextmanager
    def within(self, stage: str) -> Iterator[None]:
        """Count the time of the block for a stage."""
        self.switch()
        self.stages.append(stage)
        try:
            yield
        finally:
            self.switch()
            self.stages.pop()


class Bytes(TorchDispatchMode):
    """Adds up the bytes that operators read and write in each stage."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = pytree.tree_leaves((args, kwargs, out))
            sizes = (x.nbytes for x in tensors if isinstance(x, torch.Tensor))
            self.bytes[self.clock.stages[-1]] += sum(sizes)
        return out


@contextmanager
def watched(model: Any, clock: Clock) -> Iterator[None]:
    """Tell the clock inside the context which stage of the model runs."""
    with ExitStack() as stack:
        for stage, (path, method) in STAGES.items():
            module = model.get_submodule(path)
            stack.callback(vars(module).pop, method)
            vars(module)[method] = _counted(getattr(module, method), stage, clock)
        yield


def _counted(run: Callable[..., Any], stage: str, clock: Clock) -> Callable[..., Any]:
    def counted(*args: Any, **kwargs: Any) -> Any:
        with clock.within(stage):
            return run(*args, **kwargs)

    return counted


def flop_by_stage(case: Case) -> Counter[str]:
    """Count multiplications and additions, each as one."""
    model = analysis.build_on_meta(
        load_config(str(REPOSITORY / CONFIGS[case.model]), case.overrides)
    )
    size = analysis.padded_size(model, *case.size)
    found: Counter[str] = Counter()
    for (part, operator), count in analysis.count_operators(model, *size).flops.items():
        stage = {"transformer decoder": "decoder", "backbone": "backbone"}.get(part, "encoder")
        found["FPN" if stage == "encoder" and operator in _OF_FPN else stage] += 2 * count
    return found


def table(case: Case, calls: int) -> list[str]:
    """Measure, and return a row for each stage."""
    with tempfile.TemporaryDirectory() as folder:
        save_weights(case, Path(folder))
        precision = str(PRECISIONS[case.precision]).removeprefix("torch.")
        loaded = Mask2Former.from_pretrained(folder, device="cpu", precision=precision)
    predictor = loaded.segmenter().predictor
    predictor.min_size = 0
    image = pixels(case).permute(1, 2, 0).numpy()
    runs: list[Counter[str]] = []
    with Meter(torch.get_num_threads()) as meter:
        for _ in range(calls + 1):
            clock = Clock()
            with watched(predictor.model, clock):
                predictor(image)
            clock.switch()
            runs.append(clock.seconds)
    clock = Clock()
    with watched(predictor.model, clock), Bytes(clock) as counted:
        predictor(image)
    flop, copying = flop_by_stage(case), copy_rate()
    rate = convolution_rate(PRECISIONS[case.precision])
    lines = head(f"{case.model}, {case.precision}", *_COLUMNS)
    totals: Counter[str] = Counter()
    for stage in (*STAGES, REST):
        seconds = statistics.median(run[stage] for run in runs[1:])
        by_flop, by_bytes = flop[stage] / rate, counted.bytes[stage] / copying
        values = {"flop": flop[stage], "bytes": counted.bytes[stage], "seconds": seconds}
        values["attainable"] = max(by_flop, by_bytes)
        totals.update(values)
        lines.append(_row(stage, values, "arithmetic" if by_flop > by_bytes else "memory"))
    lines.append(_row("together", totals, ""))
    others = "" if meter.foreign <= QUIET else f"; **others took {meter.foreign:.0%}: not quiet**"
    return [
        f"{case.size[0]}x{case.size[1]} pixels; {rate / 1e9:.0f} GFLOP/s in a 3x3 convolution, "
        f"{copying / 1e9:.1f} GB/s in a copy{others}",
        "",
        *lines,
    ]


_COLUMNS = ("GFLOP", "GB", "attainable", "bound by", "measured", "measured / attainable")


def _row(stage: str, values: Any, bound: str) -> str:
    attainable, seconds = values["attainable"], values["seconds"]
    return line(
        stage,
        f"{values['flop'] / 1e9:.1f}",
        f"{values['bytes'] / 1e9:.2f}",
        f"{attainable:.3f} s",
        bound,
        f"{seconds:.3f} s",
        f"{seconds / attainable:.1f}" if attainable else "",
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=CONFIGS, default="R50")
    parser.add_argument("--precision", choices=("fp32", "bf16"), nargs="+", default=["fp32"])
    parser.add_argument("--size", nargs=2, type=int, default=(800, 1216))
    parser.add_argument("--threads", type=int, help="of PyTorch")
    parser.add_argument("--calls", type=int, default=5)
    parser.add_argument("--update", metavar="FILE", type=Path, help="a Markdown file with marks")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    lines = [description(torch.get_num_threads())]
    for precision in args.precision:
        case = Case("inference", model=args.model, precision=precision, size=tuple(args.size))
        lines += ["", *table(case, args.calls)]
    print(*lines, sep="\n")
    if args.update:
        update(args.update, f"stages {args.model}", lines)


if __name__ == "__main__":
    main()
