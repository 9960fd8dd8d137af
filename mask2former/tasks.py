"""The three tasks, and the names of each in outputs, configs, data sets and command lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from detectron2.config import CfgNode

TaskName = Literal["panoptic", "instance", "semantic"]


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: "panoptic", "instance" or "semantic".
        output: key of the result in the output of a model.
        switch: key of ``MODEL.MASK_FORMER.TEST`` that switches the result on.
        ground_truth: key of a dataset dict that holds the ground truth.
        class_names: key of a data set's metadata that names all its classes.
        units: what one query finds, in the plural.
        metric: name of the evaluation result that says how good a model is.
        files: description of the files of a user's own data.
        flags: command-line flags for the user's own data, without "--train-" or "--val-".
        mapper: a suitable ``INPUT.DATASET_MAPPER_NAME``.
        config: a suitable published config.
    """

    name: TaskName
    output: str
    switch: str
    ground_truth: str
    class_names: str
    units: str
    metric: str
    files: str
    flags: tuple[str, ...]
    mapper: str
    config: str

    @property
    def switch_key(self) -> str:
        """The full config key of `switch`."""
        return f"MODEL.MASK_FORMER.TEST.{self.switch}"


# By default, a model that does several tasks is used for the first of them.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="panoptic",
            output="panoptic_seg",
            switch="PANOPTIC_ON",
            ground_truth="pan_seg_file_name",
            class_names="stuff_classes",
            units="segments",
            metric="panoptic_seg/PQ",
            files="COCO panoptic JSON and PNG files",
            flags=("json", "images", "panoptic"),
            mapper="coco_panoptic_lsj",
            config="coco/panoptic-segmentation/maskformer2_R50_bs16_50ep",
        ),
        Task(
            name="instance",
            output="instances",
            switch="INSTANCE_ON",
            ground_truth="annotations",
            class_names="thing_classes",
            units="objects",
            metric="segm/AP",
            files="COCO instance JSON",
            flags=("json", "images"),
            mapper="coco_instance_lsj",
            config="coco/instance-segmentation/maskformer2_R50_bs16_50ep",
        ),
        Task(
            name="semantic",
            output="sem_seg",
            switch="SEMANTIC_ON",
            ground_truth="sem_seg_file_name",
            class_names="stuff_classes",
            units="classes",
            metric="sem_seg/mIoU",
            files="label maps",
            flags=("images", "labels"),
            mapper="mask_former_semantic",
            config="ade20k/semantic-segmentation/maskformer2_R50_bs16_160k",
        ),
    )
}


def tasks_of(cfg: CfgNode) -> list[Task] | None:
    """Return the tasks that the model of a config does.

    Returns:
        The tasks, or None if the meta-architecture is neither Mask2Former's nor Detectron2's
        ``SemanticSegmentor``.
    """
    if cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor":  # the per-pixel baselines
        return [TASKS["semantic"]]
    if cfg.MODEL.META_ARCHITECTURE != "MaskFormer":
        return None
    return [task for task in TASKS.values() if cfg.MODEL.MASK_FORMER.TEST[task.switch]]
