"""COCO instance evaluation: mask AP and box AP.

Detectron2's evaluator provides the life cycle, the gathering over processes and the tables. hotcoco
matches and accumulates, instead of `detectron2._C` or pycocotools. It gives the same numbers as
pycocotools to the last bit, in a small fraction of the time, and is also right about an annotation
with id 0. Panoptic data sets without instance annotations can be evaluated too.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import hotcoco
import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import convert_to_coco_json
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from pycocotools.coco import COCO

from ..data.coco_format import keep_images, read_coco
from ..data.errors import DatasetError
from ..data.metadata import ONLY_IMAGES
from .average_precision import (
    accumulated,
    integer_image_ids,
    load_ground_truth,
    match_results,
    percent,
    summarize_coco,
)
from .instance_analysis import CONFIDENT, InstanceAnalysis, analyze_instances
from .instance_truth import PanopticInstances
from .thresholds import ClassMatches, class_matches

logger = logging.getLogger(__name__)

_TASKS = ("bbox", "segm")
_FIELDS = {
    "images": "id height width file_name?",
    "annotations?": "image_id category_id id? bbox? area? iscrowd? segmentation?",
    "categories": "id name",
}


class COCOInstanceEvaluator(COCOEvaluator):
    """Mask AP and box AP of instance predictions, by COCO's rules.

    Predictions are `Instances` with `pred_masks`, `scores`, `pred_classes` and, unless the
    boxes are those around the masks, `pred_boxes`. Masks are stored as RLE, which is much smaller
    than the masks. `evaluate()` returns, in percent,
    `{"bbox": {"AP", "AP50", "AP75", "APs", "APm", "APl", "AP-<class>"...}, "segm": {...}}`; a
    number without ground truth to compute it from is NaN, and a model that predicts nothing gets 0.

    If the data set has panoptic ground truth and no `json_file`, its thing segments are the
    instances, whether connected or not, and crowds stay crowds. Predictions of other classes do not
    count.

    With `output_dir`, `coco_instances_results.json` contains the predictions in COCO's result
    format, with the data set's own category ids.

    Args:
        dataset_name: a registered data set; without `json_file` in its metadata its panoptic
            ground truth is used, or else it is converted to COCO format under `output_dir`.
        output_dir: folder for the result files, or None to write none.
        max_dets_per_image: the highest-scoring detections per image and category that count.
            COCO's own numbers use 100.
        distributed: whether to gather the predictions of all processes.
        allow_cached_coco: whether the conversion of an earlier run may be used.

    Raises:
        DatasetError: the annotations cannot be read or cannot be evaluated on.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int = 100,
        distributed: bool = True,
        allow_cached_coco: bool = True,
    ) -> None:
        if max_dets_per_image < 1:
            raise ValueError(f"max_dets_per_image must be at least 1, got {max_dets_per_image}")
        self._panoptic = PanopticInstances.instead_of_json(dataset_name)
        self._metadata = MetadataCatalog.get(dataset_name)
        if self._panoptic is not None:
            dataset, self._source = self._panoptic.dataset([]), self._panoptic.source
        else:
            if needs_conversion(dataset_name):
                self._convert(dataset_name, output_dir, allow_cached_coco)
            self._source = self._metadata.json_file
            content = read_coco(PathManager.get_local_path(self._source), _FIELDS)
            dataset = keep_images(content, self._metadata.get(ONLY_IMAGES))
        # Detectron2's constructor would do the rest with a file that nobody has checked.
        self._tasks = _TASKS
        self._distributed = distributed
        self._output_dir = output_dir
        self._coco_api = COCO()
        self._coco_api.dataset = dataset
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco_api.createIndex()
        self._do_evaluation = "annotations" in dataset
        self._number = integer_image_ids(self._coco_api.imgs)
        self._ground_truth = None
        if self._panoptic is None and self._do_evaluation and comm.is_main_process():
            self._ground_truth = self._load_ground_truth(dataset)
        self._dataset_name = dataset_name
        self._max_dets = [min(limit, max_dets_per_image) for limit in (1, 10)]
        self._max_dets.append(max_dets_per_image)
        self._logger = logger  # for methods of Detectron2
        by_name: dict[str, list[Hashable]] = {}
        for image in self._images():
            if "file_name" in image:
                by_name.setdefault(os.path.basename(image["file_name"]), []).append(image["id"])
        self._ids_by_name = {name: ids[0] for name, ids in by_name.items() if len(ids) == 1}

    @staticmethod
    def _convert(dataset_name: str, output_dir: str | None, allow_cached: bool) -> None:
        """Write the annotations of a data set that has no file of them, and note its path."""
        if output_dir is None:
            raise ValueError(
                f"data set {dataset_name!r} has no json_file in its metadata: give an output_dir, "
                "to write its annotations there"
            )
        path = os.path.join(output_dir, f"{dataset_name}_coco_format.json")
        convert_to_coco_json(dataset_name, path, allow_cached=allow_cached)
        MetadataCatalog.get(dataset_name).json_file = path

    def _load_ground_truth(self, dataset: Mapping[str, Any]) -> hotcoco.COCO:
        try:
            return load_ground_truth(dataset, self._number)
        except ValueError as error:
            raise DatasetError(f"{self._source}: {error}") from error

    def _images(self) -> Sequence[Mapping[str, Any]]:
        return self._coco_api.dataset["images"]

    def reset(self) -> None:
        """Forget all predictions."""
        super().reset()
        self._analysis: Callable[[], InstanceAnalysis] | None = None
        self._class_matches: Callable[[], dict[int, ClassMatches]] | None = None
        self._truth: dict[Hashable, list[dict[str, Any]]] = {}

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Add the predictions for a batch.

        Args:
            inputs: what the model was given, with `image_id`.
            outputs: what the model returned, with `instances`.

        Raises:
            ValueError: an output has no instances, or a score that is not finite.
        """
        for image, output in zip(inputs, outputs, strict=True):
            if "instances" not in output:
                raise ValueError(
                    f"image {image['image_id']}: the model returned {sorted(output)} but no "
                    "'instances'; for Mask2Former set MODEL.MASK_FORMER.TEST.INSTANCE_ON True"
                )
            image_id = self._image_id(image)
            results = instances_to_coco_results(output["instances"], image_id)
            self._predictions.append(
                {
                    "image_id": image_id,
                    "file_name": image.get("file_name", str(image_id)),
                    "instances": results,
                }
            )
            if self._panoptic is not None and image_id in self._coco_api.imgs:
                self._truth[image_id] = self._panoptic.annotations(image_id)

    def _image_id(self, image: Mapping[str, Any]) -> Hashable:
        """Return the id that the image has in the annotations.

        Panoptic and instance annotations may number images differently, as those of ADE20K do.
        """
        image_id = image["image_id"]
        if image_id in self._coco_api.imgs or "file_name" not in image:
            return image_id
        return self._ids_by_name.get(os.path.basename(image["file_name"]), image_id)

    def evaluate(self, img_ids: Sequence[Hashable] | None = None) -> dict[str, dict[str, float]]:
        """Return the numbers on the main process, {} on others.

        Args:
            img_ids: the images to evaluate on, by default all of the data set.
        """
        if self._distributed and self._panoptic is not None:
            for truth in comm.gather(self._truth):
                self._truth.update(truth)
        return super().evaluate(img_ids)

    def _eval_predictions(
        self, predictions: list[dict[str, Any]], img_ids: Sequence[Hashable] | None = None
    ) -> None:
        """Fill `self._results`; called on the main process with all predictions."""
        results = [result for image in predictions for result in image["instances"]]
        self._check_image_ids(predictions)
        results = self._with_dataset_category_ids(results)
        if path := self.results_file:
            logger.info(f"Writing {len(results)} predictions to {path}")
            with PathManager.open(path, "w") as f:
                json.dump(results, f)
        if not self._do_evaluation:
            logger.info("The data set has no annotations, so nothing is evaluated.")
            return

        number, ground_truth = self._number, self._ground_truth
        if self._panoptic is not None:
            ground_truth = self._load_ground_truth(self._panoptic.dataset(self._all_truth()))
        assert ground_truth is not None
        results = [result | {"image_id": number[result["image_id"]]} for result in results]
        image_ids = None if img_ids is None else [number[i] for i in img_ids]
        category_ids, class_names = self._categories()
        for task in self._tasks:
            matched = match_results(
                ground_truth, results, task, self._max_dets, category_ids, image_ids=image_ids
            )
            evaluation = accumulated(matched)
            stats = summarize_coco(evaluation["precision"], evaluation["recall"])
            self._log_recalls(task, stats)
            self._results[task] = self._derive_coco_results(
                SimpleNamespace(stats=stats, eval=evaluation), task, class_names=class_names
            )
        confident = [result for result in results if result["score"] >= CONFIDENT]
        match = partial(match_results, ground_truth, confident, task, self._max_dets)
        self._class_matches = lambda: class_matches(matched)
        self._analysis = lambda: analyze_instances(
            matched,
            match(category_ids, image_ids),
            class_names or [str(category_id) for category_id in category_ids],
            {number[p["image_id"]]: p["file_name"] for p in predictions},
        )

    @property
    def results_file(self) -> str | None:
        """The path of the predictions in COCO's format of results; None if none are written."""
        if not self._output_dir:
            return None
        return os.path.join(self._output_dir, "coco_instances_results.json")

    def analysis(self) -> InstanceAnalysis | None:
        """Return what the masks of the last `evaluate` tell beyond its numbers.

        Returns:
            None on other processes than the main one, before `evaluate`, and without ground truth.
        """
        return None if self._analysis is None else self._analysis()

    def class_matches(self) -> dict[int, ClassMatches] | None:
        """Return which masks of the last `evaluate` are right, by class of the model, from 0.

        Returns:
            None where `analysis` does.
        """
        if self._class_matches is None:
            return None
        to_index = self._metadata.get("thing_dataset_id_to_contiguous_id")
        matches = self._class_matches()
        if to_index is None:
            return matches
        return {to_index[category_id]: found for category_id, found in matches.items()}

    def _all_truth(self) -> list[dict[str, Any]]:
        """Return the annotations of all images, including those without predictions."""
        assert self._panoptic is not None
        for image_id in self._coco_api.imgs.keys() - self._truth.keys():
            self._truth[image_id] = self._panoptic.annotations(image_id)
        # The order decides between equal overlaps: it must not depend on the number of processes.
        return [a for image_id in self._coco_api.imgs for a in self._truth[image_id]]

    def _check_image_ids(self, predictions: list[dict[str, Any]]) -> None:
        unknown = sorted({p["image_id"] for p in predictions} - self._coco_api.imgs.keys())
        if unknown:
            raise ValueError(
                f"predictions for {len(unknown)} images that {self._source} does not "
                f"have, the first with id {unknown[0]!r}: was the model run on another data set "
                f"than {self._dataset_name!r}?"
            )

    def _with_dataset_category_ids(self, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return results with the data set's category ids in place of class indices."""
        to_index = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if to_index is None:
            return results
        to_id = {index: category_id for category_id, index in to_index.items()}
        stuff = set(self._metadata.get("stuff_dataset_id_to_contiguous_id", {}).values())
        stuff |= set(range(len(self._metadata.get("stuff_classes", ()))))
        known = to_id.keys() | stuff
        unknown = {result["category_id"] for result in results} - known
        if unknown:
            raise ValueError(
                f"the model predicted class {max(unknown)}, but data set {self._dataset_name!r} "
                f"has {len(known)} classes; MODEL.SEM_SEG_HEAD.NUM_CLASSES must be {len(known)}"
            )
        things = [result for result in results if result["category_id"] in to_id]
        if len(things) < len(results):
            logger.info(
                f"{len(results) - len(things)} of {len(results)} predictions are of classes of "
                f"{self._dataset_name!r} that are not things. They do not count."
            )
        return [result | {"category_id": to_id[result["category_id"]]} for result in things]

    def _categories(self) -> tuple[list[int], list[str] | None]:
        """Return the ids to evaluate, ascending, and their names in the same order if known."""
        names = self._metadata.get("thing_classes")
        to_index = self._metadata.get("thing_dataset_id_to_contiguous_id")
        in_file = sorted(self._coco_api.getCatIds())
        if to_index is None:
            return in_file, names
        ignored = sorted(set(in_file) - to_index.keys())
        if ignored:
            logger.warning(
                f"Categories {ignored} of {self._source} are not among the classes of "
                f"{self._dataset_name!r} and do not count."
            )
        ids = sorted(to_index)
        if names is None:
            return ids, None
        if len(names) == len(to_index):
            # The names of things alone, in the order of contiguous ids, which may have gaps.
            by_index = dict(zip(sorted(to_index.values()), names, strict=True))
        else:
            by_index = dict(enumerate(names))
        # Sorted by id, because the metadata may list classes in another order.
        return ids, [by_index[to_index[i]] for i in ids]

    def _log_recalls(self, task: str, stats: np.ndarray) -> None:
        labels = [f"AR@{limit}" for limit in self._max_dets] + ["ARs", "ARm", "ARl"]
        values = zip(labels, percent(stats[6:]), strict=True)
        text = ", ".join(f"{label} {value:.2f}" for label, value in values)
        logger.info(f"Average recall for {task}: {text}")


def needs_conversion(dataset_name: str) -> bool:
    """Return whether a data set has neither a file of annotations nor panoptic ground truth."""
    has_file = hasattr(MetadataCatalog.get(dataset_name), "json_file")
    return not has_file and PanopticInstances.instead_of_json(dataset_name) is None


def instances_to_coco_results(instances: Instances, image_id: Hashable) -> list[dict[str, Any]]:
    """Return the predictions for one image in COCO's result format.

    Args:
        instances: N predictions with `pred_masks` (N, H, W) bool, `scores` (N,), `pred_classes`
            (N,) and optionally `pred_boxes`.
        image_id: the `image_id` of the entries.

    Returns:
        N entries with `image_id`, `category_id` (the class index), `bbox` (x, y, width, height in
        pixels, around the mask if there are no `pred_boxes`), `score` and `segmentation`
        (compressed RLE, ASCII).

    Raises:
        ValueError: a score is NaN or infinite.
    """
    if not torch.isfinite(instances.scores).all():
        raise ValueError(f"image {image_id}: the model predicted a score that is not finite")
    # One mask at a time: encoding reads a mask in place, without a copy.
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
