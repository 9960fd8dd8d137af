"""Writing COCO instance JSON."""

from __future__ import annotations

from collections.abc import Sequence

from mask2former_runtime.files import write_json

from ...segmentation import area_and_box
from .objects import SplitContent, Target, in_split


def write(splits: Sequence[SplitContent], target: Target) -> None:
    """Write ``annotations/instances_SPLIT.json`` and the images; ids and crowd regions stay."""
    for split in splits:
        images, annotations = [], []
        place = f"images/{in_split(split.split)}"
        for image, objects in split.images():
            path = target.copy_image(split.image_root, image["file_name"], place)
            images.append({**image, "file_name": str(path.relative_to(place))})
            for _, annotation in objects:
                size = image["height"], image["width"]
                complete = {"iscrowd": 0, **annotation}
                if not all(complete.get(key) is not None for key in ("bbox", "area")):
                    area, box = area_and_box(complete.get("segmentation") or [], size)
                    complete |= {"area": area, "bbox": box}
                annotations.append(complete)
        content = {**split.content, "images": images, "annotations": annotations}
        name = {"all": "default"}.get(split.split, split.split)
        write_json(target.file("annotations", f"instances_{name}.json"), content)
