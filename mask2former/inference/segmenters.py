"""A trained model as something that does one task.

Shapes:
    H, W: height and width of the image, K: classes.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from mask2former_runtime.model import check_threshold
from mask2former_runtime.prediction import ImageSource, Prediction
from mask2former_runtime.predictions import SemanticPrediction
from mask2former_runtime.stored import StoredKind, as_picture

from ..config import load_config
from ..data.metadata import METADATA_FILE, find_classes, find_thresholds
from ..modeling.meta_arch import MaskFormer
from ..structures import Classes
from ..tasks import TASKS, tasks_of
from ..utils.device import check_device
from ..utils.digest import weights_digest
from .exported import ExportedFile, ExportedModel, is_exported
from .predictions import of_instances, of_panoptic_seg
from .predictor import Predictor, confident
from .run_folder import register_classes, weights_of_run

logger = logging.getLogger(__name__)

DEFAULT_THRESHOLD = 0.5


class Segmenter:
    """A model that finds one kind of result in images.

    Args:
        predictor: the model, which gives this kind of result.
        classes: the model's classes.
        task: "panoptic", "instance" or "semantic".
        threshold: the lowest score of the instances to keep, or that of each class; other tasks
            have none.
    """

    def __init__(
        self,
        predictor: Predictor,
        classes: Classes,
        task: str,
        threshold: float | Sequence[float] = DEFAULT_THRESHOLD,
    ):
        self.predictor = predictor
        self.classes = classes
        self.task = task
        self.threshold = threshold

    @property
    def stored(self) -> StoredKind | None:
        """See `Predictor.stored`."""
        return self.predictor.stored

    def find(self, image: np.ndarray, source: ImageSource | None = None) -> Prediction:
        """Return what is in an image.

        Args:
            image: (H, W, 3) uint8, BGR.
            source: where the prediction finds the image again; by default it keeps the pixels.
        """
        if self.task != "semantic":
            return self._prediction(self.predictor(image), image, source)
        labels = self.predictor.labels(image)
        return SemanticPrediction.from_labels(labels, self.classes, _kept(image, source))

    def class_scores(self, image: np.ndarray) -> np.ndarray:
        """Return the score of each class at each pixel of an image (H, W, 3), uint8, BGR.

        Returns:
            (K, H, W) float32. Semantic segmentation is the class with the highest score.
        """
        return self.predictor.class_scores(image)

    def find_all(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """Return what is in images that `Predictor.batch` can take together.

        Semantic maps are made one after the other, because their scores take much memory.

        Args:
            images: each (H, W, 3) uint8, BGR.
        """
        if self.task == "semantic" or len(images) == 1:
            return [self.find(image) for image in images]
        outputs = self.predictor.batch(images)
        return [self._prediction(o, image) for o, image in zip(outputs, images, strict=True)]

    def _prediction(
        self, output: dict[str, Any], image: np.ndarray, source: ImageSource | None = None
    ) -> Prediction:
        found = output[TASKS[self.task].output]
        source = _kept(image, source)
        if self.task == "panoptic":
            return of_panoptic_seg(found, self.classes, source)
        instances = confident(found, self.threshold)
        return of_instances(instances, self.classes, source)


def _kept(image: np.ndarray, source: ImageSource | None) -> ImageSource:
    return ImageSource(pixels=as_picture(image)) if source is None else source


@dataclass(frozen=True)
class LoadedModel:
    """A model with its weights, and what is known about it.

    Attributes:
        cfg: the config.
        config_file: where the config comes from: a YAML file, a Hugging Face folder or an exported
            file.
        classes: the model's classes.
        task: what the model is for, unless another task is asked for.
        predictor: runs the model.
        thresholds: the lowest score of each class's instances, None for `DEFAULT_THRESHOLD`; None
            instead of all of them if none were found for this model.
    """

    cfg: CfgNode
    config_file: str
    classes: Classes
    task: str
    predictor: Predictor
    thresholds: Sequence[float | None] | None = None

    @property
    def class_thresholds(self) -> list[float] | None:
        """`thresholds`, with the default in place of None."""
        if self.thresholds is None:
            return None
        return [DEFAULT_THRESHOLD if x is None else x for x in self.thresholds]

    @property
    def tasks(self) -> list[str]:
        """All tasks that the model does."""
        return list(_offered(self.cfg))

    def fingerprint(self) -> str:
        """Return a digest of all that predictions follow from, but for the task and a threshold."""
        file = Path(self.config_file)
        digest = hashlib.sha256(self.cfg.dump().encode())
        if is_exported(self.config_file):
            for part in (file, file.with_suffix(".bin")):  # the weights of OpenVINO's files
                if part.is_file():
                    digest.update(part.read_bytes())
        else:
            digest.update(weights_digest(self.predictor.model).encode())
        digest.update(repr((self.predictor.precision, self.thresholds)).encode())
        return digest.hexdigest()

    @property
    def weights_sha256(self) -> str:
        """The SHA-256 of the weights, in hexadecimal; that of the model it was exported from."""
        model = self.predictor.model
        return model.weights_sha256 if isinstance(model, ExportedModel) else weights_digest(model)

    def segmenter(self, task: str | None = None, threshold: float | None = None) -> Segmenter:
        """Return the model for one task. All segmenters of a model share its weights.

        Args:
            task: "panoptic", "instance" or "semantic"; see `choose_task`.
            threshold: lowest score of the instances to keep (default: `class_thresholds`, or 0.5),
                or lowest probability of the queries that take part in panoptic segmentation
                (default: as in the config).

        Raises:
            ValueError: the model does not do the task, or the task has no threshold.
        """
        task = choose_task(self.cfg, task or self.task, self.classes, self.config_file)
        check_threshold(task, threshold)
        predictor = self.predictor
        if isinstance(predictor.model, MaskFormer):
            test = self.cfg.MODEL.MASK_FORMER.TEST
            view = predictor.model.only(
                task,
                semantic_resize_first=test.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE,
                object_mask_threshold=threshold if task == "panoptic" else None,
            )
            predictor = predictor.with_model(view)
        return Segmenter(
            predictor,
            self.classes,
            task,
            (self.class_thresholds or DEFAULT_THRESHOLD) if threshold is None else threshold,
        )


def load_model(
    config_file: str,
    overrides: Sequence[object] = (),
    *,
    task: str | None = None,
    allow_unsafe_config: bool = False,
    allow_unsafe_weights: bool = False,
) -> LoadedModel:
    """Load a model from its config file and weights, with the names of its classes.

    Args:
        config_file: YAML file or Hugging Face folder; see `load_config`. `weights_of_run` finds the
            weights. Or an exported file.
        overrides: `[key, value, ...]` of the config.
        task: "panoptic", "instance" or "semantic"; see `choose_task`.
        allow_unsafe_config: see `load_config`.
        allow_unsafe_weights: see `load_weights`.

    Raises:
        ValueError: the config, the weights, the device or the task is not usable.
    """
    if is_exported(config_file):
        file = ExportedFile.open(Path(config_file), allow_unsafe=allow_unsafe_weights)
        cfg, known = file.config(overrides), file.metadata.classes
        task = choose_task(cfg, task or file.metadata.task, known, config_file)
        predictor = file.predictor(_only(cfg, task))
        found = file.metadata.postprocessing.thresholds
        return LoadedModel(cfg, config_file, known, task, predictor, found)
    overrides = weights_of_run(config_file, overrides)
    cfg = load_config(config_file, overrides, allow_unsafe_config, task=task)
    check_device(cfg.MODEL.DEVICE, "--opts ")
    classes = find_classes(cfg, config_file)
    if classes is not None:
        register_classes(cfg, classes)
    else:
        logger.warning("The names of the classes are not known: no fitting %s found", METADATA_FILE)
        classes = Classes.numbered(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
    task = choose_task(cfg, task, classes, config_file)
    predictor = Predictor.from_config(_only(cfg, task), allow_unsafe_weights)
    return LoadedModel(
        cfg, config_file, classes, task, predictor, find_thresholds(cfg, config_file)
    )


def _only(cfg: CfgNode, task: str) -> CfgNode:
    """Return a config for one task: others may need what is not known, such as the things."""
    only = cfg.clone()
    if cfg.MODEL.META_ARCHITECTURE == "MaskFormer":
        for other in TASKS.values():
            only.MODEL.MASK_FORMER.TEST[other.switch] = other.name == task
    return only


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
            f"task {requested}: {config_file} describes a {cfg.MODEL.META_ARCHITECTURE}, which "
            f"only supports the task {offered[0]}"
        )
    if requested is None:
        raise ValueError(
            f"{config_file} describes a model that predicts nothing; switch one of these keys on: "
            + ", ".join(f"{task.switch_key} True" for task in TASKS.values())
        )
    if requested not in TASKS:
        raise ValueError(f"there is no task {requested!r}: choose one of {', '.join(TASKS)}")
    other = f", but one for the task {' or '.join(offered)}" if offered else ""
    raise ValueError(
        f"task {requested}: {config_file} is for a model without {requested} segmentation{other}; "
        f"if it was trained for that, set {TASKS[requested].switch_key} True"
    )


def _offered(cfg: CfgNode) -> Sequence[str]:
    tasks = tasks_of(cfg)
    if tasks is None:
        return ("instance",)
    # A panoptic model can predict instances and classes of pixels too.
    return list(TASKS) if TASKS["panoptic"] in tasks else [task.name for task in tasks]
