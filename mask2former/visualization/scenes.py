"""What is drawn of data sets: their ground truth, and masks in run-length form.

The scenes themselves are those of `mask2former_runtime.drawing.scenes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from mask2former_runtime.drawing.scenes import InstanceScene, PanopticScene, Scene, SemanticScene

from ..data.label_maps import read_label_map, read_panoptic_png
from ..data.segment_labels import semantic_labels
from ..data.segmentation import to_rle
from ..structures import Classes

__all__ = [
    "InstanceScene",
    "PanopticScene",
    "RunLengthMasks",
    "Scene",
    "SemanticScene",
    "true_scene",
]


class RunLengthMasks(Sequence[np.ndarray]):
    """Masks that are decoded one at a time, on access: together they may take gigabytes.

    Args:
        rles: compressed COCO RLEs.
    """

    def __init__(self, rles: Sequence[Mapping[str, Any]]):
        self.rles = rles

    def __len__(self) -> int:
        return len(self.rles)

    def __getitem__(self, index: Any) -> Any:
        return mask_util.decode(self.rles[index]).astype(bool)


def true_scene(task: str, record: Mapping[str, Any], classes: Classes) -> Scene | None:
    """Read the ground truth of a dataset dict.

    Args:
        task: "instance", "panoptic" or "semantic". Panoptic ground truth also serves the other two.
        record: Detectron2's dataset dict.
        classes: the classes of the data set.

    Returns:
        The scene, or None if the dict has no ground truth, as in test sets.

    Raises:
        ValueError: a mask is malformed, or a file cannot be read (`DatasetError`).
    """
    if task == "semantic" and "sem_seg_file_name" in record:
        return SemanticScene(read_label_map(record["sem_seg_file_name"]))
    if task == "instance" and "annotations" in record:
        found = [a for a in record["annotations"] if a.get("segmentation")]
        size = record["height"], record["width"]
        rles = [to_rle(a["segmentation"], size) for a in found]
        crowds = [i for i, a in enumerate(found) if a.get("iscrowd")]
        return InstanceScene(RunLengthMasks(rles), [a["category_id"] for a in found], crowds=crowds)
    if "pan_seg_file_name" not in record or "segments_info" not in record:
        return None
    ids, segments = read_panoptic_png(record["pan_seg_file_name"]), record["segments_info"]
    if task == "semantic":
        return SemanticScene(
            semantic_labels(
                ids, segments, 255 if classes.ignore_label is None else classes.ignore_label
            )
        )
    if task == "panoptic":
        return PanopticScene(ids, segments)
    things = [segment for segment in segments if segment["isthing"]]
    rles = [mask_util.encode(np.asfortranarray(ids == thing["id"])) for thing in things]
    crowds = [i for i, thing in enumerate(things) if thing.get("iscrowd")]
    return InstanceScene(
        RunLengthMasks(rles), [thing["category_id"] for thing in things], crowds=crowds
    )
