"""Panoptic quality of a model's predictions.

The numbers equal those of COCO's panopticapi. Each image is matched as soon as it is predicted, so
the evaluation does not have to keep its map or write it to a file.

Shapes:
    H, W: height and width of the image.
"""

from __future__ import annotations

import logging
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from PIL import Image
from tabulate import tabulate

from mask2former_runtime.files import write_json
from mask2former_runtime.maps import ids_to_rgb
from mask2former_runtime.text import some_of

from ..data.errors import DatasetError
from .ground_truth import PanopticTruth, Segment, panoptic_classes
from .panoptic_analysis import PanopticAnalysis, analyze_panoptic
from .panoptic_quality import (
    Counts,
    ImageMatches,
    PanopticQuality,
    match_segments,
    panoptic_quality,
)
from .tables import class_table

RESULTS_FILE = "predictions.json"
PNG_FOLDER = "predictions"

logger = logging.getLogger(__name__)


class PanopticEvaluator(DatasetEvaluator):
    """PQ, SQ and RQ of panoptic predictions, by COCO's rules.

    Predictions are Detectron2's ``panoptic_seg``: the (H, W) map of segment ids, 0 outside of
    segments, and ``id``, ``category_id`` and ``isthing`` of the segments. `evaluate` returns, in
    percent,
    ``{"panoptic_seg": {"PQ", "SQ", "RQ", "PQ_th", "SQ_th", "RQ_th", "PQ_st", "SQ_st", "RQ_st"}}``
    and logs the values of each class. Averages are over the classes that occur in the ground truth
    or in the predictions; they are NaN if no class occurs.

    With `output_dir`, predictions are written there in COCO's panoptic format: ``predictions.json``
    and the folder ``predictions`` of PNG files. They replace older ones at the end.

    Args:
        dataset_name: a registered data set with panoptic ground truth (see
            `PanopticTruth.of_dataset`). If it does not have annotations, nothing is evaluated.
        output_dir: folder for the predictions, which all processes share, or None to write none.
        distributed: whether to gather the results of all processes.

    Raises:
        DatasetError: the ground truth is missing or cannot be read.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | os.PathLike[str] | None = None,
        *,
        distributed: bool = True,
    ):
        self._metadata = MetadataCatalog.get(dataset_name)
        self._things, self._stuff = panoptic_classes(self._metadata)
        self._truth = PanopticTruth.of_dataset(dataset_name)
        self._writer = None if output_dir is None else _ResultsWriter(Path(output_dir))
        self._distributed = distributed

    def reset(self) -> None:
        """Forget all predictions."""
        self._matches: dict[Hashable, ImageMatches] = {}
        self._files: dict[Hashable, str] = {}
        self._analysis: Callable[[], PanopticAnalysis] | None = None
        self._written: dict[Hashable, dict[str, Any]] = {}
        if self._writer is not None:
            self._writer.start(self._distributed)

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Match the predictions for a batch with the ground truth.

        Args:
            inputs: the model's inputs; this reads ``image_id`` and ``file_name`` of each.
            outputs: the model's outputs; this reads ``panoptic_seg`` of each without changing it.

        Raises:
            ValueError: an output does not have ``panoptic_seg``, contradicts itself, has classes
                that the data set does not have or another size than the ground truth, or there is
                no ground truth for the image.
        """
        for image, output in zip(inputs, outputs, strict=True):
            image_id = image["image_id"]
            try:
                if "panoptic_seg" not in output:
                    raise ValueError(
                        f"the model returned {sorted(output)} but no 'panoptic_seg'; for "
                        "Mask2Former set MODEL.MASK_FORMER.TEST.PANOPTIC_ON True"
                    )
                segment_ids, segments = self._prediction(*output["panoptic_seg"])
                if self._truth.annotated:
                    self._matches[image_id] = self._match(image_id, segment_ids, segments)
                    self._files[image_id] = image.get("file_name", str(image_id))
            except DatasetError:
                raise
            except ValueError as error:
                raise ValueError(f"image {image_id}: {error}") from error
            if self._writer is not None:
                png = self._file_name(image)
                self._writer.write_png(png, segment_ids)
                self._written[image_id] = {
                    "image_id": image_id, "file_name": png, "segments_info": segments
                }  # fmt: skip

    def _prediction(
        self, segment_ids: Any, segments: Sequence[Segment] | None
    ) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Return the map on the CPU, and segments with the category ids of the data set."""
        segment_ids = segment_ids.cpu().numpy()
        if segments is None:
            segment_ids, segments = self._from_labels(segment_ids)
        return segment_ids, [
            {"id": int(s["id"]), "category_id": self._category_id(s)}
            | ({"score": float(s["score"])} if "score" in s else {})
            for s in segments
        ]

    def _from_labels(self, labels: np.ndarray) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Return ids and segments of a map of class * label_divisor + instance, -1 where void."""
        divisor = self._metadata.label_divisor
        segments: list[dict[str, Any]] = []
        for label in np.unique(labels[labels >= 0]).tolist():
            isthing = self._things.is_thing(label // divisor)
            segments.append({"id": label + 1, "category_id": label // divisor, "isthing": isthing})
        return labels + 1, segments

    def _category_id(self, segment: Segment) -> int:
        """Return the data set's id for the class of a predicted segment.

        As in Detectron2, ``isthing`` decides if the data set numbers things and stuff separately;
        without ``isthing``, ``category_id`` is the data set's id already.
        """
        isthing, index = segment.get("isthing"), int(segment["category_id"])
        if isthing is None:
            return index
        classes = self._things if isthing else self._stuff
        known = classes.things if isthing and classes.things else range(len(classes))
        if index not in known:
            kind = "thing" if isthing else "stuff"
            raise ValueError(
                f"the model predicted {kind} of class {index}, but the {kind} classes of the data "
                f"set are {sorted(known)}; was it trained on other classes?"
            )
        return classes.ids[index]

    def _match(
        self, image_id: Hashable, segment_ids: np.ndarray, segments: Sequence[Segment]
    ) -> ImageMatches:
        if image_id not in self._truth.image_ids:
            raise ValueError(
                f"{self._truth.source} has no such image; its ids are like "
                f"{some_of([repr(i) for i in self._truth.image_ids])}"
            )
        unknown = {s["category_id"] for s in segments} - self._truth.classes.index.keys()
        if unknown:
            raise ValueError(
                f"predicted segments have category ids {sorted(unknown)}, which "
                f"{self._truth.source} does not list"
            )
        return match_segments(
            self._truth.read(image_id), self._truth.segments(image_id), segment_ids, segments
        )

    def _file_name(self, image: Mapping[str, Any]) -> str:
        name = self._truth.file_name(image["image_id"])
        if name is None or os.path.isabs(name) or ".." in Path(name).parts:
            name = os.path.basename(image["file_name"])
        return os.path.splitext(name)[0] + ".png"

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Return the numbers on the main process, and None on the others."""
        matches, files, written = self._matches, self._files, self._written
        if self._distributed:
            comm.synchronize()
            matches = _merge(comm.gather(matches))
            files = _merge(comm.gather(files))
            written = _merge(comm.gather(written))
            if not comm.is_main_process():
                return None
        results = self._scores(matches, files) if self._truth.annotated else {}
        if self._writer is not None:
            self._writer.finish({**self._truth.header, "annotations": list(written.values())})
        if not self._truth.annotated:
            logger.info(
                f"{self._truth.source} has no annotations, so nothing is evaluated."
                + ("" if self._writer else " Give an output_dir to write the predictions.")
            )
        return results

    def _scores(
        self, matches: dict[Hashable, ImageMatches], files: Mapping[Hashable, str]
    ) -> dict[str, dict[str, float]]:
        if missing := self._truth.image_ids - matches.keys():
            logger.warning(
                f"{len(missing)} of {len(self._truth.image_ids)} images of {self._truth.source} "
                f"have no prediction, such as {next(iter(missing))!r}: all their segments count as "
                "missed."
            )
            matches = matches | {image_id: self._missed(image_id) for image_id in missing}
        # The order does not depend on the number of processes, so the sums are the same to the
        # last bit.
        in_order = {image_id: matches[image_id] for image_id in sorted(matches, key=str)}
        classes = self._truth.classes
        quality = panoptic_quality([m.counts for m in in_order.values()], classes)
        logger.info(f"Panoptic quality:\n{panoptic_table(quality, self._truth)}")
        by_file = {name: in_order[image_id] for image_id, name in files.items()}
        self._analysis = lambda: analyze_panoptic(list(in_order.values()), classes, by_file)
        return {"panoptic_seg": quality.averages}

    @property
    def results_file(self) -> str | None:
        """The path of the predictions in COCO's panoptic format; None if none are written."""
        return None if self._writer is None else str(self._writer.path)

    def analysis(self) -> PanopticAnalysis | None:
        """Return what the last `evaluate` found beyond its numbers.

        Returns:
            None on other processes than the main one, before `evaluate`, and without ground truth.
        """
        return None if self._analysis is None else self._analysis()

    def _missed(self, image_id: Hashable) -> ImageMatches:
        matches = ImageMatches({}, Counter())
        for segment in self._truth.segments(image_id):
            if not segment.get("iscrowd"):
                matches.counts.setdefault(segment["category_id"], Counts()).fn += 1
                matches.confusion[segment["category_id"], None] += 1
        return matches


def _merge(parts: Sequence[Mapping[Hashable, Any]]) -> dict[Hashable, Any]:
    return {image_id: value for part in parts for image_id, value in part.items()}


def panoptic_table(quality: PanopticQuality, truth: PanopticTruth) -> str:
    """Return the averages and the values of each class as text, in percent."""
    averages = [
        (name, *(quality.averages[f"{q}{suffix}"] for q in ("PQ", "SQ", "RQ")), number)
        for name, suffix, number in (
            ("all", "", quality.num_categories[""]),
            ("things", "_th", quality.num_categories["_th"]),
            ("stuff", "_st", quality.num_categories["_st"]),
        )
    ]
    classes = [
        (truth.classes.names[truth.classes.index[i]], *values)
        for i, values in quality.per_category.items()
        if not np.isnan(values[0])
    ]
    headers = ["", "PQ", "SQ", "RQ", "classes"]
    table = tabulate(averages, headers=headers, tablefmt="pipe", floatfmt=".3f")
    return f"{table}\n\n{class_table(['class', 'PQ', 'SQ', 'RQ'], classes)}"


class _ResultsWriter:
    """Writes predictions into a temporary folder, which replaces the previous one at the end.

    All processes write PNG files; the main process does everything else.
    """

    def __init__(self, output_dir: Path):
        self._output_dir = output_dir
        self.path = output_dir / RESULTS_FILE
        self._partial = output_dir / f"{PNG_FOLDER}.partial"

    def start(self, distributed: bool) -> None:
        if comm.is_main_process():
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.mkdir(parents=True)
        if distributed:
            comm.synchronize()

    def write_png(self, name: str, segment_ids: np.ndarray) -> None:
        if segment_ids.max(initial=0) >= 1 << 24:
            raise ValueError(f"{name}: segment ids above 2**24 do not fit into a PNG")
        path = self._partial / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Maps have long runs of equal bytes, so run-length encoding makes files smaller than
        # level 1 does without it.
        image = Image.fromarray(ids_to_rgb(segment_ids))
        image.save(path, compress_level=1, compress_type=zlib.Z_RLE)

    def finish(self, results: Mapping[str, Any]) -> None:
        folder = self._output_dir / PNG_FOLDER
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(self._partial, folder)
        absent = [a for a in results["annotations"] if not (folder / a["file_name"]).exists()]
        if absent:
            logger.warning(
                f"{self._output_dir} is not shared by all processes: {len(absent)} of the "
                f"predictions in {RESULTS_FILE} have no PNG file."
            )
        write_json(self.path, results)
        logger.info(f"Predictions in COCO's panoptic format: {self.path} and {folder}")
