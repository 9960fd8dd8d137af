"""The model of a server, with what its clients may know about it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

from ..api import Mask2Former
from ..inference.segmenters import Segmenter
from ..structures import Classes
from ..utils.size import Size


@dataclass(frozen=True)
class ServedModel:
    """A model with a name.

    Attributes:
        name: for people; not the path of a file of this machine.
        version: the name and a digest of the weights. Label Studio keeps predictions under it.
        model: the model.
    """

    name: str
    version: str
    model: Mask2Former

    @classmethod
    def of(cls, model: Mask2Former, name: str) -> ServedModel:
        """Name a model."""
        digest = hashlib.sha256()
        for key, value in model.network.state_dict().items():
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return cls(name, f"{name}-{digest.hexdigest()[:8]}", model)

    @property
    def task(self) -> str:
        """The task of requests that name none."""
        return self.model.task

    @property
    def tasks(self) -> list[str]:
        """The tasks that the model does."""
        return self.model.tasks

    @property
    def classes(self) -> Classes:
        """The model's classes."""
        return self.model.classes

    def segmenter(self, task: str, threshold: float | None) -> Segmenter:
        """Return the model for one task; see `Mask2Former.segmenter`."""
        return self.model.segmenter(task, threshold)

    def network_size(self, height: int, width: int) -> Size:
        """Return the size to which the model sees an image resized."""
        return self.segmenter(self.task, None).predictor.network_size(height, width)
