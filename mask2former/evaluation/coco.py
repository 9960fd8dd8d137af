"""COCO instance evaluation: mask AP and box AP.

Detectron2's evaluator is the frame (life cycle, gathering over processes, tables). Matching and
accumulation are hotcoco's instead of `detectron2._C` or pycocotools: the same numbers as
pycocotools to the last bit, in a small fraction of the time, and without its wrong result for an
annotation whose id is 0.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import hotcoco
import numpy as np
import torch
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import BoxMode, Instances
from detectron2.utils.file_io import PathManager

_TASKS = ("bbox", "segm")
# Axes of the accumulated arrays, as in pycocotools:
# T IoU thresholds 0.50, 0.55 ... 0.95, R 101 recall levels, K categories (ascending id),
# A areas (all, small, medium, large), M limits of detections per image
_IOU_50, _IOU_75 = 0, 5


class COCOInstanceEvaluator(COCOEvaluator):
    """Mask AP and box AP of instance predictions, by COCO's rules.

    Predictions are `Instances` with `pred_masks`, `scores`, `pred_classes` and, if the boxes shall
    not be those around the masks, `pred_boxes`. Masks are run-length encoded image by image, so
    that memory does not grow with the number of masks. `evaluate()` returns, in percent,
    `{"bbox": {"AP", "AP50", "AP75", "APs", "APm", "APl", "AP-<class>"...}, "segm": {...}}`; a
    number without ground truth to compute it from is NaN, and a model that predicts nothing gets 0.

    With `output_dir`, `coco_instances_results.json` holds the predictions in COCO's result format
    and with the data set's own category ids.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int = 100,
        distributed: bool = True,
        allow_cached_coco: bool = True,
    ):
        """
        Args:
            dataset_name: a registered data set; without `json_file` in its metadata it is converted
                to COCO format under `output_dir`.
            output_dir: folder for the result files, or None to write none.
            max_dets_per_image: the highest-scoring detections per image and category that count.
                COCO's own numbers use 100.
            distributed: whether to gather the predictions of all processes.
            allow_cached_coco: whether a conversion of an earlier run may be used.
        """
        if max_dets_per_image < 1:
            raise ValueError(f"max_dets_per_image must be at least 1, got {max_dets_per_image}")
        super().__init__(
            dataset_name,
            tasks=_TASKS,
            distributed=distributed,
            output_dir=output_dir,
            use_fast_impl=False,
            allow_cached_coco=allow_cached_coco,
        )
        self._dataset_name = dataset_name
        self._max_dets = [min(limit, max_dets_per_image) for limit in (1, 10)]
        self._max_dets.append(max_dets_per_image)
        self._logger = logging.getLogger(__name__)

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Add the predictions for a batch.

        Args:
            inputs: what the model was given; `image_id` of each is read.
            outputs: what it returned; `instances` of each is read.

        Raises:
            ValueError: an output without instances, or with a score that is NaN.
        """
        for image, output in zip(inputs, outputs, strict=True):
            if "instances" not in output:
                raise ValueError(
                    f"image {image['image_id']}: the model returned {sorted(output)} but no "
                    "'instances'; for Mask2Former set MODEL.MASK_FORMER.TEST.INSTANCE_ON True"
                )
            results = instances_to_coco_results(output["instances"], image["image_id"])
            self._predictions.append({"image_id": image["image_id"], "instances": results})

    def _eval_predictions(
        self, predictions: list[dict[str, Any]], img_ids: Sequence[int] | None = None
    ) -> None:
        """Fill `self._results`; called on the main process with the predictions of all."""
        results = [result for image in predictions for result in image["instances"]]
        self._check_image_ids(predictions)
        results = self._with_dataset_category_ids(results)
        if self._output_dir:
            path = os.path.join(self._output_dir, "coco_instances_results.json")
            self._logger.info(f"Writing {len(results)} predictions to {path}")
            with PathManager.open(path, "w") as f:
                json.dump(results, f)
        if not self._do_evaluation:
            self._logger.info("The data set has no annotations, so nothing is evaluated.")
            return

        ground_truth = _ground_truth(self._coco_api.dataset)
        category_ids, class_names = self._categories()
        for task in self._tasks:
            evaluation = _match(
                ground_truth, results, task, self._max_dets, category_ids, image_ids=img_ids
            )
            stats = summarize_coco(evaluation["precision"], evaluation["recall"])
            self._log_recalls(task, stats)
            self._results[task] = self._derive_coco_results(
                SimpleNamespace(stats=stats, eval=evaluation), task, class_names=class_names
            )

    def _check_image_ids(self, predictions: list[dict[str, Any]]) -> None:
        unknown = sorted({p["image_id"] for p in predictions} - self._coco_api.imgs.keys())
        if unknown:
            raise ValueError(
                f"predictions for {len(unknown)} images that {self._metadata.json_file} does not "
                f"have, the first with id {unknown[0]!r}: was the model run on another data set "
                f"than {self._dataset_name!r}?"
            )

    def _with_dataset_category_ids(self, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Results with the category ids of the data set in place of class indices."""
        to_index = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if to_index is None:
            return results
        to_id = {index: category_id for category_id, index in to_index.items()}
        unknown = {result["category_id"] for result in results} - to_id.keys()
        if unknown:
            raise ValueError(
                f"the model predicted class {max(unknown)}, but data set {self._dataset_name!r} "
                f"has {len(to_id)} classes; MODEL.SEM_SEG_HEAD.NUM_CLASSES must be {len(to_id)}"
            )
        return [result | {"category_id": to_id[result["category_id"]]} for result in results]

    def _categories(self) -> tuple[list[int], list[str] | None]:
        """Ids to evaluate, ascending, and their names in the same order if known."""
        names = self._metadata.get("thing_classes")
        to_index = self._metadata.get("thing_dataset_id_to_contiguous_id")
        in_file = sorted(self._coco_api.getCatIds())
        if to_index is None:
            return in_file, names
        ignored = sorted(set(in_file) - to_index.keys())
        if ignored:
            self._logger.warning(
                f"Categories {ignored} of {self._metadata.json_file} are not among the classes of "
                f"{self._dataset_name!r} and do not count."
            )
        ids = sorted(to_index)
        # By id, because the classes may be listed in another order than their ids.
        return ids, None if names is None else [names[to_index[i]] for i in ids]

    def _log_recalls(self, task: str, stats: np.ndarray) -> None:
        labels = [f"AR@{limit}" for limit in self._max_dets] + ["ARs", "ARm", "ARl"]
        values = [f"{label} {100 * v:.2f}" for label, v in zip(labels, stats[6:], strict=True)]
        self._logger.info(f"Average recall for {task}: {', '.join(values)}")


def instances_to_coco_results(instances: Instances, image_id: int | str) -> list[dict[str, Any]]:
    """Predictions for one image in COCO's result format.

    Args:
        instances: N predictions with `pred_masks` (N, H, W) bool, `scores` (N,), `pred_classes`
            (N,) and optionally `pred_boxes`.
        image_id: what the entries' `image_id` shall be.

    Returns:
        N entries with `image_id`, `category_id` (the class index), `bbox` (x, y, width, height in
        pixels, around the mask if there are no `pred_boxes`), `score` and `segmentation`
        (compressed RLE, ASCII).

    Raises:
        ValueError: a score is NaN or infinite.
    """
    if not torch.isfinite(instances.scores).all():
        raise ValueError(f"image {image_id}: the model predicted a score that is not finite")
    # One mask at a time: encoding reads the mask in place, so nothing of its size is allocated.
    rles = [hotcoco.mask.encode(mask) for mask in instances.pred_masks.cpu().numpy()]
    if instances.has("pred_boxes"):
        boxes = instances.pred_boxes.tensor.detach().cpu()
        boxes = BoxMode.convert(boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    else:
        boxes = hotcoco.mask.toBbox(rles).tolist() if rles else []
    return [
        {
            "image_id": image_id,
            "category_id": category,
            "bbox": box,
            "score": score,
            "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")},
        }
        for category, box, score, rle in zip(
            instances.pred_classes.tolist(), boxes, instances.scores.tolist(), rles, strict=True
        )
    ]


def summarize_coco(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """COCO's twelve summary numbers from the accumulated arrays.

    Args:
        precision: (T, R, K, A, M), -1 where there is no ground truth.
        recall: (T, K, A, M), likewise.

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
            mean(precision[_IOU_50, :, :, everything, last]),
            mean(precision[_IOU_75, :, :, everything, last]),
            *(mean(precision[:, :, :, area, last]) for area in (1, 2, 3)),
            *(mean(recall[:, :, everything, limit]) for limit in range(3)),
            *(mean(recall[:, :, area, last]) for area in (1, 2, 3)),
        ]
    )


def _ground_truth(dataset: Mapping[str, Any]) -> "hotcoco.COCO":
    """The annotations in hotcoco's form.

    Only what matching reads is handed over: annotation tools, and Detectron2's own conversion,
    write nulls into the other fields, which hotcoco refuses.
    """
    fields = {
        "images": ("id", "height", "width", "file_name"),
        "annotations": (
            "id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"
        ),
        "categories": ("id", "name"),
    }  # fmt: skip
    return hotcoco.COCO(
        {
            part: [
                {key: entry[key] for key in keys if entry.get(key) is not None}
                for entry in dataset[part]
            ]
            for part, keys in fields.items()
        }
    )


def _match(
    ground_truth: "hotcoco.COCO",
    results: list[dict[str, Any]],
    task: str,
    max_dets: list[int],
    category_ids: list[int],
    image_ids: Sequence[int] | None,
) -> dict[str, np.ndarray]:
    """Match results to ground truth; returns `precision` and `recall`."""
    if task == "segm":
        # With a box present its area, not the mask's, would decide between small and large.
        results = [{k: v for k, v in result.items() if k != "bbox"} for result in results]
    evaluator = hotcoco.COCOeval(ground_truth, ground_truth.loadRes(results), task)
    evaluator.params.maxDets = max_dets
    evaluator.params.catIds = category_ids
    if image_ids is not None:
        evaluator.params.imgIds = list(image_ids)
    evaluator.evaluate()
    evaluator.accumulate()
    accumulated = evaluator.eval
    assert accumulated is not None
    return {key: np.asarray(accumulated[key]) for key in ("precision", "recall")}
