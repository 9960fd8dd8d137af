"""One file of HTML about an evaluation or a training run."""

from __future__ import annotations

import datetime
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

from mask2former_runtime.files import write_atomically

from ..data import SeededMapDataset
from ..evaluation import COCOInstanceEvaluator, PanopticEvaluator, SemanticEvaluator
from ..evaluation.instance_analysis import InstanceAnalysis
from ..evaluation.panoptic_analysis import PanopticAnalysis
from .evaluation import instance_section, numbers, panoptic_section, semantic_section, tiles
from .images import MOST, image_blocks
from .page import Pictures, Section, Text, render
from .training import curves, training_data

REPORT_FILE = "report.html"

logger = logging.getLogger(__name__)

_Analysed = COCOInstanceEvaluator | PanopticEvaluator | SemanticEvaluator
# What ranks images, in words, in the order in which one of the evaluators is chosen for pictures.
_QUALITY = {
    PanopticEvaluator: "panoptic quality, all classes of the image together",
    COCOInstanceEvaluator: "F1, averaged over IoU thresholds from 0.50 to 0.95",
    SemanticEvaluator: "IoU, averaged over the classes of the image",
}


class Report:
    """Collects what there is to report, and writes it into one file.

    Args:
        cfg: the config of the evaluation or the run.
        title: the heading.
    """

    def __init__(self, cfg: CfgNode, title: str):
        self._cfg = cfg
        self._title = title
        self._evaluations: list[tuple[str, DatasetEvaluator, Mapping[str, Any]]] = []
        self._training: tuple[SeededMapDataset, int] | None = None

    def add_evaluation(
        self, dataset_name: str, evaluator: DatasetEvaluator, results: Mapping[str, Any]
    ) -> None:
        """Report what was measured on a data set.

        Args:
            dataset_name: the data set.
            evaluator: an evaluator after its `evaluate`, in the main process, which may not be used
                again before `write`. One that this package does not know contributes its numbers
                only.
            results: the numbers by task, such as those that `evaluate` returned.
        """
        self._evaluations.append((dataset_name, evaluator, results))

    def instance_evaluators(self) -> Iterator[tuple[str, COCOInstanceEvaluator]]:
        """Yield the data sets whose instances were evaluated, and their evaluators."""
        for name, evaluator, _ in self._evaluations:
            for part in _known(evaluator):
                if isinstance(part, COCOInstanceEvaluator):
                    yield name, part

    def add_training(self, dataset: SeededMapDataset, seed: int) -> None:
        """Report on a run: its curves, the labels that it trained on, and its first samples.

        Args:
            dataset: of the run's loader.
            seed: of the run.
        """
        self._training = dataset, seed

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Write `REPORT_FILE` into a folder, which is made if it does not exist.

        Returns:
            The path of the file.

        Raises:
            ValueError: an image, a label map or a file that the evaluators wrote cannot be read.
            OSError: the folder cannot be written to.
        """
        from .. import __version__

        sections = curves(self._cfg.OUTPUT_DIR) if self._training else []
        for evaluation in self._evaluations:
            sections += self._evaluated(*evaluation)
        if self._training is not None:
            sections.append(training_data(self._cfg, *self._training))
        sections.append(Section("Config", [Text("All keys", code=self._cfg.dump())]))
        facts = [
            *(("evaluated on", name) for name, _, _ in self._evaluations),
            *(("trained on", name) for name in self._cfg.DATASETS.TRAIN if self._training),
            ("started from" if self._training else "weights", self._cfg.MODEL.WEIGHTS or "random"),
            ("written", f"{datetime.datetime.now():%Y-%m-%d %H:%M}"),
            ("Mask2Former", __version__),
        ]
        page = render(self._title, facts, sections)
        path = Path(folder, REPORT_FILE)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Names of files may hold bytes that are not UTF-8.
        write_atomically(path, lambda file: file.write(page.encode(errors="replace")))
        logger.info("Report: %s", path)
        return path

    def _evaluated(
        self, dataset_name: str, evaluator: DatasetEvaluator, results: Mapping[str, Any]
    ) -> Iterator[Section]:
        where = f" on {dataset_name}" if len(self._evaluations) > 1 else ""
        yield Section(f"Results{where}", [*tiles(results), numbers(results)])
        details: list[Section] = []
        pictures: list[Pictures] = []
        for part in sorted(_known(evaluator), key=lambda e: list(_QUALITY).index(type(e))):
            analysis = part.analysis()
            if analysis is None:
                continue
            details.append(_section(analysis))
            if not pictures and part.results_file and not _is_empty(analysis):
                meaning = _QUALITY[type(part)]
                pictures = image_blocks(
                    dataset_name,
                    part.results_file,
                    analysis.quality,
                    meaning,
                    max(1, MOST // len(self._evaluations)),  # so that the file stays small
                )
        if pictures:
            yield Section(f"Images{where}", pictures)
        for section in details:
            yield Section(f"{section.title}{where}", section.blocks)


def _known(evaluator: DatasetEvaluator) -> Iterator[_Analysed]:
    if isinstance(evaluator, DatasetEvaluators):
        for part in evaluator._evaluators:
            yield from _known(part)
    elif type(evaluator) in _QUALITY:
        yield evaluator  # type: ignore[misc]


def _is_empty(analysis: Any) -> bool:
    """Return whether nothing was predicted, so that there is no file of results to draw."""
    return isinstance(analysis, InstanceAnalysis) and not analysis.calibration.counts.any()


def _section(analysis: Any) -> Section:
    if isinstance(analysis, InstanceAnalysis):
        return instance_section(analysis)
    if isinstance(analysis, PanopticAnalysis):
        return panoptic_section(analysis)
    return semantic_section(analysis)
