"""An image together with its label maps, all moved alike by augmentations.

Shapes:
    H, W: height and width of the image.
    S: see `mask2former.data.segment_labels`.
"""

from __future__ import annotations

import numpy as np
from detectron2.data import transforms as T

from ..segment_labels import look_up

# The byte that padding consists of once a label map went through transforms: -1 of signed maps.
PADDING_BYTE = 255


def transform_labels(labels: np.ndarray, transforms: T.Transform | T.TransformList) -> np.ndarray:
    """Move a label map as an image: each pixel takes the number of the nearest one.

    Detectron2's transforms do that for bytes; for larger numbers they change to a resampling that
    is half a pixel off, or fail. So those go through them as several bytes.

    Args:
        labels: (H, W), uint8, uint16 or int32.
        transforms: geometric ones; those of colours do nothing.

    Returns:
        (H', W') of the same type. Padding consists of bytes `PADDING_BYTE`.
    """
    if labels.dtype.itemsize == 1:
        return transforms.apply_segmentation(labels)
    planes = np.ascontiguousarray(labels).view(np.uint8).reshape(*labels.shape, -1)
    planes = np.ascontiguousarray(transforms.apply_segmentation(planes))
    return planes.view(labels.dtype)[..., 0]


class LabelledInput(T.AugInput):
    """Detectron2's ``AugInput`` for label maps of any whole numbers.

    Augmentations find the semantic labels in ``sem_seg``. Given `segments` in their place, that is
    computed when one asks for it.
    """

    def __init__(
        self,
        image: np.ndarray,
        *,
        labels: np.ndarray | None = None,
        segments: np.ndarray | None = None,
        segment_labels: np.ndarray | None = None,
    ):
        """Take an image and what is known of its pixels.

        Args:
            image: (H, W, C).
            labels: (H, W) classes.
            segments: (H, W) numbers of segments.
            segment_labels: (S,) class of each segment, for ``sem_seg`` where there are no `labels`.
        """
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
        """Apply a transform to everything."""
        self.image: np.ndarray = tfm.apply_image(self.image)
        if self.labels is not None:
            self.labels = transform_labels(self.labels, tfm)
        if self.segments is not None:
            self.segments = transform_labels(self.segments, tfm)
