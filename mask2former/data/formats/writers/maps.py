"""Writing label maps: of class numbers, or colour-coded; and COCO panoptic files.

Shapes:
    H, W: height and width of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from mask2former_runtime.files import write_json
from mask2former_runtime.maps import ids_to_rgb

from ...errors import DatasetError
from ..color_tables import VOID
from ..maps import save_map
from ..voc import TABLE, VOID_COLOR, voc_color
from .names import line_problem, require_writable, table_problem, table_text
from .objects import SplitContent, Target, in_split, mask_of

_MOST_COLORS = 255


@dataclass(frozen=True)
class SplitMaps:
    """Label maps of a split.

    Attributes:
        split: "train", "val" or "all".
        names: the classes.
        image_root: folder that the names of images are relative to.
        maps: gives the name of each image and its (H, W) int32 classes, -1 for none.
    """

    split: str
    names: Sequence[str]
    image_root: str
    maps: Callable[[], Iterator[tuple[str, np.ndarray]]]


def write_label_maps(splits: Sequence[SplitMaps], target: Target) -> None:
    """Write ``images``, ``labels`` and ``classes.txt``.

    Raises:
        DatasetError: the name of a class cannot be written.
    """
    names = splits[0].names
    require_writable(names, "label-maps", line_problem)
    for split in splits:
        place = f"images/{in_split(split.split)}"
        for name, labels in split.maps():
            path = target.copy_image(split.image_root, name, place)
            save_map(target.file_for(path, "images", "labels", ".png"), labels, len(names))
    target.file("classes.txt").write_text("\n".join([*names, ""]), encoding="utf-8")


def write_color_maps(splits: Sequence[SplitMaps], target: Target) -> None:
    """Write ``images``, RGB pictures in ``labels``, and the colours in ``labelmap.txt``.

    Raises:
        DatasetError: there are more than 255 classes, or the name of one cannot be written.
    """
    names = splits[0].names
    require_writable(names, "color-maps", table_problem)
    if len(names) > _MOST_COLORS:
        raise DatasetError(f"{len(names)} classes, and the palette has {_MOST_COLORS} colours")
    palette = np.array([*(voc_color(i) for i in range(len(names))), VOID_COLOR], dtype=np.uint8)
    for split in splits:
        place = f"images/{in_split(split.split)}"
        for name, labels in split.maps():
            path = target.copy_image(split.image_root, name, place)
            picture = Image.fromarray(palette[labels])  # -1 is the last
            picture.save(target.file_for(path, "images", "labels", ".png"))
    entries = [(name, voc_color(i)) for i, name in enumerate(names)] + [(VOID[0], VOID_COLOR)]
    target.file(TABLE).write_text(table_text(entries), encoding="utf-8")


def write_panoptic(splits: Sequence[SplitContent], target: Target) -> None:
    """Write ``annotations/panoptic_SPLIT.json``, its folder of PNG files, and the images.

    Of objects that overlap, the smaller is on top; ids of segments are new.
    """
    for split in splits:
        name = {"all": "default"}.get(split.split, split.split)
        images, annotations = [], []
        for image, objects in split.images():
            place = f"images/{in_split(split.split)}"
            path = target.copy_image(split.image_root, image["file_name"], place)
            inner = path.relative_to(place)
            images.append({**image, "file_name": str(inner)})
            masks = [mask_of(annotation, image) for _, annotation in objects]
            ids = np.zeros((image["height"], image["width"]), dtype=np.int64)
            order = sorted(
                range(len(masks)),
                key=lambda i: (not objects[i][1].get("iscrowd"), -int(masks[i].sum())),
            )
            for i in order:
                ids[masks[i]] = i + 1
            segments = [_segment(ids == i + 1, i + 1, objects[i][1]) for i in order]
            hidden = sum(segment is None for segment in segments)
            target.lost["hidden object"] += hidden
            file_name = str(inner.with_suffix("")) + ".png"
            Image.fromarray(ids_to_rgb(ids)).save(target.file(f"panoptic_{name}", file_name))
            annotations.append(
                {
                    "image_id": image["id"],
                    "file_name": file_name,
                    "segments_info": [s for s in segments if s is not None],
                }
            )
        categories = [{"isthing": 1, **category} for category in split.content["categories"]]
        content = {"images": images, "annotations": annotations, "categories": categories}
        write_json(target.file("annotations", f"panoptic_{name}.json"), content)


def _segment(mask: np.ndarray, number: int, annotation: Mapping[str, Any]) -> dict | None:
    if not mask.any():
        return None
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    x, y = int(columns[0]), int(rows[0])
    return {
        "id": number,
        "category_id": annotation["category_id"],
        "iscrowd": int(annotation.get("iscrowd", 0)),
        "area": int(mask.sum()),
        "bbox": [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1],
    }
