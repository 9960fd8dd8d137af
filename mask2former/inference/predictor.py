"""A trained model as a function from one image to its predictions.

Shapes:
    H, W: height and width of the image, K: number of classes, h, w: size of the scores.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Instances
from torch import nn
from torch.nn import functional as F

from mask2former_runtime.image import IMAGE_FORMATS
from mask2former_runtime.preprocessing import network_size
from mask2former_runtime.stored import STORED_TYPES, StoredKind, as_stored

from ..checkpoint import load_weights
from ..data.mapper.geometry import ResizeTransform
from ..modeling.postprocessing import CHUNK_PIXELS
from ..modeling.registries import check_names
from ..utils.device import in_fast_layout
from ..utils.size import Size


class Predictor:
    """Resizes an image as in evaluation and runs the model on it.

    Unlike Detectron2's `DefaultPredictor`, it rejects weights that do not fill the whole model, and
    never resizes very thin images to nothing.

    Args:
        model: takes Detectron2's list of dicts; it is put into evaluation mode.
        min_size: length in pixels to resize the shorter side to, or 0 to keep the size.
        max_size: limit of the longer side in pixels; it takes precedence over `min_size`.
        image_format: order of the channels that the model takes, "RGB" or "BGR"; or one of
            `STORED_TYPES`. Where methods say (H, W, 3) uint8, BGR, images are then (H, W, C) of
            this type, or float32 of `read`.
        channels: number of channels C.
        precision: type of automatic mixed precision; None for that of the weights, float32.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        min_size: int,
        max_size: int,
        image_format: str,
        channels: int = 3,
        precision: torch.dtype | None = None,
    ):
        if image_format not in (*IMAGE_FORMATS, *STORED_TYPES):
            raise ValueError(f"INPUT.FORMAT must be RGB or BGR, got {image_format!r}")
        self.model = model.eval()
        self.min_size = min_size
        self.max_size = max_size
        self.image_format = image_format
        self.channels = channels
        self.precision = precision

    @classmethod
    def from_config(cls, cfg: CfgNode, allow_unsafe_weights: bool = False) -> Predictor:
        """Build the model that `cfg` describes and load `MODEL.WEIGHTS`.

        Raises:
            ValueError: the weights are missing or do not fit the model.
        """
        if not cfg.MODEL.WEIGHTS:
            raise ValueError(
                "the config names no weights; add: --opts MODEL.WEIGHTS path/to/model_final.pth"
            )
        check_names(cfg)
        model = build_model(cfg)
        load_weights(model, cfg.MODEL.WEIGHTS, allow_unsafe=allow_unsafe_weights)
        return cls(
            in_fast_layout(model, cfg.MODEL.DEVICE),
            min_size=cfg.INPUT.MIN_SIZE_TEST,
            max_size=cfg.INPUT.MAX_SIZE_TEST,
            image_format=cfg.INPUT.FORMAT,
            channels=len(cfg.MODEL.PIXEL_MEAN),
        )

    @property
    def stored(self) -> StoredKind | None:
        """How the images that the model takes are stored; None for pictures of 8 bits."""
        if self.image_format not in STORED_TYPES:
            return None
        return StoredKind(self.image_format, self.channels)

    def with_model(self, model: nn.Module) -> Predictor:
        """Return a predictor that treats images in the same way for another model."""
        other = copy.copy(self)
        other.model = model.eval()
        return other

    def __call__(self, image: np.ndarray) -> dict[str, Any]:
        """Predict.

        Args:
            image: (H, W, 3) uint8, BGR as in OpenCV and `DefaultPredictor`.

        Returns:
            The model's result for the image, such as `{"instances": Instances}` of size (H, W).
        """
        return self.batch([image])[0]

    def batch(self, images: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """Predict on images for which `network_size` is the same, all at once.

        Results differ from those of single images by rounding errors, which may move single pixels
        across the threshold of masked attention.

        Args:
            images: each (H, W, 3) uint8, BGR; their own sizes may differ.
        """
        return self._predict(images, [(image.shape[0], image.shape[1]) for image in images])

    def labels(self, image: np.ndarray) -> np.ndarray:
        """Find the class with the highest score at each pixel, with a model that gives `sem_seg`.

        If the model's last step would be to enlarge the scores, this method does it instead, for a
        few classes at a time. The enlarged scores of all classes would take gigabytes for a photo.

        Args:
            image: (H, W, 3) uint8, BGR.

        Returns:
            (H, W) int32.
        """
        size = image.shape[0], image.shape[1]
        return best_classes(self._scores(image), size).cpu().numpy()

    def class_scores(self, image: np.ndarray) -> np.ndarray:
        """Return the score of each class at each pixel, with a model that gives `sem_seg`.

        `labels` are the classes with the highest of them. They take 4 bytes per class and pixel.

        Args:
            image: (H, W, 3) uint8, BGR.

        Returns:
            (K, H, W) float32.
        """
        size = image.shape[0], image.shape[1]
        parts = [part.cpu() for _, part in enlarged(self._scores(image), size)]
        return torch.cat(parts).numpy()

    def _scores(self, image: np.ndarray) -> torch.Tensor:
        """Return the scores (K, h, w) of an image before `enlarged` resizes them to it."""
        size = image.shape[0], image.shape[1]
        enlarged_within = getattr(self.model, "semantic_resize_first", False)
        scores_size = size if enlarged_within else self.network_size(*size)
        return self._predict([image], [scores_size])[0]["sem_seg"]

    def _predict(
        self, images: Sequence[np.ndarray], output_sizes: Sequence[Size]
    ) -> list[dict[str, Any]]:
        inputs = [
            {"image": self._resized(image), "height": height, "width": width}
            for image, (height, width) in zip(images, output_sizes, strict=True)
        ]
        with torch.inference_mode(), self._autocast():
            return self.model(inputs)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision is None:
            return contextlib.nullcontext()
        device = next(self.model.parameters()).device
        return torch.autocast(device.type, dtype=self.precision)

    def _resized(self, image: np.ndarray) -> torch.Tensor:
        """Return what the model takes: (C, h, w), uint8 or float32, in its order of channels."""
        if self.stored is not None:
            kind = "float32" if image.dtype == np.float32 else self.image_format
            image = as_stored(image, kind, self.channels)
        elif self.image_format == "RGB":
            image = image[:, :, ::-1]
        size = image.shape[0], image.shape[1]
        resize = ResizeTransform(*size, *self.network_size(*size))
        resized = resize.apply_image(np.ascontiguousarray(image))
        return torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))

    def network_size(self, height: int, width: int) -> Size:
        """Return the size to which the model sees an image of this size resized."""
        return network_size(height, width, self.min_size, self.max_size)


def require_pictures(stored: StoredKind | None, what: str) -> None:
    """Check that a model takes pictures, which something needs.

    Args:
        stored: see `Predictor.stored`.
        what: for the message.

    Raises:
        ValueError: it takes images as they are stored.
    """
    if stored is not None:
        raise ValueError(
            f"{what} takes pictures of 8 bits, and this model takes images as they are stored: "
            f"{stored}"
        )


def best_classes(
    scores: torch.Tensor, size: tuple[int, int], chunk_pixels: int = CHUNK_PIXELS
) -> torch.Tensor:
    """Find the class with the highest score at each pixel.

    Args:
        scores: (K, h, w).
        size: (H, W) to resize the scores to, bilinearly as models do it.
        chunk_pixels: how many pixels the classes resized at a time may have together; one class is
            always resized.

    Returns:
        (H, W) int32.
    """
    best = scores.new_full(size, -torch.inf, dtype=torch.float32)
    labels = torch.zeros(size, dtype=torch.int32, device=scores.device)
    for first, part in enlarged(scores, size, chunk_pixels):
        values, classes = part.max(0)
        better = values > best
        labels[better] = classes[better].int() + first
        torch.maximum(best, values, out=best)
    return labels


def enlarged(
    scores: torch.Tensor, size: tuple[int, int], chunk_pixels: int = CHUNK_PIXELS
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield scores at the size of the image, for some classes at a time; see `best_classes`.

    Yields:
        The first of the classes, and their scores (n, H, W), float32.
    """
    chunk = max(1, chunk_pixels // (size[0] * size[1]))
    for first in range(0, len(scores), chunk):
        part = scores[None, first : first + chunk].float()
        if part.shape[-2:] != size:
            part = F.interpolate(part, size=size, mode="bilinear", align_corners=False)
        yield first, part[0]


def confident(instances: Instances, threshold: float | Sequence[float]) -> Instances:
    """Return the instances that have a score of at least `threshold` and a mask that is not empty.

    They are on the CPU, in descending order of score.

    Args:
        instances: of one image.
        threshold: a number, or one for each class.
    """
    lowest = instances.scores.new_tensor(threshold)
    if lowest.ndim:
        lowest = lowest[instances.pred_classes]
    kept = (instances.scores >= lowest) & instances.pred_masks.flatten(1).any(1)
    instances = instances[kept]
    return instances[instances.scores.argsort(descending=True, stable=True)].to("cpu")
