"""Choice of the evaluator by the type that a data set declares in its metadata."""

import os
from collections.abc import Callable

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

from .coco import COCOInstanceEvaluator


def _build_coco(cfg: CfgNode, dataset_name: str, output_dir: str) -> DatasetEvaluator:
    return COCOInstanceEvaluator(
        dataset_name,
        output_dir=output_dir,
        max_dets_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
    )


_EVALUATORS: dict[str, Callable[[CfgNode, str, str], DatasetEvaluator]] = {
    "coco": _build_coco,
}


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | None = None
) -> DatasetEvaluator:
    """Build the evaluator that fits `MetadataCatalog.get(dataset_name).evaluator_type`.

    Args:
        cfg: config; `OUTPUT_DIR`, `DATASETS.TEST` and `TEST.DETECTIONS_PER_IMAGE` are read.
        dataset_name: a registered data set.
        output_folder: where result files go. By default `OUTPUT_DIR/inference`, with a
            sub-folder for each data set when the config tests on several, so that they do not
            overwrite each other's results.

    Raises:
        ValueError: the data set declares no evaluator type, or one that is not known here.
    """
    evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if evaluator_type not in _EVALUATORS:
        raise ValueError(
            f"data set {dataset_name!r} declares evaluator_type {evaluator_type!r}; known types: "
            f"{', '.join(sorted(_EVALUATORS))}. Set it where the data set is registered: "
            f"MetadataCatalog.get({dataset_name!r}).evaluator_type = ..."
        )
    if output_folder is None:
        output_folder = os.path.join(cfg.OUTPUT_DIR, "inference")
        if len(cfg.DATASETS.TEST) > 1:
            output_folder = os.path.join(output_folder, dataset_name)
    return _EVALUATORS[evaluator_type](cfg, dataset_name, output_folder)
