"""The model of a server, with what its clients may know about it."""

from __future__ import annotations

import functools

from ..api import Mask2Former
from ..inference.predictor import require_pictures
from ..inference.segmenters import Segmenter
from ..structures import Classes
from ..utils.size import Size

# Of task and threshold, of which clients use few. To make a segmenter takes milliseconds.
_KEPT_SEGMENTERS = 16


class ServedModel:
    """A model with a name.

    Args:
        model: the model.
        name: for people; not the path of a file of this machine.

    Attributes:
        version: the name and a digest of the weights. Label Studio keeps predictions under it.
        task: of requests that name none.
        tasks: that the model does.
        classes: the model's classes.
        thresholds: see `Mask2Former.thresholds`.
    """

    def __init__(self, model: Mask2Former, name: str):
        require_pictures(model.segmenter().stored, "the server")
        self.name = name
        self.version = f"{name}-{model.weights_sha256[:8]}"
        self.task: str = model.task
        self.tasks: list[str] = model.tasks
        self.classes: Classes = model.classes
        self.thresholds = model.thresholds
        self._segmenter = functools.lru_cache(_KEPT_SEGMENTERS)(model.segmenter)

    def segmenter(self, task: str, threshold: float | None) -> Segmenter:
        """Return the model for one task; see `Mask2Former.segmenter`."""
        return self._segmenter(task, threshold)

    def network_size(self, height: int, width: int) -> Size:
        """Return the size to which the model sees an image resized."""
        return self.segmenter(self.task, None).predictor.network_size(height, width)
