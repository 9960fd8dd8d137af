"""The tables of ``bench.py``, in Markdown."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from machine import QUIET, Meter, median_of
from models import Case
from PIL import Image

if TYPE_CHECKING:
    from bench import Bench

Figures = dict[str, Any]
# Ours, with the memory that `mask2former predict` keeps and programs that import it return
COMMAND = "ours, command"
LARGE = Case("inference", size=(800, 1067), output=(3000, 4000))
# About 0.1, 0.4, 1, 4 and 10 megapixels
SIZES = ((256, 384), (512, 768), (832, 1216), (1632, 2464), (2592, 3872))
QUICK_SIZES = SIZES[:3]
# The most that inference may take, as a multiple of its arithmetic's time
LIMITS = {("R50", "fp32"): 1.5, ("R50", "bf16"): 1.75}
OTHER_LIMIT = 1.7
# How many times faster than others inference with R50 and a training step should be
FASTER = {
    ("published", "fp32"): 3.0,
    ("published", "bf16"): 4.0,
    ("transformers", "fp32"): 2.5,
}
FASTER_STEPS = {"published": 3.0, "transformers": 2.0}


def inference_table(bench: Bench) -> list[str]:
    """Compare inference with the limit and with the other programs."""
    names = ("model", "precision", "program", "time", "limit", "against ours", "peak")
    lines = head(*names, "others")
    for model in ("R50", "Swin-B"):
        for precision in bench.args.precision:
            case = Case("inference", model=model, precision=precision, with_rate=True)
            alone = bench.args.quick and model != "R50"
            on_cpu = bench.args.device == "cpu"
            cases = {"ours": case}
            if on_cpu:
                cases[COMMAND] = replace(case, as_command=True)
            if not alone:
                cases = bench.cases_of(case) | cases
            found = bench.compare(cases)
            limit = bench.limit(case, found["ours"]) if on_cpu else None
            lines += _rows(found, (f"{model}, 800x1216", precision), limit)
            ours, name = found["ours"], f"inference, {model}, {precision}"
            if limit:
                most = LIMITS.get((model, precision), OTHER_LIMIT)
                bench.goal(f"{name}: time / limit", most, ours["seconds"] / limit)
                as_command = found[COMMAND]["seconds"] / limit
                bench.goal(f"{name}, command: time / limit", most, as_command)
            for other, least in FASTER.items():
                if model == "R50" and other[0] in found and other[1] == precision:
                    times = found[other[0]]["seconds"] / ours["seconds"]
                    bench.goal(f"{name}: {other[0]} / ours", least, times, at_least=True)
            if (model, precision) == ("R50", "fp32"):
                bench.goal(f"{name}: peak, GB", 1.4, ours["peak"] / 1e9)
    found = bench.compare({"ours": LARGE}) if bench.args.quick else bench.programs_of(LARGE)
    lines += _rows(found, ("R50, result 3000x4000", "fp32"))
    bench.goal("inference, result 3000x4000: peak, GB", 2.0, found["ours"]["peak"] / 1e9)
    return lines


def training_table(bench: Bench) -> list[str]:
    """Compare a training step on one image of 1024x1024, and show the criterion's share."""
    names = ("instances", "precision", "program", "time", "criterion", "against ours", "peak")
    lines = head(*names, "others")
    for precision in reversed(bench.args.precision):
        if bench.args.quick and precision == "fp32" and "bf16" in bench.args.precision:
            continue
        for instances in (20, 100) if bench.args.quick else (20, 100, 300):
            case = Case("training", precision=precision, size=(1024, 1024), instances=instances)
            found = bench.programs_of(case) if instances == 20 else bench.compare({"ours": case})
            ours, name = found["ours"], f"training, {instances} instances, {precision}"
            share = ours["criterion"] / ours["seconds"]
            lines += _rows(found, (str(instances), precision), of_ours=f"{share:.0%}")
            if instances > 20:
                bench.goal(f"{name}: criterion / step", 0.15, share)
            for other in FASTER_STEPS.keys() & found.keys():
                times = found[other]["seconds"] / ours["seconds"]
                bench.goal(f"{name}: {other} / ours", FASTER_STEPS[other], times, at_least=True)
            if "published" in found:
                share = ours["peak"] / found["published"]["peak"]
                bench.goal(f"{name}: peak, ours / published", 0.5, share)
    return lines


def growth_table(bench: Bench) -> list[str]:
    """Show how the time of inference grows with pixels, images and queries."""
    lines = head("inference, R50, fp32", "time", "per megapixel and image", "peak", "others")
    pixels = {size: f"{size[0] * size[1] / 1e6:.1f} megapixels" for size in SIZES}
    sizes = QUICK_SIZES if bench.args.quick else SIZES
    groups = (
        {pixels[size]: Case("inference", size=size) for size in sizes},
        {
            f"batch of {n}{place}": Case(
                "inference", size=SIZES[1], batch=n, as_command=bool(place)
            )
            for place in ("", ", command")
            for n in (1, 4)
        },
        {f"{n} queries": Case("inference", queries=n) for n in (100, 200, 300)},
    )
    each = {}
    for cases in groups:
        for name, figures in bench.compare(cases).items():
            case = cases[name]
            megapixels = case.size[0] * case.size[1] / 1e6
            each[name] = figures["seconds"] / (megapixels * case.batch)
            per = f"{each[name]:.2f} s"
            lines.append(line(name, _time(figures), per, _peak(figures), _others(figures)))
    growth = each[pixels[sizes[-1]]] / each[pixels[SIZES[1]]]
    bench.goal(f"time per pixel: {pixels[sizes[-1]]} / {pixels[SIZES[1]]}", 1.1, growth)
    for place in ("", ", command"):
        batches = each[f"batch of 4{place}"] / each[f"batch of 1{place}"]
        bench.goal(f"time per image: batch of 4 / batch of 1{place}", 1.0, batches)
    bench.goal("time: 300 / 100 queries", 1.1, each["300 queries"] / each["100 queries"])
    return lines


def start_table(bench: Bench) -> list[str]:
    """Show how long imports, commands and a first picture take."""
    model, picture = bench.folder(Case("save", model="quickstart")), bench.scratch / "photo.png"
    Image.effect_noise((640, 480), 64).convert("RGB").save(picture)
    python, command = (sys.executable, "-c"), (sys.executable, "-m", "mask2former")
    starts: dict[str, Sequence[str]] = {
        "import torch": (*python, "import torch"),
        "import mask2former": (*python, "import mask2former"),
        "import detectron2.modeling": (*python, "import detectron2.modeling"),
        "import mask2former, detectron2.modeling": (
            *(*python, "import mask2former, detectron2.modeling"),
        ),
        "mask2former --help": (*command, "--help"),
        "mask2former zoo list": (*command, "zoo", "list"),
        "mask2former env": (*command, "env"),
        "mask2former predict (one picture)": (
            *(*command, "predict", model, str(picture), "--threshold", "0.01"),
            *("--device", "cpu", "--output", str(bench.scratch / "drawn.png")),
        ),
    }
    found: dict[str, list[Figures]] = {name: [] for name in starts}
    for _ in range(1 + (2 if bench.args.quick else 5)):
        for name, arguments in starts.items():
            with Meter(bench.args.threads) as meter:
                subprocess.run(arguments, check=True, capture_output=True, env=bench.environment)
            found[name].append(vars(meter))
    lines = head("start", "time", "others")
    seconds = {}
    for name, runs in found.items():
        runs = runs[1:]  # the first one reads files into the system's cache
        seconds[name] = median_of(runs, "seconds")
        figures = {"seconds": seconds[name], "foreign": max(run["foreign"] for run in runs)}
        lines.append(line(f"`{name}`", _time(figures), _others(figures)))
    models = seconds["import mask2former, detectron2.modeling"]
    bench.goal("import with all models - torch, s", 0.6, models - seconds["import torch"])
    bench.goal("first picture, s", 4.0, seconds["mask2former predict (one picture)"])
    return lines


TABLES = {
    "start": start_table,
    "inference": inference_table,
    "training": training_table,
    "growth": growth_table,
}


def _rows(
    found: dict[str, Figures],
    labels: tuple[str, ...],
    limit: float | None = None,
    of_ours: str = "",
) -> list[str]:
    lines = []
    for name, figures in found.items():
        share = of_ours if name == "ours" else ""
        if limit:
            share = f"{figures['seconds'] / limit:.2f} x {limit:.2f} s"
        ratio = ""
        if name != "ours":
            times, sizes = (figures[key] / found["ours"][key] for key in ("seconds", "peak"))
            ratio = f"{times:.2f} x time, {sizes:.2f} x peak"
        cells = _time(figures), share, ratio, _peak(figures), _others(figures)
        lines.append(line(*labels, name, *cells))
    return lines


def head(*names: str) -> list[str]:
    """Return the head of a table."""
    return [line(*names), "|" + "---|" * len(names)]


def line(*cells: str) -> str:
    """Return a line of a table."""
    return f"| {' | '.join(cells)} |"


def _time(figures: Figures) -> str:
    return f"{figures['seconds']:.2f} s"


def _peak(figures: Figures) -> str:
    return f"{figures['peak'] / 1e9:.2f} GB"


def _others(figures: Figures) -> str:
    share = f"{figures['foreign']:.0%}"
    return share if figures["foreign"] <= QUIET else f"**{share}: not quiet**"
