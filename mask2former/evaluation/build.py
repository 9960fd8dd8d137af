"""Choosing evaluators by the ground truth of a data set and the predictions of a model."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping
from functools import partial

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

from ..data.training_set import load_dataset
from ..tasks import TASKS, tasks_of
from ..utils.processes import on_main_process
from .cityscapes import CityscapesInstances, CityscapesSemantic, require_scripts
from .coco import COCOInstanceEvaluator, needs_conversion
from .panoptic import PanopticEvaluator
from .semantic import SemanticEvaluator

logger = logging.getLogger(__name__)

_SWITCHES = {task.output: task.switch_key for task in TASKS.values()}

Build = Callable[[CfgNode, str, str | None], DatasetEvaluator]


def _coco(cfg: CfgNode, dataset_name: str, output_dir: str | None) -> DatasetEvaluator:
    return COCOInstanceEvaluator(
        dataset_name,
        output_dir=output_dir,
        max_dets_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
    )


def _panoptic(cfg: CfgNode, dataset_name: str, output_dir: str | None) -> DatasetEvaluator:
    return PanopticEvaluator(dataset_name, output_dir)


def _semantic(cfg: CfgNode, dataset_name: str, output_dir: str | None) -> DatasetEvaluator:
    return SemanticEvaluator(dataset_name, output_dir)


def _cityscapes_instances(
    cfg: CfgNode, dataset_name: str, output_dir: str | None
) -> DatasetEvaluator:
    return CityscapesInstances(dataset_name)


def _cityscapes_semantic(
    cfg: CfgNode, dataset_name: str, output_dir: str | None
) -> DatasetEvaluator:
    return CityscapesSemantic(dataset_name)


_PANOPTIC: dict[str, Build] = {
    "panoptic_seg": _panoptic,
    "instances": _coco,
    "sem_seg": _semantic,
}
# evaluator_type of a data set -> kind of ground truth -> evaluator
_EVALUATORS: dict[str, Mapping[str, Build]] = {
    "coco": {"instances": _coco},
    "sem_seg": {"sem_seg": _semantic},
    "coco_panoptic_seg": _PANOPTIC,
    "ade20k_panoptic_seg": _PANOPTIC,
    "mapillary_vistas_panoptic_seg": _PANOPTIC,
    "cityscapes_instance": {"instances": _cityscapes_instances},
    "cityscapes_sem_seg": {"sem_seg": _cityscapes_semantic},
    "cityscapes_panoptic_seg": {
        "panoptic_seg": _panoptic,
        "instances": _cityscapes_instances,
        "sem_seg": _cityscapes_semantic,
    },
}


def build_evaluator(
    cfg: CfgNode,
    dataset_name: str,
    output_folder: str | None = None,
    *,
    tasks: Collection[str] | None = None,
) -> DatasetEvaluator:
    """Build the evaluators for predictions of a model that have ground truth in a data set.

    `MetadataCatalog.get(dataset_name).evaluator_type` says what kinds of ground truth the data set
    has. Other predictions of the model are not evaluated; the log says so.

    Args:
        cfg: config. This reads `OUTPUT_DIR`, `DATASETS.TEST`, `TEST.DETECTIONS_PER_IMAGE`, and the
            keys that decide what the model predicts: `MODEL.META_ARCHITECTURE` and
            `MODEL.MASK_FORMER.TEST.*_ON`.
        dataset_name: a registered data set.
        output_folder: where result files go. The default is `OUTPUT_DIR/inference`; if the config
            tests on several data sets, each has a subfolder there, so that they do not overwrite
            each other's results.
        tasks: which of "panoptic_seg", "instances" and "sem_seg" the outputs hold, instead of
            what the config says.

    Returns:
        An evaluator, or Detectron2's `DatasetEvaluators` of several.

    Raises:
        ValueError: the data set does not declare a known evaluator type, or has no ground truth
            for anything the model predicts.
        DatasetError: files of the ground truth are missing.
        ImportError: Cityscapes' scripts are needed, but not installed.
    """
    builders = _builders(dataset_name)
    predicted = predicted_tasks(cfg) if tasks is None else set(tasks)
    chosen = _choose(dataset_name, builders, predicted)
    for task in sorted(predicted - set(chosen)):
        logger.info(
            f"{dataset_name!r} has no ground truth for {task!r}, which is not evaluated; "
            f"{_SWITCHES[task]} False would save the time to predict it."
        )
    if len(chosen) > 1 and "sem_seg" in chosen and not _same_classes(cfg, dataset_name):
        chosen.remove("sem_seg")
    if output_folder is None:
        output_folder = os.path.join(cfg.OUTPUT_DIR, "inference")
        if len(cfg.DATASETS.TEST) > 1:
            output_folder = os.path.join(output_folder, dataset_name)
    evaluators = [builders[task](cfg, dataset_name, output_folder) for task in chosen]
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)


def check_evaluation(cfg: CfgNode) -> None:
    """Check before a long training that `DATASETS.TEST` can be evaluated.

    The main process reads the annotations, but not the images, label maps and PNG files, and the
    others wait.

    Raises:
        ValueError, DatasetError, ImportError: see `build_evaluator`.
    """
    for dataset_name in cfg.DATASETS.TEST:
        builders = _builders(dataset_name)
        chosen = [builders[t] for t in _choose(dataset_name, builders, predicted_tasks(cfg))]
        if _cityscapes_instances in chosen or _cityscapes_semantic in chosen:
            require_scripts(dataset_name)
        else:
            on_main_process(partial(_read_ground_truth, cfg, dataset_name, _coco in chosen))


def _read_ground_truth(cfg: CfgNode, dataset_name: str, of_instances: bool) -> None:
    load_dataset(dataset_name)
    if not (of_instances and needs_conversion(dataset_name)):
        build_evaluator(cfg, dataset_name)


def predicted_tasks(cfg: CfgNode) -> set[str]:
    """Return which of "panoptic_seg", "instances" and "sem_seg" a model's outputs hold.

    An unknown architecture is expected to predict all three.
    """
    tasks = tasks_of(cfg)
    return set(_SWITCHES) if tasks is None else {task.output for task in tasks}


def _builders(dataset_name: str) -> Mapping[str, Build]:
    evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if evaluator_type not in _EVALUATORS:
        raise ValueError(
            f"data set {dataset_name!r} declares evaluator_type {evaluator_type!r}; known types: "
            f"{', '.join(sorted(_EVALUATORS))}. Set it where you register the data set: "
            f"MetadataCatalog.get({dataset_name!r}).evaluator_type = ..."
        )
    return _EVALUATORS[evaluator_type]


def _choose(dataset_name: str, scored: Collection[str], predicted: Collection[str]) -> list[str]:
    """Return those of `scored` that are also `predicted`, in the order of `scored`.

    Args:
        dataset_name: for messages.
        scored: the data set's kinds of ground truth.
        predicted: what the model predicts.

    Raises:
        ValueError: there are none.
    """
    chosen = [task for task in scored if task in predicted]
    if not chosen:
        wanted = " or ".join(f"{_SWITCHES[task]}" for task in scored)
        evaluator_type = MetadataCatalog.get(dataset_name).evaluator_type
        raise ValueError(
            f"data set {dataset_name!r} (evaluator_type {evaluator_type!r}) has ground truth for "
            f"{', '.join(scored)}, but the model predicts only "
            f"{', '.join(sorted(predicted)) or 'nothing'}: set "
            f"{wanted} True, or test on another data set"
        )
    return chosen


def _same_classes(cfg: CfgNode, dataset_name: str) -> bool:
    """Return whether the data set has as many semantic classes as the model.

    Where Detectron2 makes one semantic class of all things, the numbers differ.
    """
    names = MetadataCatalog.get(dataset_name).get("stuff_classes", ())
    predicted = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if len(names) != predicted:
        logger.info(
            f"{dataset_name!r} has {len(names)} semantic classes, the model {predicted} "
            "(MODEL.SEM_SEG_HEAD.NUM_CLASSES): semantic predictions are not evaluated."
        )
    return len(names) == predicted
