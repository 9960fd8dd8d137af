"""COCO's average precision, matched and accumulated by hotcoco.

Axes of the accumulated arrays, as in pycocotools: T IoU thresholds 0.50, 0.55 ... 0.95, R 101
levels of recall, K categories (ascending id), A areas (all, small, medium, large), M limits of
detections per image.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

import hotcoco
import numpy as np

from ..data.errors import DatasetError
from ..data.segmentation import area_and_box, check_segmentation

IOU_50, _IOU_75 = 0, 5


def summarize_coco(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Return COCO's twelve summary numbers from the accumulated arrays.

    Args:
        precision: (T, R, K, A, M), -1 where there is no ground truth.
        recall: (T, K, A, M), -1 where there is no ground truth.

    Returns:
        (12,) in [0, 1], -1 where there is no ground truth: AP, AP50, AP75, AP of small, medium and
        large objects, AR at each of the three limits, AR of small, medium and large objects.
        Unlike pycocotools' own summary, AP is taken at the last limit whatever that limit is.
    """

    def mean(values: np.ndarray) -> float:
        values = values[values > -1]
        return float(np.mean(values)) if values.size else -1.0

    everything, last = 0, -1
    return np.array(
        [
            mean(precision[:, :, :, everything, last]),
            mean(precision[IOU_50, :, :, everything, last]),
            mean(precision[_IOU_75, :, :, everything, last]),
            *(mean(precision[:, :, :, area, last]) for area in (1, 2, 3)),
            *(mean(recall[:, :, everything, limit]) for limit in range(3)),
            *(mean(recall[:, :, area, last]) for area in (1, 2, 3)),
        ]
    )


def percent(values: np.ndarray) -> list[float]:
    """Return numbers of `summarize_coco` in percent, with NaN in place of -1."""
    return np.where(values < 0, np.nan, 100 * values).tolist()


def integer_image_ids(image_ids: Collection[Hashable]) -> dict[Hashable, int]:
    """Return an integer per image id, because hotcoco accepts no other ids.

    Ids that are integers already stay as they are.
    """
    if all(isinstance(image_id, int) and image_id >= 0 for image_id in image_ids):
        return {image_id: image_id for image_id in image_ids}  # type: ignore[misc]
    # pycocotools matches in the order of ids, which decides between equal scores.
    return {image_id: n for n, image_id in enumerate(sorted(image_ids, key=str), start=1)}


def load_ground_truth(
    dataset: Mapping[str, Any], image_number: Mapping[Hashable, int] | None = None
) -> hotcoco.COCO:
    """Return the annotations in hotcoco's form.

    Only the fields that matching reads are passed on. Annotation tools, and Detectron2's own
    conversion, write nulls into other fields, which hotcoco refuses. Areas and boxes that are
    missing are those of the masks.

    Args:
        dataset: COCO instance annotations.
        image_number: the integer that replaces each image id; by default the ids stay.

    Raises:
        DatasetError: a segmentation is malformed.
    """
    fields = {
        "images": ("id", "height", "width", "file_name"),
        "annotations": (
            "id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"
        ),
        "categories": ("id", "name"),
    }  # fmt: skip
    selected = {
        part: [
            {key: entry[key] for key in keys if entry.get(key) is not None}
            for entry in dataset[part]
        ]
        for part, keys in fields.items()
    }
    sizes = {i["id"]: (i.get("height"), i.get("width")) for i in selected["images"]}
    # As in pycocotools, annotations of other images do not count.
    selected["annotations"] = [a for a in selected["annotations"] if a["image_id"] in sizes]
    for annotation in selected["annotations"]:
        size = sizes[annotation["image_id"]]
        if annotation.get("segmentation") and None not in size:
            try:
                check_segmentation(annotation["segmentation"], size)
                if not {"area", "bbox"} <= annotation.keys():
                    area, box = area_and_box(annotation["segmentation"], size)
                    annotation |= {"area": area, "bbox": box} | annotation
            except ValueError as error:
                raise DatasetError(f"annotation id {annotation['id']!r}: {error}") from error
    for number, annotation in enumerate(selected["annotations"], start=1):
        annotation["id"] = number  # hotcoco takes no other kinds of ids
    if image_number is not None:
        for part, key in (("images", "id"), ("annotations", "image_id")):
            for entry in selected[part]:
                entry[key] = image_number[entry[key]]
    return hotcoco.COCO(selected)


def match_results(
    ground_truth: hotcoco.COCO,
    results: list[dict[str, Any]],
    task: str,
    max_dets: list[int],
    category_ids: list[int],
    image_ids: Sequence[int] | None,
) -> hotcoco.COCOeval:
    """Match results to ground truth and accumulate the matches.

    Args:
        ground_truth: what `load_ground_truth` returned.
        results: in COCO's result format.
        task: "bbox" or "segm".
        max_dets: three limits of detections per image and category, ascending.
        category_ids: the K categories to evaluate, ascending.
        image_ids: the images to evaluate on; None for all.

    Returns:
        The evaluation. `eval` holds `precision` (T, R, K, A, M) and `recall` (T, K, A, M), -1
        where there is no ground truth.
    """
    if task == "segm":
        # If a result has a box, hotcoco would use the box's area for its size, not the mask's.
        results = [{k: v for k, v in result.items() if k != "bbox"} for result in results]
    evaluator = hotcoco.COCOeval(ground_truth, ground_truth.loadRes(results), task)
    evaluator.params.maxDets = max_dets
    evaluator.params.catIds = category_ids
    if image_ids is not None:
        evaluator.params.imgIds = list(image_ids)
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator


def accumulated(evaluation: hotcoco.COCOeval) -> dict[str, np.ndarray]:
    """Return the arrays `precision` and `recall` of what `match_results` returned."""
    assert evaluation.eval is not None
    return {key: np.asarray(evaluation.eval[key]) for key in ("precision", "recall")}
