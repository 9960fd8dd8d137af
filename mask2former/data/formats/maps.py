"""Label maps in another form, rewritten as those that training reads: class numbers.

Shapes:
    H, W: height and width of a label map.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from mask2former_runtime.files import write_json

from ..checks.image_files import map_files
from ..checks.report import Report
from ..errors import DatasetError
from .source import Source


@dataclass(frozen=True)
class MapPair:
    """An image and its label map.

    Attributes:
        image: path relative to the folder of images.
        path: the label map.
        source: what names the pair, for messages.
        problem: why it cannot be used, or None.
    """

    image: str
    path: str
    source: str
    problem: str | None = None


class MapSource(Source):
    """Label maps of a folder in another form."""

    task: ClassVar[str] = "semantic"

    @abstractmethod
    def class_names(self) -> list[str]:
        """Return the names of the classes.

        Raises:
            DatasetError: they cannot be found.
        """

    @abstractmethod
    def pairs(self, split: str) -> Iterator[MapPair]:
        """Yield the images of a split with their maps."""

    @abstractmethod
    def decode(self, path: str) -> np.ndarray:
        """Return the (H, W) int32 classes of a map, -1 for none.

        Raises:
            DatasetError: it cannot be read, or has something that is no class.
        """


def void_label(num_classes: int) -> int:
    """Return the label of pixels without a class in the maps of `write_maps`."""
    return 255 if num_classes < 256 else 65535


def save_map(path: Path, labels: np.ndarray, num_classes: int) -> None:
    """Write the (H, W) classes of pixels, -1 for none, as a PNG of 8 or 16 bits."""
    void = void_label(num_classes)
    kind = np.uint8 if void == 255 else np.uint16
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.where(labels < 0, void, labels).astype(kind)).save(path)


def write_maps(source: MapSource, split: str, folder: Path, report: Report) -> None:
    """Write the label maps of a split into ``labels`` and links to the images into ``images``.

    Mistakes are added to the report, and their files left out.
    """
    names = source.class_names()
    image_root = Path(source.image_root(split)).absolute()

    def convert(pair: MapPair) -> str | None:
        if pair.problem is not None:
            return pair.problem
        stem = os.path.splitext(pair.image)[0]
        try:
            save_map(folder / "labels" / f"{stem}.png", source.decode(pair.path), len(names))
        except DatasetError as error:
            return str(error)
        link = folder / "images" / pair.image
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(image_root / pair.image)
        return None

    for name in ("labels", "images"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_json(folder / "classes.json", names)
    pairs = list(source.pairs(split))
    for pair, problem in zip(pairs, map_files(convert, pairs, "Reading label maps"), strict=True):
        if problem is not None:
            report.add("label map cannot be used", True, problem, source=pair.source)
