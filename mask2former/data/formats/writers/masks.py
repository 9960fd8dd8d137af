"""Writing one mask file per object; see `formats.object_masks`."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Sequence

from PIL import Image

from ..object_masks import CLASS_FILE, class_of
from .names import line_problem, require_writable
from .objects import SplitContent, Target, in_split, mask_of

_MOST = 10_000  # objects of a class in an image
_MOST_BYTES = 255  # of the name of a file


def write(splits: Sequence[SplitContent], target: Target) -> None:
    """Write ``images``, a folder of masks per image, and ``classes.txt``.

    Crowd regions are left out.

    Raises:
        DatasetError: the name of a class cannot be written.
    """
    names = splits[0].names
    require_writable(names, "masks", lambda name: _problem(name, set(names)))
    for split in splits:
        place = in_split(split.split)
        for image, objects in split.images():
            path = target.copy_image(split.image_root, image["file_name"], f"images/{place}")
            counts: Counter[str] = Counter()
            for label, annotation in objects:
                mask = mask_of(annotation, image)
                if annotation.get("iscrowd"):
                    target.lost["crowd region"] += 1
                elif mask.any():
                    name = names[label]
                    counts[name] += 1
                    inner = f"/{_file_name(name, counts[name])}"
                    Image.fromarray(mask).save(target.file_for(path, "images", "masks", inner))
    target.file(CLASS_FILE).write_text("\n".join([*names, ""]), encoding="utf-8")


def _file_name(name: str, number: int) -> str:
    """Return the name of the mask file of an object, whose class it tells."""
    return f"{name}_{number:03}.png"


def _problem(name: str, names: Collection[str]) -> str | None:
    file_name = _file_name(name, _MOST)
    if (
        name.startswith(".")  # hidden
        or re.search(r"[/\\]", name)
        or len(os.fsencode(file_name)) > _MOST_BYTES
        or class_of(file_name, names) != name
    ):
        return "whose names of files, such as cup_001.png, cannot hold it"
    numbered = re.fullmatch(r"(.+)_[0-9]{3,}", name)
    if numbered and numbered[1] in names:
        return f"where it means an object of class {numbered[1]!r:.100}"
    return line_problem(name)
