"""Mean IoU of semantic segmentation.

The numbers and their names are those of Detectron2's `SemSegEvaluator`. Unlike that
evaluator, this one does not keep predictions in memory, accepts 16-bit label maps and any number of
classes, and can derive its ground truth from panoptic annotations.

Shapes: K classes; H, W image height and width.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import hotcoco
import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from mask2former_runtime.files import write_atomically
from mask2former_runtime.text import some_of

from ..data.errors import DatasetError
from ..data.label_maps import read_label_map, read_panoptic_png
from ..data.segment_labels import semantic_labels
from .ground_truth import panoptic_classes
from .tables import class_table

logger = logging.getLogger(__name__)

_BLOCK = 1 << 16  # pixels


@dataclass(frozen=True)
class SemanticAnalysis:
    """Details of mean IoU.

    Attributes:
        names: K names.
        confusion: (K, K), the number of pixels by true class (rows) and predicted class (columns).
        quality: image file -> IoU in [0, 1], averaged over the classes that are in the image.
    """

    names: Sequence[str]
    confusion: np.ndarray
    quality: Mapping[str, float]


class SemanticEvaluator(DatasetEvaluator):
    """Intersection over union of semantic predictions, and pixel accuracy.

    Predictions are Detectron2's ``sem_seg``, (K, H, W) scores; the class of a pixel is the one with
    the highest score. `evaluate` returns, in percent, ``{"sem_seg": {"mIoU", "fwIoU",
    "IoU-<class>"..., "mACC", "pACC", "ACC-<class>"...}}``: IoU averaged over classes, IoU weighted
    by the pixels of each class, pixel accuracy averaged over classes, and accuracy over all pixels.
    A class without ground truth pixels gets NaN and is left out of the averages. Pixels with the
    ignore label do not count.

    With `output_dir`, ``sem_seg_predictions.json`` contains the predicted masks as COCO RLE, and
    ``sem_seg_evaluation.pth`` contains the numbers.

    Args:
        dataset_name: a registered data set with ``stuff_classes`` and, unless it is 255,
            ``ignore_label`` in its metadata; its dataset dicts have ``sem_seg_file_name`` or,
            to derive that from, ``pan_seg_file_name`` and ``segments_info``.
        output_dir: folder for the predictions, which all processes share, or None to write
            none.
        distributed: whether to gather the results of all processes.

    Raises:
        DatasetError: the data set has no such ground truth.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | os.PathLike[str] | None = None,
        *,
        distributed: bool = True,
    ) -> None:
        metadata = MetadataCatalog.get(dataset_name)
        names = metadata.get("stuff_classes")
        if not names:
            raise DatasetError(
                f"data set {dataset_name!r} has no stuff_classes, the names of semantic classes, "
                "in its metadata"
            )
        self._dataset_name = dataset_name
        self._names: list[str] = list(names)
        self._ignore_label = int(metadata.get("ignore_label", 255))
        self._classes = panoptic_classes(metadata)[1]
        self._truth = _ground_truth(dataset_name)
        self._distributed = distributed
        self._output_dir = None if output_dir is None else Path(output_dir)

    def reset(self) -> None:
        """Forget all predictions."""
        K = len(self._names)
        self._confusion = np.zeros((K, K), dtype=np.uint64)  # truth by prediction
        self._quality: dict[str, float] = {}
        self._analysis: SemanticAnalysis | None = None
        if self._output_dir is not None:
            self._output_dir.mkdir(parents=True, exist_ok=True)
            self._partial(comm.get_rank()).write_bytes(b"")

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Count the pixels of a batch.

        Args:
            inputs: what the model was given, with ``file_name``.
            outputs: what the model returned, with ``sem_seg``.

        Raises:
            ValueError: an output has no ``sem_seg``, or its classes or size do not fit the ground
                truth, or the data set does not have the image.
            DatasetError: the ground truth cannot be read, or has a label that is not a class.
        """
        for image, output in zip(inputs, outputs, strict=True):
            path = image["file_name"]
            if "sem_seg" not in output:
                raise ValueError(
                    f"image {path}: the model returned {sorted(output)} but no 'sem_seg'; for "
                    "Mask2Former set MODEL.MASK_FORMER.TEST.SEMANTIC_ON True"
                )
            scores = output["sem_seg"]
            if len(scores) != len(self._names):
                raise ValueError(
                    f"image {path}: the model predicts {len(scores)} classes, data set "
                    f"{self._dataset_name!r} has {len(self._names)}; "
                    f"MODEL.SEM_SEG_HEAD.NUM_CLASSES must be {len(self._names)}"
                )
            labels = best_classes(scores)
            confusion = self._compare(path, labels)
            self._confusion += confusion
            iou = class_iou(confusion)
            if not np.isnan(iou).all():
                self._quality[path] = float(np.nanmean(iou))
            if self._output_dir is not None:
                with self._partial(comm.get_rank()).open("a") as file:
                    for entry in self._results(path, labels):
                        file.write(json.dumps(entry) + "\n")

    def _compare(self, path: str, labels: np.ndarray) -> np.ndarray:
        """Return the (K, K) pixel counts of one image."""
        if path not in self._truth:
            raise ValueError(f"data set {self._dataset_name!r} does not have image {path}")
        record = self._truth[path]
        if isinstance(record, str):
            truth_path, truth = record, read_label_map(record)
        else:
            truth_path, segments = record
            truth = semantic_labels(read_panoptic_png(truth_path), segments, self._ignore_label)
        if truth.shape != labels.shape:
            raise ValueError(
                f"image {path}: the prediction has height and width {list(labels.shape)}, the "
                f"ground truth {truth_path} {list(truth.shape)}"
            )
        K = len(self._names)
        try:
            return hotcoco.metrics.pixel_confusion(
                truth, labels, K, ignore_index=self._ignore_label
            )
        except ValueError as error:
            unknown = np.unique(truth)
            unknown = unknown[((unknown < 0) | (unknown >= K)) & (unknown != self._ignore_label)]
            raise DatasetError(
                f"{truth_path}: labels {some_of(unknown.tolist())} are neither one of the {K} "
                f"classes (0 to {K - 1}) nor the ignore label {self._ignore_label} of data set "
                f"{self._dataset_name!r}"
            ) from error

    def _results(self, path: str, labels: np.ndarray) -> list[dict[str, Any]]:
        """Return the masks of one image in COCO's result format of stuff segmentation."""
        results = []
        for label in np.unique(labels).tolist():
            rle = hotcoco.mask.encode(labels == label)
            results.append(
                {
                    "file_name": path,
                    "category_id": self._classes.ids[label],
                    "segmentation": {
                        "size": list(rle["size"]), "counts": rle["counts"].decode("ascii")
                    },
                }
            )  # fmt: skip
        return results

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Return the numbers on the main process, None on others."""
        confusion, quality = self._confusion, self._quality
        if self._distributed:
            comm.synchronize()
            gathered, qualities = comm.gather(confusion), comm.gather(quality)
            if not comm.is_main_process():
                return None
            confusion = np.sum(gathered, axis=0)
            quality = {path: value for part in qualities for path, value in part.items()}
        self._analysis = SemanticAnalysis(self._names, confusion.astype(np.int64), quality)
        results = semantic_scores(confusion, self._names)
        logger.info(f"Semantic segmentation:\n{semantic_table(results, self._names)}")
        if self._output_dir is not None:
            self._finish(results)
        return {"sem_seg": results}

    @property
    def results_file(self) -> str | None:
        """The path of the predicted masks; None if none are written."""
        if self._output_dir is None:
            return None
        return str(self._output_dir / "sem_seg_predictions.json")

    def analysis(self) -> SemanticAnalysis | None:
        """Return what the last `evaluate` found beyond its numbers; None on other processes."""
        return self._analysis

    def _partial(self, rank: int) -> Path:
        assert self._output_dir is not None
        return self._output_dir / f"sem_seg_predictions.partial.{rank}"

    def _finish(self, results: dict[str, float]) -> None:
        assert self._output_dir is not None
        ranks = range(comm.get_world_size()) if self._distributed else [comm.get_rank()]
        parts = [self._partial(rank) for rank in ranks]
        if absent := [part.name for part in parts if not part.exists()]:
            logger.warning(
                f"{self._output_dir} is not shared by all processes: the predictions of "
                f"{some_of(absent)} are not written."
            )

        def join(file: BinaryIO) -> None:
            before = b"["
            for part in parts:
                for line in part.open("rb") if part.exists() else ():
                    file.write(before + line.rstrip(b"\n"))
                    before = b",\n"
            file.write(b"[]" if before == b"[" else b"]")

        path = self.results_file
        assert path is not None
        write_atomically(path, join)
        for part in self._output_dir.glob("sem_seg_predictions.partial.*"):
            part.unlink()
        write_atomically(
            self._output_dir / "sem_seg_evaluation.pth", lambda file: torch.save(results, file)
        )
        logger.info(f"Predicted masks: {path}")


def _ground_truth(dataset_name: str) -> dict[str, str | tuple[str, list[dict[str, Any]]]]:
    """Return the ground truth per image file.

    It is the path of a label map, or that of a panoptic PNG and the ``id`` and ``category_id`` of
    its segments.
    """
    truth: dict[str, Any] = {}
    for record in DatasetCatalog.get(dataset_name):
        if "sem_seg_file_name" in record:
            truth[record["file_name"]] = record["sem_seg_file_name"]
        elif "pan_seg_file_name" in record and "segments_info" in record:
            segments = [
                {"id": segment["id"], "category_id": segment["category_id"]}
                for segment in record["segments_info"]
            ]
            truth[record["file_name"]] = (record["pan_seg_file_name"], segments)
        else:
            raise DatasetError(
                f"data set {dataset_name!r}: the dict of {record['file_name']} has neither "
                "sem_seg_file_name nor pan_seg_file_name and segments_info, so there is no "
                "semantic ground truth"
            )
    return truth


def best_classes(scores: torch.Tensor) -> np.ndarray:
    """Return the class with the highest score per pixel, the first one of equal scores.

    Args:
        scores: (K, H, W), on any device. Only the result is copied from a GPU.

    Returns:
        (H, W), uint8 up to 256 classes and int16 above.
    """
    few = len(scores) <= 256
    if scores.device.type != "cpu":
        return scores.argmax(dim=0).to(torch.uint8 if few else torch.int16).cpu().numpy()
    # torch.argmax strides through all K scores per pixel. Going through the classes one by one for
    # a block of pixels that fits the cache takes at most a quarter of the time.
    if scores.dtype != torch.float64:
        scores = scores.float()
    flat = scores.detach().flatten(1).numpy()  # (K, P)
    best_class = np.zeros(flat.shape[1], dtype=np.uint8 if few else np.int16)
    for start in range(0, flat.shape[1], _BLOCK):
        block = flat[:, start : start + _BLOCK]
        found, best = best_class[start : start + _BLOCK], block[0].copy()
        for k in range(1, len(block)):
            np.copyto(found, k, where=block[k] > best)
            np.maximum(best, block[k], out=best)
    return best_class.reshape(scores.shape[1:])


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """Return the (K,) IoU in [0, 1] of each class, NaN without ground truth.

    Args:
        confusion: (K, K), the number of pixels by true class and predicted class.
    """
    pixels = confusion.sum(axis=1).astype(np.float64)
    predicted = confusion.sum(axis=0).astype(np.float64)
    right = confusion.diagonal().astype(np.float64)
    there = pixels > 0
    iou = np.full(len(confusion), np.nan)
    iou[there] = right[there] / (pixels + predicted - right)[there]
    return iou


def semantic_scores(confusion: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Return the scores of `SemanticEvaluator` by name, in percent.

    Args:
        confusion: (K, K), the number of pixels by true class and predicted class.
        names: K class names.
    """
    pixels = confusion.sum(axis=1).astype(np.float64)  # (K,) of the ground truth
    right = confusion.diagonal().astype(np.float64)
    there = pixels > 0
    iou = 100 * class_iou(confusion)
    accuracy = np.full(len(names), np.nan)
    accuracy[there] = 100 * right[there] / pixels[there]
    if there.any():
        miou, macc = iou[there].mean(), accuracy[there].mean()
        fwiou = iou[there] @ pixels[there] / pixels.sum()
        pacc = 100 * right.sum() / pixels.sum()
    else:
        miou = macc = fwiou = pacc = np.nan
    return {
        "mIoU": float(miou),
        "fwIoU": float(fwiou),
        **{f"IoU-{name}": value for name, value in zip(names, iou.tolist(), strict=True)},
        "mACC": float(macc),
        "pACC": float(pacc),
        **{f"ACC-{name}": value for name, value in zip(names, accuracy.tolist(), strict=True)},
    }


def semantic_table(results: Mapping[str, float], names: Sequence[str]) -> str:
    """Return the results of `semantic_scores` as text, without classes that have no number."""
    averages = ", ".join(
        f"{name} {results[name]:.3f}" for name in ("mIoU", "fwIoU", "mACC", "pACC")
    )
    rows = [(name, results[f"IoU-{name}"], results[f"ACC-{name}"]) for name in names]
    known = [row for row in rows if not np.isnan(row[1])]
    return f"{averages}\n{class_table(['class', 'IoU', 'ACC'], known)}"
