"""Predictions from result files: COCO's formats, Detectron2's for semantic maps, and the demo's.

Shapes:
    H, W: height and width of the image.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import chain, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from mask2former_runtime.drawing.scenes import InstanceScene, PanopticScene, Scene, SemanticScene
from mask2former_runtime.files import read_json

from ..data.coco_format import check_coco, check_records
from ..data.errors import DatasetError
from ..data.label_maps import read_label_map, read_panoptic_png
from ..data.segmentation import to_rle
from ..structures import Classes
from .scenes import RunLengthMasks

_SEGMENT = "id category_id score?"


class ResultFile:
    """The predictions in a file, by image.

    Args:
        path: a JSON file of COCO instance results (``coco_instances_results.json``), COCO panoptic
            results, Detectron2's ``sem_seg_predictions.json``, or results that the demo wrote.
        png_root: the folder of the PNG files that `path` names; by default the folder named like
            `path` without its suffix or, if that does not exist, the folder that holds `path`.

    Attributes:
        task: "instance", "panoptic" or "semantic", depending on what the file holds.

    Raises:
        DatasetError: the file cannot be read, is empty or has another format.
    """

    def __init__(self, path: str, png_root: str | None = None):
        self.path = path
        content = read_json(path, DatasetError)
        folder = os.path.splitext(path)[0]
        self._root = png_root or (folder if os.path.isdir(folder) else os.path.dirname(path))
        if isinstance(content, dict) and content.get("annotations"):
            self.task = "panoptic" if _has(content["annotations"], "segments_info") else "semantic"
            fields = "image_id file_name" + " segments_info" * (self.task == "panoptic")
            parts = {"images?": "id file_name", "annotations": fields, "segments_info": _SEGMENT}
            entries = check_coco(content, parts, path)["annotations"]
        elif isinstance(content, list) and content:
            entries, content = content, {}
            self.task = "instance" if _has(entries, "score") else "semantic"
            fields = "image_id? file_name? category_id segmentation"
            if self.task == "instance":  # boxes without masks have a message of their own
                fields += "? score"
            check_records(entries, fields, f"{path}: results")
        else:
            raise DatasetError(
                f"{path} has no predictions: expected a list of results, or 'annotations', with "
                "at least one entry"
            )
        names = {image["id"]: image["file_name"] for image in content.get("images", ())}
        self._by_id: dict[Hashable, list[dict[str, Any]]] = defaultdict(list)
        self._by_name: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for entry in entries:
            # Where the file lists images, "file_name" of an entry is a PNG file.
            name = names.get(entry["image_id"]) if content else entry.get("file_name")
            if name is not None:
                self._by_name[name].append(entry)
            elif entry.get("image_id") is not None:
                self._by_id[entry["image_id"]].append(entry)
            else:
                raise DatasetError(f"{path}: an entry has no 'image_id': {entry!r:.200}")
        self._by_base_name: dict[str, list[str]] = defaultdict(list)
        for name in self._by_name:
            self._by_base_name[os.path.basename(name)].append(name)

    @property
    def has_scores(self) -> bool:
        """Whether all predictions have a score."""
        if self.task != "panoptic":
            return self.task == "instance"
        segments = (s for entries in self._entries() for e in entries for s in e["segments_info"])
        return all("score" in segment for segment in segments)

    def _entries(self) -> Iterator[list[dict[str, Any]]]:
        return chain(self._by_id.values(), self._by_name.values())

    def some_images(self) -> str:
        """Return an example of how the file refers to images, for messages."""
        return repr(next(iter(self._by_name or self._by_id)))

    def find(self, record: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """Return the results for the image of a dataset dict, or None if the file has none.

        Images are found by their file names if the file has them, otherwise by their ids.
        """
        if not self._by_name:
            found = self._by_id.get(record.get("image_id"))
            return found or None
        path = record["file_name"]
        if path in self._by_name:
            return self._by_name[path]
        # The images may have moved since the file was written: compare the ends of the paths.
        candidates = self._by_base_name.get(os.path.basename(path), [])
        shared = [_common_suffix(Path(path).parts, Path(name).parts) for name in candidates]
        if not shared or shared.count(max(shared)) > 1:
            return None
        return self._by_name[candidates[shared.index(max(shared))]]

    def scene(
        self,
        entries: Sequence[Mapping[str, Any]],
        size: tuple[int, int],
        classes: Classes,
        *,
        threshold: float | None = None,
    ) -> Scene:
        """Turn the entries that `find` returned into a scene, which can be drawn.

        Args:
            entries: the results for one image.
            size: (height, width) of the image.
            classes: the classes of the data set.
            threshold: the lowest score of instances or segments to keep.

        Raises:
            ValueError: a mask is malformed.
            DatasetError: an entry has an unknown category, or a PNG file cannot be read.
        """
        if self.task == "instance":
            kept = [e for e in entries if threshold is None or e["score"] >= threshold]
            kept.sort(key=lambda entry: -entry["score"])
            if any(not entry.get("segmentation") for entry in kept):
                raise DatasetError(f"{self.path} has boxes without masks ('segmentation')")
            return InstanceScene(
                RunLengthMasks([to_rle(e["segmentation"], size) for e in kept]),
                [self._index(e["category_id"], classes) for e in kept],
                [e["score"] for e in kept],
            )
        if self.task == "panoptic":
            ids = read_panoptic_png(os.path.join(self._root, entries[0]["file_name"]))
            segments = []
            for segment in entries[0]["segments_info"]:
                if threshold is not None and segment["score"] < threshold:
                    continue
                index = self._index(segment["category_id"], classes)
                segments.append(
                    {**segment, "category_id": index, "isthing": classes.is_thing(index)}
                )
            return PanopticScene(ids, segments)
        if "segmentation" not in entries[0]:
            return SemanticScene(
                read_label_map(os.path.join(self._root, entries[0]["file_name"])).astype(np.int32)
            )
        labels = np.full(size, classes.ignore_label, np.int32)
        for entry in entries:
            mask = mask_util.decode(to_rle(entry["segmentation"], size)).astype(bool)
            labels[mask] = self._index(entry["category_id"], classes)
        return SemanticScene(labels)

    def _index(self, category_id: int, classes: Classes) -> int:
        if category_id not in classes.index:
            raise DatasetError(
                f"{self.path} has category_id {category_id}; the data set has "
                f"{sorted(classes.ids)}. Do the results belong to another data set?"
            )
        return classes.index[category_id]


def _has(entries: Any, key: str) -> bool:
    """Return whether the first of these entries, which nobody has checked, has a key."""
    first = entries[0] if isinstance(entries, list) else None
    return isinstance(first, dict) and key in first


def _common_suffix(a: Sequence[str], b: Sequence[str]) -> int:
    """Return how many parts at the end are the same."""
    same = (x == y for x, y in zip(reversed(a), reversed(b), strict=False))
    return sum(1 for _ in takewhile(bool, same))
