"""A trained model that does one task.

Shapes:
    H, W: height and width of the image, K: number of classes.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from detectron2.config import CfgNode
from detectron2.structures import Instances

from ..config import load_config
from ..data.metadata import METADATA_FILE, find_classes
from ..structures import Classes
from ..tasks import TASKS, tasks_of
from ..utils.device import check_device
from ..visualization.scenes import InstanceScene, PanopticScene, Scene, SemanticScene
from .predictor import Predictor, confident
from .run_folder import register_classes, weights_of_run

logger = logging.getLogger(__name__)

DEFAULT_THRESHOLD = 0.5

Segments = tuple[np.ndarray, list[dict[str, Any]]]
"""(H, W) ids, and the `id`, `category_id` in [0, K), `isthing` and perhaps `score` of segments."""
Found = TypeVar("Found")


class Segmenter(ABC, Generic[Found]):
    """Finds one kind of result in images.

    Args:
        predictor: the model.
        classes: the model's classes.
    """

    task: ClassVar[str]

    def __init__(self, predictor: Predictor, classes: Classes):
        self.predictor = predictor
        self.classes = classes

    @abstractmethod
    def find(self, image: np.ndarray) -> Found:
        """Return what is in an image, (H, W, 3) uint8, BGR."""

    @abstractmethod
    def scene(self, found: Found) -> Scene:
        """Return what was found in a form that can be drawn and summarised."""


class InstanceSegmenter(Segmenter[Instances]):
    """Finds instances, those with the highest scores first.

    Args:
        predictor: the model.
        classes: the model's classes.
        threshold: the lowest score of the instances to keep.
    """

    task = "instance"

    def __init__(self, predictor: Predictor, classes: Classes, threshold: float):
        super().__init__(predictor, classes)
        self.threshold = threshold

    def find(self, image: np.ndarray) -> Instances:
        """Return the instances."""
        return confident(self.predictor(image)["instances"], self.threshold)

    def scene(self, found: Instances) -> InstanceScene:
        """Return the instances with their scores."""
        return InstanceScene(
            found.pred_masks.numpy(), found.pred_classes.tolist(), found.scores.tolist()
        )


class PanopticSegmenter(Segmenter[Segments]):
    """Finds segments that do not overlap."""

    task = "panoptic"

    def find(self, image: np.ndarray) -> Segments:
        """Return the map of ids, and the segments."""
        ids, segments = self.predictor(image)["panoptic_seg"]
        return ids.cpu().numpy(), segments

    def scene(self, found: Segments) -> PanopticScene:
        """Return the segments."""
        return PanopticScene(*found)


class SemanticSegmenter(Segmenter[np.ndarray]):
    """Finds the class of each pixel."""

    task = "semantic"

    def find(self, image: np.ndarray) -> np.ndarray:
        """Return the (H, W) classes, in [0, K)."""
        return self.predictor.labels(image)

    def scene(self, found: np.ndarray) -> SemanticScene:
        """Return the classes of the pixels."""
        return SemanticScene(found)


def load_segmenter(
    config_file: str,
    overrides: Sequence[str] = (),
    *,
    task: str | None = None,
    threshold: float | None = None,
    allow_unsafe_config: bool = False,
    allow_unsafe_weights: bool = False,
) -> Segmenter[Any]:
    """Load a model from its config file and weights, with the names of its classes.

    Args:
        config_file: YAML file or Hugging Face folder; see `load_config`. `weights_of_run` finds the
            weights.
        overrides: `[key, value, ...]` of the config.
        task: "panoptic", "instance" or "semantic"; see `choose_task`.
        threshold: see `build_segmenter`.
        allow_unsafe_config: see `load_config`.
        allow_unsafe_weights: see `load_weights`.

    Raises:
        ValueError: the config, the weights, the device or the task is not usable.
    """
    overrides = weights_of_run(config_file, overrides)
    cfg = load_config(config_file, overrides, allow_unsafe_config)
    check_device(cfg.MODEL.DEVICE, "--opts ")
    classes = find_classes(cfg, config_file)
    if classes is not None:
        register_classes(cfg, classes)
    else:
        logger.warning("The names of the classes are not known: no fitting %s found", METADATA_FILE)
        classes = Classes.numbered(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
    task = choose_task(cfg, task, classes, config_file)
    return build_segmenter(
        cfg, task, classes, threshold=threshold, allow_unsafe_weights=allow_unsafe_weights
    )


def choose_task(cfg: CfgNode, requested: str | None, classes: Classes, config_file: str) -> str:
    """Return the task to use a model for.

    Args:
        cfg: config of the model.
        requested: one of `TASKS`, or None for the first task that the config switches on; without
            stuff, instances come before panoptic segments.
        classes: the model's classes.
        config_file: for messages.

    Raises:
        ValueError: the model does not support the task.
    """
    offered = _offered(cfg)
    if requested is None and offered:
        # The published configs for instances of ADE20K predict panoptic segments as well.
        no_stuff = classes.things is not None and len(classes.things) == len(classes)
        return "instance" if no_stuff and "instance" in offered else offered[0]
    if requested is not None and requested in offered:
        return requested
    if cfg.MODEL.META_ARCHITECTURE != "MaskFormer":
        raise ValueError(
            f"--task {requested}: {config_file} describes a {cfg.MODEL.META_ARCHITECTURE}, "
            f"which only supports --task {offered[0]}"
        )
    if requested is None:
        raise ValueError(
            f"{config_file} describes a model that predicts nothing; give one of "
            + ", ".join(f"--opts {task.switch_key} True" for task in TASKS.values())
        )
    other = f", but one for --task {' or '.join(offered)}" if offered else ""
    raise ValueError(
        f"--task {requested}: {config_file} is for a model without {requested} segmentation{other}"
        f"; if it was trained for that: --opts {TASKS[requested].switch_key} True"
    )


def _offered(cfg: CfgNode) -> Sequence[str]:
    tasks = tasks_of(cfg)
    if tasks is None:
        return ("instance",)
    # A panoptic model can predict instances and classes of pixels too.
    return list(TASKS) if TASKS["panoptic"] in tasks else [task.name for task in tasks]


def build_segmenter(
    cfg: CfgNode,
    task: str,
    classes: Classes,
    *,
    threshold: float | None = None,
    allow_unsafe_weights: bool = False,
) -> Segmenter[Any]:
    """Build a model that does only one task, which saves gigabytes with large photographs.

    Args:
        cfg: config of the model; it is changed in place.
        task: one of `TASKS`.
        classes: the model's classes.
        threshold: lowest score of the instances to keep (default: 0.5), or lowest probability of
            the queries that take part in panoptic segmentation (default: as in the config).
        allow_unsafe_weights: whether pickled weights may run code.

    Raises:
        ValueError: the task has no threshold, or the weights are missing or do not fit the model.
    """
    if threshold is not None and task == "semantic":
        raise ValueError(
            "--confidence-threshold means nothing for semantic segmentation, where each pixel "
            "gets the class with the highest score"
        )
    if cfg.MODEL.META_ARCHITECTURE == "MaskFormer":
        test = cfg.MODEL.MASK_FORMER.TEST
        for other in TASKS.values():
            test[other.switch] = other.name == task
        if task == "panoptic" and threshold is not None:
            test.OBJECT_MASK_THRESHOLD = threshold
    predictor = Predictor.from_config(cfg, allow_unsafe_weights)
    if task == "instance":
        threshold = DEFAULT_THRESHOLD if threshold is None else threshold
        return InstanceSegmenter(predictor, classes, threshold)
    kind = PanopticSegmenter if task == "panoptic" else SemanticSegmenter
    return kind(predictor, classes)
