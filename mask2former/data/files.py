"""Whether the files of a data set are there, and messages that say which are not."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from .errors import DatasetError


def require(path: str, what: str, preparation: str = "") -> None:
    """Raise `DatasetError` unless a file or folder is there.

    Args:
        path: the file or folder.
        what: what it holds, for the message.
        preparation: how to make it: a sentence, or nothing.
    """
    if os.path.exists(path):
        return
    sentences = [f"{path}: there is no such {what}."]
    there = os.path.dirname(os.path.abspath(path))
    while not os.path.isdir(there):
        there = os.path.dirname(there)
    if there != os.path.dirname(os.path.abspath(path)):
        sentences.append(f"The part of its path that exists is {there}.")
    if not os.path.isabs(path) and "DETECTRON2_DATASETS" not in os.environ:
        sentences.append("If the data sets are elsewhere, set DETECTRON2_DATASETS to their folder.")
    raise DatasetError(" ".join([*sentences, preparation]).strip())


def missing_files(paths: Iterable[str]) -> list[str]:
    """Return those of `paths` that are not there.

    Folders are listed instead of files asked for one by one, which on a network file system takes
    minutes for a large data set.
    """
    listings: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, file_name = os.path.split(path)
        if folder not in listings:
            there = os.path.isdir(folder or ".")
            listings[folder] = set(os.listdir(folder or ".")) if there else set()
        if file_name not in listings[folder]:
            missing.append(path)
    return missing


def walk_files(root: str) -> Iterator[str]:
    """Yield the files under `root`, relative to it, except hidden ones."""
    for folder, subfolders, files in os.walk(root, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        relative = os.path.relpath(folder, root)
        for name in files:
            if not name.startswith("."):
                yield name if relative == "." else os.path.join(relative, name)
