"""Holding out a part of the training images for validation, and the file that says which."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mask2former_runtime.files import read_json, write_json
from mask2former_runtime.text import counted, some_of

from .checks.report import ImageContent
from .errors import DatasetError

SPLIT_FILE = "split.json"
# Share of the images that is held out.
_SHARE = 0.18


@dataclass(frozen=True)
class Split:
    """Which images train and which validate.

    Attributes:
        train: file names, relative to the folder of images.
        val: likewise.
        seed: what the choice was drawn with; None if a user made it.
    """

    train: tuple[str, ...]
    val: tuple[str, ...]
    seed: int | None = None

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `SPLIT_FILE` into the folder of a run."""
        content = {"seed": self.seed, "val": self.val, "train": self.train}
        write_json(Path(folder, SPLIT_FILE), content, indent=1, ensure_ascii=False)

    def summary(self) -> str:
        """Return the numbers of images in words."""
        images = counted(len(self.train) + len(self.val), "image")
        count = len(self.val)
        verb = "is" if count == 1 else "are"
        return f"{count} of {images} {verb} for validation: {SPLIT_FILE} in the folder of the run"


def draw_split(images: Mapping[str, ImageContent], seed: int) -> Split | None:
    """Hold out about a sixth of the images, at least one, with each class in both parts.

    Classes are served in turn, those in the fewest images first, as in iterative stratification
    (Sechidis et al., "On the Stratification of Multi-Label Data", 2011). The last image of a class
    is not held out.

    Args:
        images: file name -> content.
        seed: images, in the order of their names, and the seed determine the result.

    Returns:
        The split, or None for less than two images.
    """
    if len(images) < 2:
        return None
    wanted = max(1, round(_SHARE * len(images)))
    names = sorted(images)
    random.Random(seed).shuffle(names)
    classes = {name: set(images[name].units) for name in names}
    left = Counter(c for found in classes.values() for c in found)
    goal = {c: round(_SHARE * count) for c, count in left.items()}
    held: dict[str, None] = {}  # in order

    def hold(name: str) -> None:
        held[name] = None
        left.subtract(classes[name])

    def is_spare(name: str) -> bool:
        return name not in held and all(left[c] > 1 for c in classes[name])

    for c in sorted(goal, key=lambda c: (left[c], c)):
        for name in names:
            if len(held) == wanted or sum(c in classes[h] for h in held) >= goal[c]:
                break
            if c in classes[name] and is_spare(name):
                hold(name)
    # First images that are not the last of a class, then any
    for name in [*filter(is_spare, names), *names]:
        if len(held) >= wanted:
            break
        if name not in held:
            hold(name)
    return Split(tuple(sorted(set(names) - held.keys())), tuple(sorted(held)), seed)


def read_split(path: str | os.PathLike[str]) -> Split:
    """Read a file that `Split.save` or a user wrote.

    Raises:
        DatasetError: it cannot be read, or does not list images to train and to validate with.
    """
    content = read_json(path, DatasetError)
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: an object with 'train' and 'val' is needed")
    lists = {}
    for part in ("train", "val"):
        names: Any = content.get(part)
        if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
            raise DatasetError(f"{path}: {part!r} must be a list of file names")
        lists[part] = tuple(dict.fromkeys(names))
    if both := set(lists["train"]) & set(lists["val"]):
        raise DatasetError(f"{path}: both 'train' and 'val' list {some_of(sorted(both))}")
    seed = content.get("seed")
    return Split(lists["train"], lists["val"], seed if isinstance(seed, int) else None)


def check_split(split: Split, images: Collection[str], path: str | os.PathLike[str]) -> None:
    """Raise `DatasetError` if a split names images that the data does not have."""
    unknown = [name for name in (*split.train, *split.val) if name not in images]
    if unknown:
        raise DatasetError(
            f"{path} names {counted(len(unknown), 'image')} that the data does not have: "
            f"{some_of(unknown)}. Edit the file, or delete it to draw another split"
        )
