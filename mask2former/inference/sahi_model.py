"""Predicting on slices of large images with SAHI (``pip install sahi``)."""

from __future__ import annotations

from typing import Any

import numpy as np
from sahi.models.base import DetectionModel
from sahi.prediction import ObjectPrediction
from sahi.utils.cv import get_coco_segmentation_from_bool_mask

from mask2former_runtime.prediction import Prediction


class SahiModel(DetectionModel):
    """A `mask2former.Mask2Former` for instances as a model of SAHI.

    SAHI keeps the outer outlines of instances, not the holes in them, and no parts of a few pixels.

    Args:
        model: the `Mask2Former`.
        confidence_threshold: the lowest score of the instances to keep.
        options: of SAHI's ``DetectionModel``.
    """

    def __init__(self, model: Any, *, confidence_threshold: float = 0.5, **options: Any):
        super().__init__(
            model=model,
            device=str(model.device),
            confidence_threshold=confidence_threshold,
            **options,
        )

    def set_model(self, model: Any, **_: Any) -> None:
        """Take over the model and the names of its classes."""
        self.model = model
        self.category_mapping = {str(i): name for i, name in enumerate(model.names)}

    def perform_inference(self, image: np.ndarray) -> None:
        """Find the instances in an image (H, W, 3), uint8, RGB."""
        self._original_predictions = self.model.predict(
            image, task="instance", threshold=self.confidence_threshold
        )

    def _create_object_prediction_list_from_original_predictions(
        self, shift_amount_list: Any = None, full_shape_list: Any = None
    ) -> None:
        """Give SAHI the instances, with the place of the slice in the whole image."""
        found: Prediction = self._original_predictions
        shift = np.ravel(shift_amount_list or [0, 0]).tolist()
        shape = np.ravel(full_shape_list or found.size).tolist()
        self._object_prediction_list_per_image = [
            [
                ObjectPrediction(
                    category_id=int(found.labels[i]),
                    category_name=found.names[i],
                    score=float(found.scores[i]),
                    segmentation=get_coco_segmentation_from_bool_mask(found.mask(i)),
                    shift_amount=shift,
                    full_shape=shape,
                )
                for i in range(len(found))
            ]
        ]
