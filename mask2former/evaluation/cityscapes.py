"""Cityscapes' own evaluation of instances and of semantic labels.

Detectron2's evaluators write predictions as Cityscapes' scripts read them and run these. Here they
run with today's numpy, leave nothing in the working directory, and say what is missing.
"""

from __future__ import annotations

import contextlib
import glob
import importlib
import os
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import CityscapesInstanceEvaluator, CityscapesSemSegEvaluator
from detectron2.evaluation.cityscapes_evaluation import CityscapesEvaluator

from ..data.errors import DatasetError


class _RunsScripts(CityscapesEvaluator):
    """The common part of both evaluators, beside a class of Detectron2.

    Args:
        dataset_name: a registered data set with ``gt_dir`` in its metadata.

    Raises:
        ImportError: cityscapesscripts is not installed.
        DatasetError: the ground truth is missing.
    """

    truth_kind: str  # part of the names of ground truth files
    script: str  # module of cityscapesscripts.evaluation

    def __init__(self, dataset_name: str) -> None:
        _require(dataset_name, self.truth_kind)
        super().__init__(dataset_name)

    def evaluate(self) -> Any:
        """Return the numbers on the main process, None on others."""
        with _tamed(self.script):
            return super().evaluate()


class CityscapesInstances(_RunsScripts, CityscapesInstanceEvaluator):
    """AP and AP50 of instances; `evaluate` returns ``{"segm": {"AP", "AP50"}}`` in percent.

    The data set needs ``thing_classes`` in its metadata.
    """

    truth_kind = "instanceIds"
    script = "evalInstanceLevelSemanticLabeling"


class CityscapesSemantic(_RunsScripts, CityscapesSemSegEvaluator):
    """IoU of semantic labels.

    `evaluate` returns ``{"sem_seg": {"IoU", "iIoU", "IoU_sup", "iIoU_sup"}}`` in percent.
    """

    truth_kind = "labelIds"
    script = "evalPixelLevelSemanticLabeling"


def require_scripts(dataset_name: str) -> None:
    """Raise `ImportError` unless cityscapesscripts, which `dataset_name` needs, is installed."""
    try:
        importlib.import_module("cityscapesscripts")
    except ImportError as error:
        raise ImportError(
            f"evaluating on {dataset_name!r} needs Cityscapes' scripts: pip install "
            "cityscapesscripts"
        ) from error


def _require(dataset_name: str, kind: str) -> None:
    require_scripts(dataset_name)
    gt_dir = MetadataCatalog.get(dataset_name).gt_dir
    pattern = os.path.join(gt_dir, "*", f"*_gtFine_{kind}.png")
    if not glob.glob(pattern):
        raise DatasetError(
            f"there is no ground truth for {dataset_name!r}: nothing matches {pattern}. "
            "The archive gtFine_trainvaltest.zip of Cityscapes has it."
        )


@contextlib.contextmanager
def _tamed(name: str) -> Iterator[None]:
    """Let a module of Cityscapes' scripts run with today's numpy, and turn its exit into an error.

    Version 2.3 has three faults. It uses `numpy.in1d`, which numpy 2.4 does not have. It writes
    ``matches.json``, which nobody reads, into the working directory, and this fails with the
    integers of numpy 2. It ends the process if a prediction is missing.

    Raises:
        ValueError: the scripts ended themselves.
    """
    scripts = importlib.import_module(f"cityscapesscripts.evaluation.{name}")
    changed: dict[str, Any] = {}
    if not hasattr(np, "in1d"):
        compatible = types.ModuleType("numpy")
        compatible.__dict__.update(np.__dict__, in1d=np.isin)
        changed["np"] = compatible
    if hasattr(scripts, "writeDict2JSON"):
        changed["writeDict2JSON"] = lambda content, path: None
    before = {name: getattr(scripts, name) for name in changed}
    vars(scripts).update(changed)
    try:
        yield
    except SystemExit as error:
        raise ValueError(
            "Cityscapes' scripts gave up for the reason they printed above. They need a prediction "
            "for every image of the split."
        ) from error
    finally:
        vars(scripts).update(before)
