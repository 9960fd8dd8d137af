"""COCO: label maps of all 133 classes, made from the panoptic annotations."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from ...structures import Classes
from ..checks.report import Report
from ..checks.semantic_folders import check_semantic_folders
from ..datasets.coco_panoptic import load_coco_panoptic
from ..errors import DatasetError
from ..label_maps import read_panoptic_png
from ..segment_labels import look_up, number_segments, segment_classes
from .job import Job

IGNORE_LABEL = 255

_SOURCE = "COCO's images and panoptic annotations of 2017 contain it; unpack the PNG files, too."


class CocoSemantic(Job):
    """``coco/panoptic_semseg_{train,val}2017/``: label maps with classes 0 to 132, and 255.

    Args:
        root: folder of ``coco``.
        split: "train" or "val".
    """

    def __init__(self, root: str | os.PathLike[str], split: str):
        self.folder = Path(root) / "coco"
        self.split = split
        self.title = f"COCO semantic, {split}2017"
        self.output_folder = self.folder / f"panoptic_semseg_{split}2017"
        self.segments: dict[str, list[dict[str, Any]]] = {}
        """Name -> ``segments_info``."""

    def names(self) -> list[str]:
        """Return the names of the PNG files in the order of the JSON. See `Job.names`."""
        records = load_coco_panoptic(
            str(self.folder / "annotations" / f"panoptic_{self.split}2017.json"),
            str(self.folder / f"panoptic_{self.split}2017"),
            str(self.folder / f"{self.split}2017"),
            classes=Classes.from_categories(COCO_CATEGORIES),
            preparation=_SOURCE,
        )
        for record in records:
            name = Path(record["pan_seg_file_name"]).stem
            self.segments[name] = record["segments_info"]
        return list(self.segments)

    def convert(self, name: str) -> None:
        """See `Job.convert`."""
        path = self.folder / f"panoptic_{self.split}2017" / f"{name}.png"
        ids = read_panoptic_png(path)
        numbers = number_segments(ids, self.segments[name])
        unknown = ids[(numbers == 0) & (ids != 0)]
        if unknown.size:
            raise DatasetError(f"{path} has the segment id {unknown[0]}, which the JSON lacks.")
        classes = segment_classes(self.segments[name], IGNORE_LABEL)
        self.save_png(name, look_up(classes, numbers))

    def check(self) -> Report:
        """See `Job.check`."""
        return check_semantic_folders(
            str(self.folder / f"{self.split}2017"),
            str(self.output_folder),
            [category["name"] for category in COCO_CATEGORIES],
            ignore_label=IGNORE_LABEL,
        )
