"""Finding the thresholds of a model's classes in an evaluation, and storing them with the model."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from detectron2.config import CfgNode

from mask2former_runtime.text import one_line

from ..data.metadata import METADATA_FILE, find_classes, saved_metadata, write_thresholds
from ..evaluation.thresholds import ClassMatches, Threshold, choose_threshold
from ..inference.exported import is_exported
from ..inference.segmenters import DEFAULT_THRESHOLD
from ..report import Report
from ..tasks import TASKS, tasks_of

logger = logging.getLogger(__name__)


def check_threshold_flags(args: argparse.Namespace, cfg: CfgNode) -> None:
    """Raise `ValueError` before an evaluation whose thresholds could not be found or stored."""
    if not args.find_thresholds:
        if args.wanted_precision is not None:
            raise ValueError("--wanted-precision needs --find-thresholds")
        return
    if not args.eval_only:
        raise ValueError("--find-thresholds needs --eval-only")
    tasks = tasks_of(cfg)
    if tasks is not None and TASKS["instance"] not in tasks:
        raise ValueError(
            "--find-thresholds: thresholds are for the scores of instances, which this model does "
            f"not predict ({TASKS['instance'].switch_key} is False)"
        )
    path = _file(cfg, args.config_file)
    if not os.access(path, os.W_OK):
        raise ValueError(f"--find-thresholds: {path} cannot be written to")


def _file(cfg: CfgNode, config_file: str) -> str:
    """Return the `metadata.json` that the thresholds of a model belong into."""
    path = next((path for path, _ in saved_metadata(cfg, config_file)), None)
    if path is None or Path(config_file).is_dir() or is_exported(config_file):
        raise ValueError(
            f"--find-thresholds stores them in the {METADATA_FILE} of a run, beside its weights, "
            f"and there is none for {config_file}: evaluate the run that the model comes from, and "
            "convert or export it afterwards"
        )
    return path


def store_thresholds(
    report: Report, cfg: CfgNode, config_file: str, precision: float | None
) -> None:
    """Choose the threshold of each class, store them beside the weights, and log them.

    Args:
        report: of an evaluation of instances.
        cfg: the config of the model.
        config_file: where it comes from.
        precision: the wanted precision; None for the highest F1.

    Raises:
        ValueError: no instances were evaluated, or on several data sets.
    """
    found = {name: evaluator.class_matches() for name, evaluator in report.instance_evaluators()}
    matches = [(name, of_class) for name, of_class in found.items() if of_class is not None]
    if len(matches) != 1:
        number = "several data sets" if matches else "no data set with annotated instances"
        raise ValueError(f"--find-thresholds needs one data set: this evaluated {number}")
    path = _file(cfg, config_file)
    thresholds = choose_thresholds(matches[0][1], cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, precision)
    write_thresholds(path, [threshold.value for threshold in thresholds.values()])
    classes = find_classes(cfg, config_file)
    names = [f"class {i}" for i in thresholds] if classes is None else classes.names
    rows = [_row(one_line(names[i], 40), threshold) for i, threshold in thresholds.items()]
    what = "the highest F1" if precision is None else f"a precision of at least {precision:g}"
    logger.info("Thresholds for %s, found on %s:\n%s", what, matches[0][0], "\n".join(rows))
    logger.info("Stored in %s; predictions use them unless another threshold is given", path)


def choose_thresholds(
    matches: Mapping[int, ClassMatches], num_classes: int, precision: float | None
) -> dict[int, Threshold]:
    """Return the threshold of each class, in the order of classes, from 0.

    Args:
        matches: by class; classes that cannot be instances are missing.
        num_classes: of the model.
        precision: the wanted precision; None for the highest F1.
    """
    missing = Threshold(None, 0, 0, 0, "it has no objects")
    return {
        i: choose_threshold(matches[i], precision=precision, default=DEFAULT_THRESHOLD)
        if i in matches
        else missing
        for i in range(num_classes)
    }


def _row(name: str, found: Threshold) -> str:
    value = DEFAULT_THRESHOLD if found.value is None else found.value
    text = f"  {name}: {value:.3f}"
    if found.shown:
        text += f", precision {found.precision:.2f}"
        if found.objects:
            text += f", recall {found.recall:.2f}"
    text += f" ({found.right} of {found.shown} shown are right, {found.objects} objects)"
    return text if found.value is not None else f"{text}; the default, because {found.reason}"
