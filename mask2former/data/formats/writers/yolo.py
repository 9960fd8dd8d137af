"""Writing YOLO segmentation; see `formats.yolo`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import yaml

from .names import require_writable
from .objects import SplitContent, Target, in_split, one_outline, outlines


def write(splits: Sequence[SplitContent], target: Target) -> None:
    """Write ``data.yaml``, ``images`` and ``labels``. Crowd regions are left out.

    Raises:
        DatasetError: the name of a class cannot be written.
    """
    names = splits[0].names
    require_writable(names, "yolo", _problem)
    # Without "path", programs take the folder of the file, and not the one that they run in.
    config: dict[str, object] = {}
    for split in splits:
        place = in_split(split.split)
        config["val" if split.split == "val" else "train"] = f"images/{place}".rstrip("/")
        for image, objects in split.images():
            path = target.copy_image(split.image_root, image["file_name"], f"images/{place}")
            size = np.array([image["width"], image["height"]], dtype=np.float64)
            lines = []
            for label, annotation in objects:
                if annotation.get("iscrowd"):
                    target.lost["crowd region"] += 1
                elif rings := outlines(annotation, image):
                    numbers = (one_outline(rings) / size).reshape(-1)
                    lines.append(" ".join([str(label), *(f"{v:.12g}" for v in numbers)]))
            text = "".join(f"{line}\n" for line in lines)
            target.file_for(path, "images", "labels", ".txt").write_text(text)
    config["names"] = dict(enumerate(names))
    target.file("data.yaml").write_text(_yaml(config), encoding="utf-8")


def _yaml(content: object) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _problem(name: str) -> str | None:
    # PyYAML writes line breaks of Unicode as they are, and reads them as spaces.
    is_kept = yaml.safe_load(_yaml(name)) == name
    return None if is_kept else "whose YAML file would change the name"
