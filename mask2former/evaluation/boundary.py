"""Boundary average precision (Cheng et al., Boundary IoU, arXiv 2103.16562).

pycocotools matches and accumulates, as for COCO's AP. Only the overlap of two masks differs: it is
the smaller of their IoU and the IoU of their boundaries. The boundary of a mask is its pixels at
most d away from a pixel outside the mask, where d is 2 % of the image's diagonal. Everything beyond
the image counts as outside.

Shapes: H, W image height and width.
"""

from __future__ import annotations

import contextlib
import functools
import io
import multiprocessing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.ndimage import minimum_filter

from ..data.segmentation import to_rle
from ..utils.progress import with_progress
from .average_precision import percent, summarize_coco

DILATION_RATIO = 0.02
# What is read of the files: see `read_coco`.
TRUTH_FIELDS = {
    "images": "id height width",
    "annotations": "image_id category_id segmentation iscrowd? area?",
    "categories": "id name",
}
RESULT_FIELDS = "image_id category_id score segmentation?"


def mask_boundary(mask: np.ndarray, dilation_ratio: float = DILATION_RATIO) -> np.ndarray:
    """Return the pixels of a mask that are near its boundary.

    These are the pixels that d erosions by 3 x 3 pixels remove, so the distance is the larger of
    the distances in x and y. d is rounded to an integer of at least 1.

    Args:
        mask: (H, W) of zeros and ones.
        dilation_ratio: d divided by the diagonal of the image.

    Returns:
        (H, W) uint8 of zeros and ones.
    """
    height, width = mask.shape
    distance = max(1, round(dilation_ratio * np.hypot(height, width)))
    boundary = np.zeros((height, width), dtype=np.uint8, order="F")  # the order of RLE
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows):
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        inside = mask[box].astype(np.uint8)  # no mask pixel is outside the box
        eroded = minimum_filter(inside, size=2 * distance + 1, mode="constant", cval=0)
        boundary[box] = inside - eroded
    return boundary


def _rle_boundary(rle: Mapping[str, Any], dilation_ratio: float) -> dict[str, Any]:
    return mask_util.encode(mask_boundary(mask_util.decode(rle), dilation_ratio))


def boundary_average_precision(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    dilation_ratio: float = DILATION_RATIO,
    max_dets_per_image: int = 100,
    workers: int = 1,
    progress: bool = True,
) -> dict[str, float]:
    """Compute the boundary AP of predictions in COCO's result format.

    Args:
        truth: COCO instance annotations, with `TRUTH_FIELDS`.
        results: `image_id`, `category_id`, `score` and `segmentation` (RLE) of each prediction.
        dilation_ratio: see `mask_boundary`.
        max_dets_per_image: the highest-scoring detections per image and category that count.
        workers: number of processes that find the boundaries, which takes most of the time.
        progress: whether to show a progress bar for the boundaries.

    Returns:
        "AP", "AP50", "AP75", "APs", "APm", "APl" and "AP-<class>" per class, in percent; NaN where
        there is no ground truth.

    Raises:
        ValueError: the ground truth does not have the image or the category of a prediction, or a
            prediction has no segmentation.
    """
    _check(truth, results)
    images = {image["id"]: image for image in truth["images"]}
    # pycocotools treats an annotation with id 0 as none, and modifies its input.
    annotations = [
        {"area": None, **a, "id": i, "iscrowd": a.get("iscrowd") or 0}
        for i, a in enumerate(truth["annotations"], start=1)
        if a["image_id"] in images
    ]
    detections = [
        {
            "id": i,
            "image_id": result["image_id"],
            "category_id": result["category_id"],
            "score": result["score"],
            "segmentation": result["segmentation"],
            "iscrowd": 0,
        }
        for i, result in enumerate(results, start=1)
    ]
    for entry in (*annotations, *detections):
        entry["segmentation"] = _as_rle(entry["segmentation"], images[entry["image_id"]])
        if entry.get("area") is None:
            entry["area"] = float(mask_util.area(entry["segmentation"]))
    with multiprocessing.Pool(workers) if workers > 1 else contextlib.nullcontext() as pool:
        function = functools.partial(_rle_boundary, dilation_ratio=dilation_ratio)
        everything = [*annotations, *detections]
        masks = (entry["segmentation"] for entry in everything)
        found: Iterable = map(function, masks) if pool is None else pool.imap(function, masks, 64)
        found = with_progress(
            found, "Outlines", total=len(everything), unit="masks", quiet=not progress
        )
        for entry, boundary in zip(everything, found, strict=True):
            entry["boundary"] = boundary
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    evaluation = _BoundaryEval(
        _api(images, annotations, categories), _api(images, detections, categories), "segm"
    )
    evaluation.params.maxDets = [
        *(min(limit, max_dets_per_image) for limit in (1, 10)), max_dets_per_image
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]  # (T, R, K, A, M)
    stats = summarize_coco(precision, evaluation.eval["recall"])[:6]
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    scores = dict(zip(names, percent(stats), strict=True))
    for k, category in enumerate(categories):
        values = precision[:, :, k, 0, -1]
        values = values[values > -1]
        scores[f"AP-{category['name']}"] = 100 * float(values.mean()) if values.size else np.nan
    return scores


class _BoundaryEval(COCOeval):
    """COCO's evaluation with the overlap of boundaries; annotations have a ``boundary`` in RLE."""

    def computeIoU(self, imgId: Any, catId: Any) -> Any:  # noqa: N802
        overlaps = super().computeIoU(imgId, catId)  # (D, G), detections by descending score
        if len(overlaps) == 0:
            return overlaps
        truths, detections = self._gts[imgId, catId], self._dts[imgId, catId]
        order = np.argsort([-d["score"] for d in detections], kind="mergesort")
        detections = [detections[i] for i in order[: self.params.maxDets[-1]]]
        crowd = np.array([int(t["iscrowd"]) for t in truths], dtype=bool)
        boundaries = mask_util.iou(
            [d["boundary"] for d in detections], [t["boundary"] for t in truths], crowd.tolist()
        )
        # The boundary of a crowd says nothing about the objects in it.
        return np.where(crowd, overlaps, np.minimum(overlaps, boundaries))


def _api(
    images: Mapping[Any, Any], annotations: list[dict[str, Any]], categories: list[dict[str, Any]]
) -> COCO:
    api = COCO()
    api.dataset = {
        "images": list(images.values()), "annotations": annotations, "categories": categories
    }  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        api.createIndex()
    return api


def _as_rle(segmentation: Any, image: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(segmentation, list):  # pycocotools would take four numbers for a box
        segmentation = [p for p in segmentation if not isinstance(p, list) or len(p) >= 6]
    try:
        return to_rle(segmentation, (image["height"], image["width"]))
    except ValueError as error:
        raise ValueError(f"a mask of image id {image['id']!r}: {error}") from error


def _check(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    for key, part in (("image_id", "images"), ("category_id", "categories")):
        known = {entry["id"] for entry in truth[part]}
        unknown = [result[key] for result in results if result[key] not in known]
        if unknown:
            raise ValueError(
                f"{len(unknown)} predictions are of {part} that the ground truth does not have, "
                f"such as {key} {unknown[0]!r}"
            )
    without = [result for result in results if not result.get("segmentation")]
    if without:
        raise ValueError(
            f"{len(without)} of {len(results)} predictions have no segmentation, such as one for "
            f"image {without[0]['image_id']!r}"
        )
