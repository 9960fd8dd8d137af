"""The same object in the same colour: in ground truth and prediction, and in the frames of a video.

The colour of an object is a shade of that of its class.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pycocotools.mask as mask_util

from mask2former_runtime.drawing.colors import Color, shade_numbers
from mask2former_runtime.drawing.scenes import (
    InstanceScene,
    PanopticScene,
    Scene,
    SemanticScene,
    shades,
)

from ..structures import Classes
from .scenes import RunLengthMasks

# Objects of one class and of at least this IoU are taken for the same.
_SAME = 0.5


class SteadyColors:
    """Chooses the colours of the frames of a video, so that an object keeps its colour.

    An object is the same as one of the frame before if both have the same class and their IoU is at
    least 0.5.

    Args:
        classes: with their colours.
    """

    def __init__(self, classes: Classes):
        self._classes = classes
        self._before: tuple[Scene, list[int]] | None = None

    def __call__(self, scene: Scene) -> dict[int, Color]:
        """Return the colours of the next frame, by position in its scene."""
        if self._before is None:
            numbers = shade_numbers(_categories(scene))
        else:
            numbers = _continued(scene, *self._before)
        self._before = scene, numbers
        return dict(enumerate(shades(_categories(scene), numbers, self._classes)))


def shared_colors(
    truth: Scene | None, prediction: Scene, classes: Classes
) -> tuple[dict[int, Color], dict[int, Color]]:
    """Choose colours for two scenes, so that a prediction has the colour of the object it shows.

    A prediction shows an object if both have the same class and their IoU is at least 0.5.

    Returns:
        The colours of `truth` and of `prediction`, each by position in the scene.
    """
    colors = SteadyColors(classes)
    own = {} if truth is None else colors(truth)
    return own, colors(prediction)


def _continued(scene: Scene, before: Scene, before_numbers: Sequence[int]) -> list[int]:
    """Number the shades of the objects of a scene.

    An object that was there before keeps its number. Others take the lowest number that no object
    of their class has, before or now.
    """
    pairs: dict[int, int] = {}
    if isinstance(before, InstanceScene) and isinstance(scene, InstanceScene):
        pairs = _matches(_instance_overlaps(before, scene), before, scene)
    elif isinstance(before, PanopticScene) and isinstance(scene, PanopticScene):
        pairs = _matches(_segment_overlaps(before, scene), before, scene)
    taken: defaultdict[int, set[int]] = defaultdict(set)
    for category, number in zip(_categories(before), before_numbers, strict=True):
        taken[category].add(number)
    numbers = []
    for i, category in enumerate(_categories(scene)):
        if i in pairs:
            number = before_numbers[pairs[i]]
        else:
            number = next(n for n in range(len(taken[category]) + 1) if n not in taken[category])
            taken[category].add(number)
        numbers.append(number)
    return numbers


def _matches(
    overlaps: np.ndarray,
    truth: InstanceScene | PanopticScene,
    prediction: InstanceScene | PanopticScene,
) -> dict[int, int]:
    """Match predictions to objects of the same class, the largest overlaps first.

    Args:
        overlaps: IoU of each prediction (rows) with each object (columns).
        truth: the objects.
        prediction: the predictions.

    Returns:
        The position of the object, by the position of the prediction.
    """
    classes = [np.array(_categories(scene), int) for scene in (prediction, truth)]
    overlaps = np.where(classes[0][:, None] == classes[1], overlaps, 0)
    pairs: dict[int, int] = {}
    while overlaps.size and overlaps.max() >= _SAME:
        i, j = (int(v) for v in np.unravel_index(np.argmax(overlaps), overlaps.shape))
        pairs[i] = j
        overlaps[i], overlaps[:, j] = 0, 0
    return pairs


def _categories(scene: Scene) -> list[int]:
    if isinstance(scene, SemanticScene):
        return []  # classes have colours, not objects
    if isinstance(scene, InstanceScene):
        return list(scene.categories)
    return [segment["category_id"] for segment in scene.segments]


def _instance_overlaps(truth: InstanceScene, prediction: InstanceScene) -> np.ndarray:
    if not len(truth) or not len(prediction):
        return np.zeros((len(prediction), len(truth)))
    rles = [
        scene.masks.rles
        if isinstance(scene.masks, RunLengthMasks)
        else [mask_util.encode(np.asfortranarray(mask)) for mask in scene.masks]
        for scene in (prediction, truth)
    ]
    return mask_util.iou(list(rles[0]), list(rles[1]), [0] * len(truth))


def _segment_overlaps(truth: PanopticScene, prediction: PanopticScene) -> np.ndarray:
    found = []
    for scene in (prediction, truth):
        table = np.zeros(max([int(scene.ids.max()), *(s["id"] for s in scene.segments)]) + 1, int)
        for i, segment in enumerate(scene.segments, start=1):
            table[segment["id"]] = i
        found.append(table[scene.ids])
    shape = len(prediction) + 1, len(truth) + 1
    shared = np.bincount(
        (found[0] * shape[1] + found[1]).reshape(-1), minlength=shape[0] * shape[1]
    )
    shared = shared.reshape(shape)
    union = shared.sum(1, keepdims=True) + shared.sum(0) - shared
    return (shared / union.clip(min=1))[1:, 1:]
