"""An image together with its label maps, all moved alike by augmentations.

Shapes:
    H, W: height and width of the image.
    S: see `mask2former.data.segment_labels`.
"""

from __future__ import annotations

import numpy as np
from detectron2.data import transforms as T

from ..segment_labels import look_up

# Value of image pixels that padding adds.
IMAGE_PADDING = 128
# Each byte of the padding that transforms add to a label map. In signed maps, that is -1.
PADDING_BYTE = 255


def transform_labels(labels: np.ndarray, transforms: T.Transform | T.TransformList) -> np.ndarray:
    """Transform a label map like its image: each pixel takes the number of the nearest pixel.

    Detectron2's transforms do that for bytes. For larger numbers they fail, or change to a
    resampling that is half a pixel off. So larger numbers are passed to them as several bytes.

    Args:
        labels: (H, W), uint8, uint16 or int32.
        transforms: geometric transforms; colour transforms have no effect.

    Returns:
        (H', W') of the same type. Each byte of padding is `PADDING_BYTE`.
    """
    if labels.dtype.itemsize == 1:
        return transforms.apply_segmentation(labels)
    planes = np.ascontiguousarray(labels).view(np.uint8).reshape(*labels.shape, -1)
    planes = np.ascontiguousarray(transforms.apply_segmentation(planes))
    return planes.view(labels.dtype)[..., 0]


class LabelledInput(T.AugInput):
    """Detectron2's ``AugInput`` for label maps of any whole numbers.

    Augmentations find the semantic labels in ``sem_seg``. If only `segments` are given, it is
    computed when an augmentation asks for it.

    Args:
        image: (H, W, C).
        labels: (H, W) classes.
        segments: (H, W) numbers of segments.
        segment_labels: (S,) class of each segment, for ``sem_seg`` where there are no `labels`.
    """

    def __init__(
        self,
        image: np.ndarray,
        *,
        labels: np.ndarray | None = None,
        segments: np.ndarray | None = None,
        segment_labels: np.ndarray | None = None,
    ):
        super().__init__(image)
        self.labels = labels
        self.segments = segments
        self._segment_labels = segment_labels

    @property
    def sem_seg(self) -> np.ndarray | None:
        """(H, W) classes, if known."""
        if self.labels is None and self.segments is not None and self._segment_labels is not None:
            return look_up(self._segment_labels, self.segments)
        return self.labels

    @sem_seg.setter
    def sem_seg(self, labels: np.ndarray | None) -> None:
        self.labels = labels

    def transform(self, tfm: T.Transform) -> None:
        """Apply a transform to the image and its maps."""
        self.image: np.ndarray = tfm.apply_image(self.image)
        if self.labels is not None:
            self.labels = transform_labels(self.labels, tfm)
        if self.segments is not None:
            self.segments = transform_labels(self.segments, tfm)
