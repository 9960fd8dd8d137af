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

from ..evaluation import COCOInstanceEvaluator, PanopticEvaluator, SemanticEvaluator
from ..evaluation.instance_analysis import InstanceAnalysis
from ..evaluation.panoptic_analysis import PanopticAnalysis
from ..utils.files import write_atomically
from . import evaluation
from .images import image_blocks
from .page import Block, Section, Text, render

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
    """Collects the parts of a report and writes them into one file.

    Pictures are drawn when a part is added, so evaluators need not be kept.

    Args:
        cfg: the config of the evaluation or the run.
        title: the heading.
    """

    def __init__(self, cfg: CfgNode, title: str):
        self._cfg = cfg
        self._title = title
        self._facts: list[tuple[str, str]] = []
        self._sections: list[Section] = []

    def add_evaluation(
        self,
        dataset_name: str,
        evaluator: DatasetEvaluator,
        results: Mapping[str, Mapping[str, float]],
    ) -> None:
        """Add what was measured on a data set.

        Args:
            dataset_name: the data set.
            evaluator: an evaluator after its `evaluate`, in the main process. One that this package
                does not know contributes its numbers only.
            results: what `evaluate` returned.

        Raises:
            ValueError: a file that the evaluators wrote, or an image, cannot be read.
        """
        blocks: list[Block] = [*evaluation.tiles(results), evaluation.numbers(results)]
        sections: list[Section] = []
        known = sorted(_known(evaluator), key=lambda e: list(_QUALITY).index(type(e)))
        pictures: list[Block] = []
        for part in known:
            analysis = part.analysis()
            if analysis is None:
                continue
            nothing = (
                isinstance(analysis, InstanceAnalysis) and not analysis.calibration.counts.any()
            )
            if not pictures and part.results_file and not nothing:
                meaning = _QUALITY[type(part)]
                pictures += image_blocks(dataset_name, part.results_file, analysis.quality, meaning)
            sections.append(_section(analysis))
        if pictures:
            sections.insert(0, Section("Images", pictures))
        several = len(self._cfg.DATASETS.TEST) > 1
        where = f" on {dataset_name}" if several else ""
        self._facts.append(("evaluated on", dataset_name))
        self._sections.append(Section(f"Results{where}", blocks))
        self._sections += [Section(f"{s.title}{where}", s.blocks) for s in sections]

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Write `REPORT_FILE` into a folder, which is made if it does not exist.

        Returns:
            The path of the file.

        Raises:
            OSError: the folder cannot be written to.
        """
        from .. import __version__

        facts = [
            *self._facts,
            ("weights", self._cfg.MODEL.WEIGHTS or "none"),
            ("written", f"{datetime.datetime.now():%Y-%m-%d %H:%M}"),
            ("Mask2Former", __version__),
        ]
        config = Section("Config", [Text("All keys", code=self._cfg.dump())])
        page = render(self._title, facts, [*self._sections, config])
        path = Path(folder, REPORT_FILE)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Names of files may hold bytes that are not UTF-8.
        write_atomically(path, lambda file: file.write(page.encode(errors="replace")))
        logger.info("Report: %s", path)
        return path


def _known(evaluator: DatasetEvaluator) -> Iterator[_Analysed]:
    if isinstance(evaluator, DatasetEvaluators):
        for part in evaluator._evaluators:
            yield from _known(part)
    elif type(evaluator) in _QUALITY:
        yield evaluator  # type: ignore[misc]


def _section(analysis: Any) -> Section:
    if isinstance(analysis, InstanceAnalysis):
        return evaluation.instance_section(analysis)
    if isinstance(analysis, PanopticAnalysis):
        return evaluation.panoptic_section(analysis)
    return evaluation.semantic_section(analysis)
