"""Finding which formats a folder has annotations in."""

from __future__ import annotations

from pathlib import Path

from . import labelme, object_masks, voc, yolo
from .source import Source


def sources(root: Path, only: str | None = None) -> list[Source]:
    """Return the annotations of a folder in each format that is read by converting it.

    Args:
        root: the folder.
        only: the name of a format; others are not looked for.

    Raises:
        DatasetError: there is a format whose own description, such as ``data.yaml``, is wrong.
    """
    found: list[Source] = []
    for name, module in (("yolo", yolo), ("labelme", labelme), ("masks", object_masks)):
        if only in (None, name) and (source := module.recognise(root)) is not None:
            found.append(source)
    if only in (None, "voc"):
        found += voc.recognise(root)
    return found
