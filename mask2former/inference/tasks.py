"""What a model finds in an image, by task: choosing the task, predicting, counting, drawing.

Shapes:
    H, W: height and width of an image, K: number of classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from detectron2.config import CfgNode
from detectron2.structures import Instances
from PIL import Image

from ..visualization import draw_instances, draw_panoptic, draw_semantic, palette_color
from .predictor import Predictor, confident
from .run_folder import Classes

TASKS = ("panoptic", "instance", "semantic")  # the first of those that a config predicts is meant
DEFAULT_THRESHOLD = 0.5
_SWITCHES = {"panoptic": "PANOPTIC_ON", "instance": "INSTANCE_ON", "semantic": "SEMANTIC_ON"}

Segments = tuple[np.ndarray, list[dict[str, Any]]]
"""(H, W) ids and the segments' `id`, `category_id` in [0, K), `isthing` and perhaps `score`."""
Found = TypeVar("Found")


def choose_task(cfg: CfgNode, requested: str | None, classes: Classes, config_file: str) -> str:
    """The task to run a model for.

    Args:
        cfg: config of the model.
        requested: one of `TASKS`; None for the first that the config predicts, but instances before
            panoptic segments if there is no stuff.
        classes: of the model.
        config_file: for messages.

    Raises:
        ValueError: the config does not predict that.
    """
    offered = _offered(cfg)
    if requested is None and offered:
        # The published configs for instances of ADE20K predict panoptic segments as well.
        no_stuff = classes.things is not None and len(classes.things) == len(classes.names)
        return "instance" if no_stuff and "instance" in offered else offered[0]
    if requested is not None and requested in offered:
        return requested
    if cfg.MODEL.META_ARCHITECTURE != "MaskFormer":
        raise ValueError(
            f"--task {requested}: {config_file} is of a {cfg.MODEL.META_ARCHITECTURE}, "
            f"of which only --task {offered[0]} can be had"
        )
    if requested is None:
        raise ValueError(
            f"{config_file} is for a model that predicts nothing; give one of "
            + ", ".join(f"--opts MODEL.MASK_FORMER.TEST.{key} True" for key in _SWITCHES.values())
        )
    other = f", but one for --task {' or '.join(offered)}" if offered else ""
    raise ValueError(
        f"--task {requested}: {config_file} is for a model without {requested} segmentation{other}"
        f"; if it was trained for that: --opts MODEL.MASK_FORMER.TEST.{_SWITCHES[requested]} True"
    )


def _offered(cfg: CfgNode) -> Sequence[str]:
    if cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor":
        return ("semantic",)
    if cfg.MODEL.META_ARCHITECTURE != "MaskFormer":
        return ("instance",)
    test = cfg.MODEL.MASK_FORMER.TEST
    # What a panoptic model knows are instances and classes, too.
    return [task for task in TASKS if test.PANOPTIC_ON or test[_SWITCHES[task]]]


def build_task(
    cfg: CfgNode,
    name: str,
    classes: Classes,
    *,
    threshold: float | None = None,
    allow_unsafe_weights: bool = False,
) -> "Task[Any]":
    """Build a model that does nothing but one task, which saves gigabytes with large photographs.

    Args:
        cfg: config of the model; it is changed.
        name: one of `TASKS`.
        classes: names and ids.
        threshold: lowest score of an instance that counts, or of a query that takes part in
            panoptic segmentation; by default 0.5 and what the config says.
        allow_unsafe_weights: whether a pickle of weights may run code.

    Raises:
        ValueError: there is no threshold for the task, or the model cannot be had.
    """
    if threshold is not None and name == "semantic":
        raise ValueError(
            "--confidence-threshold means nothing for semantic segmentation, where each pixel "
            "takes the class with the highest score"
        )
    if cfg.MODEL.META_ARCHITECTURE == "MaskFormer":
        test = cfg.MODEL.MASK_FORMER.TEST
        for task, key in _SWITCHES.items():
            test[key] = task == name
        if name == "panoptic" and threshold is not None:
            test.OBJECT_MASK_THRESHOLD = threshold
    predictor = Predictor.from_config(cfg, allow_unsafe_weights)
    if name == "instance":
        threshold = DEFAULT_THRESHOLD if threshold is None else threshold
        return InstanceTask(predictor, classes, threshold)
    return (
        PanopticTask(predictor, classes) if name == "panoptic" else SemanticTask(predictor, classes)
    )


class Task(ABC, Generic[Found]):
    """Finds, counts and draws; images are (H, W, 3) uint8, BGR."""

    name: str

    def __init__(self, predictor: Predictor, classes: Classes):
        """
        Args:
            predictor: from an image to its predictions.
            classes: names and ids.
        """
        self.predictor = predictor
        self.classes = classes

    @abstractmethod
    def find(self, image: np.ndarray) -> Found:
        """What is in an image."""

    @abstractmethod
    def count(self, found: Found) -> str:
        """A few words on what was found."""

    @abstractmethod
    def draw(self, image: np.ndarray, found: Found, by_class: bool = False) -> Image.Image:
        """Draw on an image; `by_class` gives a class one colour, which is stable over frames."""


class InstanceTask(Task[Instances]):
    """Instances above a threshold."""

    name = "instance"

    def __init__(self, predictor: Predictor, classes: Classes, threshold: float):
        """
        Args:
            predictor: from an image to its predictions.
            classes: names and ids.
            threshold: lowest score of an instance that counts.
        """
        super().__init__(predictor, classes)
        self.threshold = threshold

    def find(self, image: np.ndarray) -> Instances:
        """The instances, in descending order of score."""
        return confident(self.predictor(image)["instances"], self.threshold)

    def count(self, found: Instances) -> str:
        """Their number."""
        return counted(len(found), "instance")

    def draw(self, image: np.ndarray, found: Instances, by_class: bool = False) -> Image.Image:
        """Draw each with its name and score."""
        classes, scores = found.pred_classes.tolist(), found.scores.tolist()
        return draw_instances(
            _rgb(image),
            found.pred_masks.numpy(),
            [f"{self.classes.names[c]} {s:.0%}" for c, s in zip(classes, scores, strict=True)],
            [palette_color(c if by_class else i) for i, c in enumerate(classes)],
        )


class PanopticTask(Task[Segments]):
    """Segments that do not overlap."""

    name = "panoptic"

    def find(self, image: np.ndarray) -> Segments:
        """The map of ids, and segments."""
        ids, segments = self.predictor(image)["panoptic_seg"]
        return ids.cpu().numpy(), segments

    def count(self, found: Segments) -> str:
        """How many things and how much stuff."""
        things = sum(segment["isthing"] for segment in found[1])
        return f"{counted(things, 'thing')}, {len(found[1]) - things} stuff"

    def draw(self, image: np.ndarray, found: Segments, by_class: bool = False) -> Image.Image:
        """Draw segments with their names."""
        ids, segments = found
        names, colors = self.classes.names, self.classes.colors
        return draw_panoptic(_rgb(image), ids, segments, names, colors=colors, by_class=by_class)


class SemanticTask(Task[np.ndarray]):
    """The class of each pixel."""

    name = "semantic"

    def find(self, image: np.ndarray) -> np.ndarray:
        """(H, W) classes, in [0, K)."""
        return self.predictor.labels(image)

    def count(self, found: np.ndarray) -> str:
        """How many classes, and the share of the largest."""
        pixels = np.bincount(found.reshape(-1))
        largest = int(pixels.argmax())
        share = f"{pixels[largest] / found.size:.0%} {self.classes.names[largest]}"
        return f"{counted(int(np.count_nonzero(pixels)), 'class', 'classes')}, {share}"

    def draw(self, image: np.ndarray, found: np.ndarray, by_class: bool = False) -> Image.Image:
        """Draw classes with their names."""
        return draw_semantic(
            _rgb(image), found, self.classes.names, self.classes.colors, ignore_label=None
        )


def counted(number: int, one: str, many: str | None = None) -> str:
    """The number with its noun."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def _rgb(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[:, :, ::-1])
