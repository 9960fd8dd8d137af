"""The base of the types of `predictions`, and its files: names of `mask2former_runtime`."""

from mask2former_runtime.prediction import (
    ImageSource,
    Prediction,
    coco_file,
    coco_image,
    save_picture,
)

__all__ = ["ImageSource", "Prediction", "coco_file", "coco_image", "save_picture"]
