"""COCO instance JSON whose names of images are not those of the files beside it.

Label Studio writes paths of its server or of Windows, such as ``images\\1/0a1b-cup.jpg`` or
``../../label-studio/media/upload/4/0a1b-cup.jpg``, for ``images/0a1b-cup.jpg``. Here the end
of each path finds the image: as much of it as fits only one file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mask2former_runtime.image import IMAGE_SUFFIXES

from ..checks.coco_file import load_coco
from ..coco_format import is_file_name
from ..files import walk_files
from .reading import Reading
from .source import InstanceSource

_START = 1 << 22  # bytes
_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True)
class CocoExportSource(InstanceSource):
    """COCO JSON files; a split is the file and the folder to find its images in."""

    name: ClassVar[str] = "coco"

    def places(self, split: str) -> list[str]:
        """Return the file and the folder."""
        return list(self.splits[split])

    def image_root(self, split: str) -> str:
        """Return the folder of images."""
        return self.splits[split][1]

    def read(self, split: str) -> Reading:
        """See `InstanceSource.read`; the report names the ids of the file."""
        json_file, image_root = self.splits[split]
        reading = Reading(json_file, self.root, image_root, ())
        content = load_coco(json_file, reading.report)
        reading.sources = None
        if content is None:
            return reading
        names = [name for name in walk_files(image_root) if name.lower().endswith(IMAGE_SUFFIXES)]
        ends = _unique_ends(names)
        for image in content["images"]:
            if is_file_name(image.get("file_name")):
                image["file_name"] = _found(image["file_name"], ends)
        reading.content = {key: content[key] for key in reading.content}
        return reading


def first_image(json_file: Path) -> str | None:
    """Return the first name of an image in a COCO file, without parsing all of it."""
    try:
        with json_file.open("rb") as file:
            match = _NAME.search(file.read(_START))
        return None if match is None else str(json.loads(match[1]))
    except (OSError, ValueError):
        return None


def image_folder(json_file: Path, candidates: Sequence[Path]) -> tuple[Path, bool]:
    """Return the folder that the names of images in a COCO file are relative to.

    Args:
        json_file: the file.
        candidates: folders, the likeliest first.

    Returns:
        The first folder that has the first image, or else the first folder; and whether the names
        are those of other paths, whose ends fit files in this folder.
    """
    name = first_image(json_file)
    if not is_file_name(name):
        return candidates[0], False
    for folder in candidates:
        if os.path.isfile(os.path.join(folder, name)):
            return folder, False
    base = name.replace("\\", "/").rpartition("/")[2]
    fits = base != name and any(
        os.path.basename(found) == base for found in walk_files(str(candidates[0]))
    )
    return candidates[0], fits


def _unique_ends(names: Sequence[str]) -> dict[str, str | None]:
    """Return the path that ends so for each end of a path, or None if there are several."""
    ends: dict[str, str | None] = {}
    for name in names:
        parts = Path(name).parts
        for i in range(len(parts)):
            end = "/".join(parts[i:])
            ends[end] = name if ends.setdefault(end, name) == name else None
    return ends


def _found(name: str, ends: dict[str, str | None]) -> str:
    """Return the file that a path stands for, or the path."""
    parts = name.replace("\\", "/").split("/")
    for i in range(len(parts)):
        found = ends.get("/".join(parts[i:]))
        if found is not None:
            return found
    return name
