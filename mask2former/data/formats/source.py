"""A folder of annotations in a known format: what recognises it, and what reads its splits."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ...formats import FORMATS
from .reading import Reading

TRAIN = ("train", "training", "Train")
VAL = ("val", "valid", "validation", "test", "Validation", "Val", "Test")
"""Names of the two splits; "test" stands for validation if nothing else does."""
WHOLE = "all"
"""The split of a folder that has no splits."""


@dataclass(frozen=True)
class Source(ABC):
    """The annotations of a folder in one format.

    Attributes:
        root: the folder.
        splits: what the format needs to know of each split: "train" and "val", one of them, or
            `WHOLE`.
    """

    name: ClassVar[str]
    """The format on the command line."""
    task: ClassVar[str] = "instance"

    root: str
    splits: Mapping[str, Any]

    @property
    def files(self) -> str:
        """The format in words."""
        return FORMATS[self.name]

    @abstractmethod
    def places(self, split: str) -> list[str]:
        """Return the files and folders of a split, for the user."""

    @abstractmethod
    def image_root(self, split: str) -> str:
        """Return the folder that names of images are relative to."""


class InstanceSource(Source):
    """Annotations of objects."""

    @abstractmethod
    def read(self, split: str) -> Reading:
        """Read a split. Mistakes are in the report of the result, and none raises an exception."""


def by_split(find: Callable[[str], Any]) -> dict[str, Any]:
    """Return what `find` finds for the names of both splits or, without any, for `WHOLE`.

    Args:
        find: takes the name of a split that a folder or file may have, "" for data without splits,
            and returns what is there or None.
    """
    found = {}
    for split, names in (("train", TRAIN), ("val", VAL)):
        first = next((value for name in names if (value := find(name)) is not None), None)
        if first is not None:
            found[split] = first
    if not found and (whole := find("")) is not None:
        found[WHOLE] = whole
    return found


@functools.cache
def work_folder() -> Path:
    """Return a folder for converted files, which this process removes when it ends."""
    folder = tempfile.mkdtemp(prefix="mask2former.")
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # not a forked worker
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return Path(folder)


def subfolders(root: Path) -> Iterator[Path]:
    """Yield the folders in a folder that are not hidden, in the order of their names."""
    try:
        names = sorted(os.listdir(root))
    except OSError:
        return
    for name in names:
        if not name.startswith(".") and (root / name).is_dir():
            yield root / name
