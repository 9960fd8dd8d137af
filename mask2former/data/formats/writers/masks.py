"""Writing one mask file per object; see `formats.object_masks`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from PIL import Image

from ..object_masks import CLASS_FILE
from .objects import SplitContent, Target, in_split, mask_of


def write(splits: Sequence[SplitContent], target: Target) -> None:
    """Write ``images``, a folder of masks per image, and ``classes.txt``.

    Crowd regions are left out. Slashes in names of classes become hyphens.
    """
    names = [re.sub(r"[/\\]", "-", name) for name in splits[0].names]
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
                    inner = f"/{name}_{counts[name]:03}.png"
                    Image.fromarray(mask).save(target.file_for(path, "images", "masks", inner))
    target.file(CLASS_FILE).write_text("\n".join([*names, ""]), encoding="utf-8")
