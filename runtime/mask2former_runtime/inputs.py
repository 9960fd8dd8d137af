"""Which image files the user means, and where their results go."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from .image import IMAGE_SUFFIXES

# COCO's tools have 64 bits for the id of an image.
_MAX_DIGITS = 18
_JPEG = frozenset((".jfif", ".jpeg", ".jpg"))


def expand_inputs(arguments: Sequence[str]) -> list[Path]:
    """Find the image files that the arguments name, in the same order and without repetition.

    Args:
        arguments: files, folders (their images, without subfolders) and patterns such as
            `dir/*.png` or `dir/**/*.jpg`. Folders and patterns stand for the files with the suffix
            of an image format, sorted by name.

    Raises:
        ValueError: a path is empty, a folder has no image, or a pattern matches none.
    """
    found: dict[Path, Path] = {}
    for argument in arguments:
        if not argument:  # of a variable that is not set; Path("") is the current folder
            raise ValueError("the path of an image is empty")
        path = Path(os.path.expanduser(argument))
        if os.path.isdir(path):  # unlike Path.is_dir, it takes any name
            files = _images(path.iterdir())
            if not files:
                raise ValueError(f"there is no image in the folder {argument}")
        elif not os.path.exists(path) and glob.has_magic(argument):
            files = _images(map(Path, glob.iglob(str(path), recursive=True)))
            if not files:
                raise ValueError(f"the pattern {argument} matches no image")
        else:
            files = [path]  # a missing file is reported when its turn comes, like a damaged one
        for file in files:
            found.setdefault(_real(file), file)
    return list(found.values())


def _images(paths: Iterable[Path]) -> list[Path]:
    return sorted(
        path
        for path in paths
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not path.name.startswith(".")
        and os.path.isfile(path)
    )


def output_paths(inputs: Sequence[Path], output: Path) -> list[Path]:
    """Choose a different file for the picture of each input.

    Args:
        inputs: distinct files.
        output: a folder or, for one input, a file with the suffix of an image format.

    Returns:
        A path per input with the name of the input: JPEG for JPEG, PNG for all other formats.
        Inputs with the same name keep the part of their folders that differs.

    Raises:
        ValueError: several inputs go to one output file, or an output would replace an input.
    """
    if output.suffix.lower() in IMAGE_SUFFIXES and not output.is_dir():
        if len(inputs) > 1:
            raise ValueError(f"{len(inputs)} images cannot all go to {output}: name a folder")
        if Image.registered_extensions().get(output.suffix.lower()) not in Image.SAVE:
            raise ValueError(f"{output}: cannot write this format; choose .png or .jpg")
        paths = [output]
    else:
        paths = [
            output / name for name in _distinct_names([_picture_name(p) for p in inputs], inputs)
        ]
    originals = {_real(path) for path in inputs}
    for path in paths:
        if _real(path) in originals:
            raise ValueError(f"{path} would replace an input: choose another --output")
    return paths


def map_names(inputs: Sequence[Path]) -> list[str]:
    """Choose a different name of a PNG file for each input; see `output_paths`."""
    names = _distinct_names([Path(f"{path.stem}.png") for path in inputs], inputs)
    return [name.as_posix() for name in names]


def _real(path: Path) -> Path:
    """Return the path without links; links in a circle stay, unlike with Path.resolve."""
    return Path(os.path.realpath(path))


def _picture_name(path: Path) -> Path:
    return Path(path.name if path.suffix.lower() in _JPEG else f"{path.stem}.png")


def _distinct_names(names: Sequence[Path], inputs: Sequence[Path]) -> list[Path]:
    names = list(names)
    # To some file systems, "A.jpg" and "a.jpg" are the same name.
    count = Counter(str(n).casefold() for n in names)
    parents = [_real(path).parent for path in inputs]
    common = os.path.commonpath(parents) if len(count) < len(names) else ""
    for i, parent in enumerate(parents):
        if count[str(names[i]).casefold()] > 1:
            names[i] = parent.relative_to(common) / names[i]
    # The remaining equal names come from files that differ only in suffix, such as a.png and a.tif.
    taken: set[str] = set()
    for i, original in enumerate(names):
        number = 1
        while str(names[i]).casefold() in taken:
            number += 1
            names[i] = original.with_stem(f"{original.stem}-{number}")
        taken.add(str(names[i]).casefold())
    return names


def image_ids(inputs: Sequence[Path]) -> list[int]:
    """Return an `image_id` for each input, for results in COCO's format.

    COCO names files by id ("000000000139.jpg"). If all names are distinct integers of at most 18
    digits, these are the ids; otherwise the ids are the positions in the list, from 1.
    """
    stems = [path.stem for path in inputs]
    if all(stem.isascii() and stem.isdecimal() for stem in stems):
        ids = [int(stem) for stem in stems if len(stem) <= _MAX_DIGITS]
        if len(set(ids)) == len(stems):
            return ids
    return list(range(1, len(inputs) + 1))
