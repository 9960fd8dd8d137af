"""Finding the files of a data set, with messages that name missing ones."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mask2former_runtime.files import is_special

from .errors import DatasetError

_MAX_TEXT = 1 << 24  # characters


def require(path: str, what: str, preparation: str = "") -> None:
    """Raise `DatasetError` unless a file or folder exists.

    Args:
        path: the file or folder.
        what: a description of it, for the message.
        preparation: a sentence that says how to make it, or an empty text.
    """
    if os.path.exists(path):
        return
    sentences = [f"{path}: there is no such {what}."]
    parent = existing = os.path.dirname(os.path.abspath(path))
    while not os.path.isdir(existing):
        existing = os.path.dirname(existing)
    if existing != parent:
        sentences.append(f"The part of its path that exists is {existing}.")
    if not os.path.isabs(path) and "DETECTRON2_DATASETS" not in os.environ:
        sentences.append("If the data sets are elsewhere, set DETECTRON2_DATASETS to their folder.")
    raise DatasetError(" ".join([*sentences, preparation]).strip())


def read_text(path: str, what: str) -> str:
    """Return the UTF-8 text of a file, without its byte order mark.

    Args:
        path: the file.
        what: what it holds, in the plural, for messages.

    Raises:
        DatasetError: the file cannot be read, is no text, or has over 16 million characters.
    """
    if is_special(path):
        raise DatasetError(f"{what} cannot be read: {path}: not a regular file")
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(_MAX_TEXT + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(f"{what} cannot be read: {path}: {reason}") from error
    if len(text) > _MAX_TEXT:
        raise DatasetError(f"{what} cannot be read: {path}: over {_MAX_TEXT} characters")
    return text


def missing_files(paths: Iterable[str]) -> list[str]:
    """Return the paths of files that do not exist.

    This lists folders. To ask for files one by one would take minutes for a large data set on a
    network file system.
    """
    listings: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, file_name = os.path.split(path)
        if folder not in listings:
            exists = os.path.isdir(folder or ".")
            listings[folder] = set(os.listdir(folder or ".")) if exists else set()
        if file_name not in listings[folder]:
            missing.append(path)
    return missing


def walk_files(root: str) -> Iterator[str]:
    """Yield the paths, relative to `root`, of all files under it that are not hidden.

    Links to folders are followed.

    Raises:
        DatasetError: a link leads to a folder that holds it, and so on without end.
    """
    above: dict[str, tuple[tuple[int, int], ...]] = {root: ()}
    for folder, subfolders, files in os.walk(root, followlinks=True):
        status = os.stat(folder)
        own, parents = (status.st_dev, status.st_ino), above.pop(folder)
        if own in parents:
            paths = map(str, (folder, *Path(folder).parents))
            link = next(filter(os.path.islink, paths), folder)
            raise DatasetError(f"{link} is a link to a folder that holds it: remove the link")
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        above |= {os.path.join(folder, name): (*parents, own) for name in subfolders}
        relative = os.path.relpath(folder, root)
        for name in files:
            if not name.startswith("."):
                yield name if relative == "." else os.path.join(relative, name)


def files_by_stem(
    root: str, suffixes: Sequence[str]
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Find the files under `root` whose names end in one of `suffixes`, in upper or lower case.

    Returns:
        The path of each file relative to `root`, by the same path without the suffix; and pairs of
        files that differ only in suffix. Only the first file of a pair is in the dict.
    """
    found: dict[str, str] = {}
    twins: list[tuple[str, str]] = []
    for name in walk_files(root):
        suffix = next((s for s in suffixes if name.lower().endswith(s.lower())), None)
        if suffix is None:
            continue
        first = found.setdefault(name[: -len(suffix)], name)
        if first is not name:
            twins.append((first, name))
    return found, twins
