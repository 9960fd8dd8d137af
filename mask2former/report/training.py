"""The parts of a report that show how a model was trained, and on what."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode

from mask2former_runtime.image import IMAGE_FORMATS
from mask2former_runtime.stored import STORED_TYPES

from ..data import SeededMapDataset
from ..data.mapper import get_preset
from .charts import Axis, Series, line_chart
from .label_statistics import LabelStatistics, count_labels
from .page import Beside, Block, Chart, Picture, Pictures, Section, Table, Tiles
from .run_metrics import (
    AVERAGE,
    GRADIENT_NORM,
    LOSSES,
    METRICS,
    METRICS_FILE,
    TOTAL_LOSSES,
    Rows,
    points,
    read_metrics,
    upper_limit,
)
from .training_samples import classes_of, draw, sample_stream, summary

_SAMPLES = 8
_LONGEST = 480  # pixels of a sample


def curves(output_dir: str) -> list[Section]:
    """Show the losses, the learning rate, the gradient and the metrics of a run.

    Args:
        output_dir: ``OUTPUT_DIR``, with the run's ``metrics.json``.

    Raises:
        ValueError: the file is not a log of metrics.
    """
    path = Path(output_dir, METRICS_FILE)
    rows = read_metrics(path) if path.is_file() else []
    if not rows:
        return []
    metrics = [*METRICS, *(AVERAGE + key for key in METRICS)]
    charts = [
        _chart(rows, "Losses of the last prediction, weighted", LOSSES, "loss"),
        _chart(rows, "Metrics on the validation set", metrics, "%", high=upper_limit(rows)),
        _learning_rate(rows),
        _chart(rows, "Norm of the gradient before clipping", (GRADIENT_NORM,), "norm"),
    ]
    if points(rows, TOTAL_LOSSES[1]):
        title = "All losses, in training and on the validation set"
        charts.insert(2, _chart(rows, title, TOTAL_LOSSES, "loss"))
    return [Section("Training", [Beside([chart for chart in charts if chart is not None])])]


def _chart(
    rows: Rows, title: str, keys: Sequence[str], unit: str, high: float | None = None
) -> Chart | None:
    series = [
        Series(key, *zip(*found, strict=True)) for key in keys if (found := points(rows, key))
    ]
    if not series:
        return None
    y = Axis.around(unit, [value for line in series for value in line.ys], zero=True)
    if high is not None:
        y = Axis(unit, 0, high)
    few = max(len(line.xs) for line in series) < 30
    return Chart(title, line_chart(series, _iterations(rows), y, markers=few), [*_names(series)])


def _learning_rate(rows: Rows) -> Chart | None:
    found = points(rows, "lr")
    if not found:
        return None
    iterations, rates = zip(*found, strict=True)
    power = math.floor(math.log10(max(rates))) if max(rates) > 0 else 0
    line = Series("learning rate", iterations, [rate / 10**power for rate in rates])
    y = Axis.around(f"learning rate, units of 1e{power}", line.ys, zero=True)
    return Chart("Learning rate", line_chart([line], _iterations(rows), y))


def _iterations(rows: Rows) -> Axis:
    return Axis("iteration", 0, max(1, rows[-1]["iteration"] + 1))


def _names(series: Sequence[Series]) -> list[str]:
    return [line.name for line in series]


def training_data(cfg: CfgNode, dataset: SeededMapDataset, seed: int) -> Section:
    """Show the labels that a run trains on, and its first samples.

    Args:
        cfg: the config of the run.
        dataset: of the run's loader.
        seed: of the run.

    Raises:
        DatasetError: a label map or an image cannot be read.
    """
    targets, classes = get_preset(cfg).targets, classes_of(cfg)
    statistics = count_labels(dataset.dataset, targets, len(classes))
    blocks: list[Block] = [_tiles(statistics), _label_table(statistics, classes.names)]
    if cfg.INPUT.FORMAT in (*IMAGE_FORMATS, *STORED_TYPES):
        samples = [
            Picture.of(
                draw(sample, targets, classes, cfg.INPUT.FORMAT),
                f"{os.path.basename(sample['file_name'])}, {summary(sample, targets, classes)}",
                _LONGEST,
            )
            for sample in itertools.islice(sample_stream(dataset, seed), _SAMPLES)
        ]
        note = "The first samples of the run, after augmentation, with their targets."
        blocks.append(Pictures("Training samples", samples, note, small=True))
    return Section("Training data", blocks)


def _tiles(statistics: LabelStatistics) -> Tiles:
    total = int(statistics.counts.sum())
    items = [("images", f"{statistics.images:,}")]
    if statistics.unit != "pixels":
        per_image = total / max(1, statistics.images)
        items += [(statistics.unit, f"{total:,}"), ("per image", f"{per_image:.1f}")]
        items += [("crowds", f"{statistics.crowds:,}")] if statistics.crowds else []
    items.append(("classes", str(len(statistics.counts))))
    return Tiles(items)


def _label_table(statistics: LabelStatistics, names: Sequence[str]) -> Table:
    total = max(1, int(statistics.counts.sum()))
    with_sides = statistics.unit == "objects"
    rows = [
        (
            name,
            int(statistics.in_images[k]),
            int(statistics.counts[k]),
            100 * statistics.counts[k] / total,
            *([float(statistics.sides[k])] if with_sides else []),
        )
        for k, name in enumerate(names)
    ]
    rows.sort(key=lambda row: -row[2])
    headers = ["class", "images", statistics.unit, f"% of {statistics.unit}"]
    notes = []
    if with_sides:
        headers.append("median side, pixels")
        notes.append("The side is the root of the area of an object's box.")
    if statistics.examined < statistics.images:
        notes.append(f"Counted in {statistics.examined} images, spread over the data set.")
    if rare := sum(row[2] == 0 for row in rows):
        notes.append(f"{rare} of {len(rows)} classes do not occur.")
    return Table(
        headers,
        rows,
        {3: max((row[3] for row in rows), default=0.0)},
        caption="Labels",
        note=" ".join(notes),
    )
