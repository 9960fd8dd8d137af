"""Boundary average precision (Cheng et al., Boundary IoU, arXiv 2103.16562).

Matching and accumulation are COCO's, by pycocotools. But the overlap of two masks is the lesser of
their IoU and of the IoU of their boundaries: the pixels of a mask at most d away from what is not
mask, where d is 2 % of the image's diagonal. Outside the image there is no mask.

Shape letters: H, W image height and width.
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
from tqdm import tqdm

from .average_precision import percent, summarize_coco

DILATION_RATIO = 0.02


def mask_boundary(mask: np.ndarray, dilation_ratio: float = DILATION_RATIO) -> np.ndarray:
    """Return those pixels of a mask that are near its boundary.

    These are the pixels that d erosions by 3 x 3 pixels take away, so the distance is the larger of
    those in x and in y; d is rounded to a whole number of at least 1.

    Args:
        mask: (H, W) of zeros and ones.
        dilation_ratio: d divided by the diagonal of the image.

    Returns:
        (H, W) uint8 of zeros and ones.
    """
    height, width = mask.shape
    distance = max(1, round(dilation_ratio * np.hypot(height, width)))
    boundary = np.zeros((height, width), dtype=np.uint8, order="F")  # as RLE counts
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows):
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        inside = mask[box].astype(np.uint8)  # around it there is no mask
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
    """Boundary AP of predictions in COCO's result format.

    Args:
        truth: COCO instance annotations.
        results: `image_id`, `category_id`, `score` and `segmentation` (RLE) of each prediction.
        dilation_ratio: see `mask_boundary`.
        max_dets_per_image: the highest-scoring detections per image and category that count.
        workers: processes that find the boundaries, which takes most of the time.
        progress: whether to show a bar for that.

    Returns:
        "AP", "AP50", "AP75", "APs", "APm", "APl" and "AP-<class>" of each class, in percent; NaN
        without ground truth.

    Raises:
        ValueError: a prediction is of an image or category that the ground truth has not, or has
            no segmentation.
    """
    _check(truth, results)
    images = {image["id"]: image for image in truth["images"]}
    # pycocotools takes an annotation of id 0 for none, and changes what it gets.
    annotations = [{**a, "id": i} for i, a in enumerate(truth["annotations"], start=1)]
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
    for detection in detections:
        detection["area"] = float(mask_util.area(detection["segmentation"]))
    with multiprocessing.Pool(workers) if workers > 1 else contextlib.nullcontext() as pool:
        function = functools.partial(_rle_boundary, dilation_ratio=dilation_ratio)
        everything = [*annotations, *detections]
        masks = (entry["segmentation"] for entry in everything)
        found: Iterable = map(function, masks) if pool is None else pool.imap(function, masks, 64)
        found = tqdm(found, "boundaries", len(everything), disable=not progress)
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
    """COCO's evaluation with another overlap; annotations carry the RLE of their ``boundary``."""

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
        # What lies within a crowd is not held to its boundary.
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
    height, width = image["height"], image["width"]
    if isinstance(segmentation, list):
        return mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, height, width)
    return segmentation


def _check(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    for key, part in (("image_id", "images"), ("category_id", "categories")):
        known = {entry["id"] for entry in truth[part]}
        unknown = [result[key] for result in results if result[key] not in known]
        if unknown:
            raise ValueError(
                f"{len(unknown)} predictions are of {part} that the ground truth has not, such as "
                f"{key} {unknown[0]!r}"
            )
    without = [result for result in results if not result.get("segmentation")]
    if without:
        raise ValueError(
            f"{len(without)} of {len(results)} predictions have no segmentation, such as one for "
            f"image {without[0]['image_id']!r}"
        )
