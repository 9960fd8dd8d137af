"""Colour-coded label maps: an RGB picture per image, whose colours are classes.

Images and maps lie as label maps of numbers do: images/ and labels/ (or masks, annotations,
semantic), perhaps with folders of splits; the name of a map may end in ``_mask``, ``_label``,
``_L`` and the like. A table of colours (see `color_tables`) names the classes. Without one, each
colour that occurs is a class, named by its hexadecimal digits, and black is the background.
"""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from mask2former_runtime.image import IMAGE_SUFFIXES

from ..checks.image_files import Header, map_files, read_header
from ..errors import DatasetError
from ..files import files_by_stem
from ..label_maps import LABEL_SUFFIXES
from .color_tables import (
    ColorTable,
    color_of,
    counts_of,
    find_table,
    first_of_color,
    read_codes,
    read_table,
    table_of,
)
from .maps import MapPair, MapSource

_SUFFIXES = (*LABEL_SUFFIXES, ".bmp", ".gif")
_ENDS = re.compile(r"(_masks?|_labels?|_L|_gt|_colou?rs?|_seg|_segmentation)$", re.IGNORECASE)
_MOST_COLORS = 1000
"""Of a palette that is found by itself: photographs and JPEG files have more."""


@dataclass(frozen=True)
class ColorMapSource(MapSource):
    """A folder of colour-coded label maps; a split is the folder of images and that of maps."""

    name: ClassVar[str] = "color-maps"

    table_file: str | None = None

    def places(self, split: str) -> list[str]:
        """Return the folders, and the table of colours."""
        return [*self.splits[split], *([] if self.table_file is None else [self.table_file])]

    def image_root(self, split: str) -> str:
        """Return the folder of images."""
        return self.splits[split][0]

    def class_names(self) -> list[str]:
        """See `MapSource.class_names`."""
        return list(self.table.names)

    @functools.cached_property
    def table(self) -> ColorTable:
        """The colours of the classes.

        Raises:
            DatasetError: the file cannot be used, or there are too many colours without one.
        """
        return self._find_table() if self.table_file is None else read_table(self.table_file)

    def _find_table(self) -> ColorTable:
        """Return a class for each colour of all splits; black is the background."""
        counts: Counter[int] = Counter()
        paths = [pair.path for split in self.splits for pair in self.pairs(split)]
        for path, found in zip(paths, map_files(_colors, paths, "Finding colours"), strict=True):
            counts.update(found)
            if len(counts) > _MOST_COLORS:
                raise DatasetError(
                    f"{path}: the label maps up to this one have {len(counts)} colours: colours "
                    "were changed, by JPEG or by scaling, or these are no label maps. A table of "
                    "the colours of the classes (labelmap.txt) names the pixels that are wrong"
                )
        if not counts:
            raise DatasetError(f"{self.root}: no colour-coded label map can be read")
        entries = [
            ("background" if code == 0 else f"#{code:06x}", color_of(code))
            for code in sorted(counts)
        ]
        return table_of(entries, f"colours of {self.root}")

    def pairs(self, split: str) -> Iterator[MapPair]:
        """See `MapSource.pairs`."""
        image_folder, map_folder = self.splits[split]
        images, _ = files_by_stem(image_folder, IMAGE_SUFFIXES)
        maps = {
            (stem if stem in images else _ENDS.sub("", stem)): name
            for stem, name in files_by_stem(map_folder, _SUFFIXES)[0].items()
        }
        for stem in sorted(images.keys() | maps.keys()):
            path = os.path.join(map_folder, maps.get(stem, f"{stem}.png"))
            source = os.path.relpath(path, self.root)
            problem = None
            if stem not in images:
                problem = f"{image_folder} has no image of this name"
            elif stem not in maps:
                problem = f"the label map of {images[stem]} is missing"
            yield MapPair(images.get(stem, stem), path, source, problem)

    def decode(self, path: str) -> np.ndarray:
        """See `MapSource.decode`."""
        codes = read_codes(path)
        labels = self.table.look_up(codes)
        if (unknown := labels == -2).any():
            counts = counts_of(codes[unknown])
            code = max(counts, key=lambda c: counts[c])
            x, y = first_of_color(codes, code)
            where = os.path.basename(self.table_file or "the label maps")
            raise DatasetError(
                f"{path}: {int(unknown.sum())} pixels have {len(counts)} colours that are not in "
                f"{where}, such as {color_of(code)} at x {x}, y {y}"
            )
        return labels


def _colors(path: str) -> dict[int, int]:
    try:
        return counts_of(read_codes(path))
    except DatasetError:
        return {}  # the check reports it


def recognise(
    splits: dict[str, tuple[str, str]], root: Path, table_file: str | None = None
) -> ColorMapSource | None:
    """Return label maps if they are colour-coded, or None.

    Args:
        splits: folders of images and label maps, by split.
        root: the folder of both.
        table_file: a table of colours; by default it is looked for.
    """
    table = table_file or find_table(root)
    for _, maps in splits.values():
        for name, _ in zip(
            sorted(files_by_stem(maps, _SUFFIXES)[0].values()), range(5), strict=False
        ):
            header = read_header(os.path.join(maps, name))
            is_color = isinstance(header, Header) and (
                header.mode in ("RGB", "RGBA") or (header.mode == "P" and table is not None)
            )
            if is_color:
                return ColorMapSource(str(root), splits, None if table is None else str(table))
    return None
