"""Tables of colours and classes, and the labels of pixels that they give.

A table is one of

- ``labelmap.txt`` of CVAT: lines ``name:red,green,blue:parts:actions``, and comments with ``#``,
- CSV with the columns name, r, g, b, in this order or as a first line says, as ``class_dict.csv``,
- lines ``red green blue name``, as in ``label_colors.txt`` of CamVid,
- JSON: ``{"name": [red, green, blue], ...}``, or a list of ``{"name": ..., "color": [...]}``.

Shapes:
    H, W: height and width of a label map.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mask2former_runtime.text import counted

from ...structures import Color
from ...utils.schema import shown
from ..checks.image_files import count_values
from ..coco_format import is_color, is_text
from ..errors import DatasetError
from ..files import read_text
from ..image import open_image
from .reading import MOST_CLASSES, require_names

TABLE_FILES = (
    "labelmap.txt", "class_dict.csv", "label_colors.txt", "colors.json", "colors.csv",
    "classes.csv", "class_dict_seg.csv", "classes.json", "classes.txt",
)  # fmt: skip
"""Names of files that may be tables, in a folder of colour-coded label maps."""
VOID = ("void", "unlabeled", "unlabelled", "ignore", "__ignore__", "__void__")
"""Names of no class, in lower case: pixels of their colours are ignored."""

_COLUMNS = re.compile(r"[\w ]+(,\s*(r|g|b|red|green|blue)\s*){3}(,.*)?", re.IGNORECASE)
_MODES = ("RGB", "RGBA", "P", "L", "1")


@dataclass(frozen=True)
class ColorTable:
    """Colours and their classes.

    Attributes:
        names: the classes, without those of `VOID`.
        colors: the colours.
        labels: the class of each colour, or -1 for no class.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    labels: tuple[int, ...]

    def look_up(self, codes: np.ndarray) -> np.ndarray:
        """Return the (H, W) int32 labels of colours that `read_codes` returns.

        Pixels without a class are -1, and those of another colour -2.
        """
        own = np.array([code_of(color) for color in self.colors], dtype=np.int64)
        order = np.argsort(own, kind="stable")
        own, labels = own[order], np.array(self.labels, dtype=np.int32)[order]
        place = np.searchsorted(own, codes).clip(max=len(own) - 1)
        return np.where(own[place] == codes, labels[place], -2).astype(np.int32)


def code_of(color: Sequence[int]) -> int:
    """Return the number of a colour, as `read_codes` has it."""
    return int(color[0]) << 16 | int(color[1]) << 8 | int(color[2])


def color_of(code: int) -> Color:
    """Return red, green and blue of a colour of `read_codes`."""
    return code >> 16 & 255, code >> 8 & 255, code & 255


def read_codes(path: str) -> np.ndarray:
    """Read the colours of a label map.

    Returns:
        (H, W) int32, 65536 red + 256 green + blue.

    Raises:
        DatasetError: it cannot be read, or its pixels are no colours of 8 bits.
    """
    with open_image(path, DatasetError) as image:
        if image.mode not in _MODES:
            raise DatasetError(f"{path}: its pixels are {image.mode}; colours of 8 bits are needed")
        rgb = np.asarray(image.convert("RGB")).astype(np.int32)
    return rgb[:, :, 0] << 16 | rgb[:, :, 1] << 8 | rgb[:, :, 2]


def first_of_color(codes: np.ndarray, code: int) -> tuple[int, int]:
    """Return x and y of the first pixel of a colour."""
    y, x = np.argwhere(codes == code)[0]
    return int(x), int(y)


def counts_of(codes: np.ndarray) -> dict[int, int]:
    """Return the number of pixels of each colour."""
    values, counts = count_values(codes)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def table_of(entries: Sequence[tuple[str, Color]], where: str) -> ColorTable:
    """Return the table of names and colours. A class may have several colours.

    Raises:
        DatasetError: a colour has two classes, or there is no class.
    """
    names: dict[str, int] = {}
    labels: dict[Color, int] = {}
    owners: dict[Color, str] = {}
    for name, color in entries:
        label = -1 if name.strip().lower() in VOID else names.setdefault(name, len(names))
        if labels.setdefault(color, label) != label:
            raise DatasetError(f"{where}: {owners[color]!r:.100} and {name!r:.100} have the same "
                               f"colour, {color}")  # fmt: skip
        owners[color] = name
    require_names(list(names), where)
    return ColorTable(tuple(names), tuple(labels), tuple(labels.values()))


def find_table(root: Path) -> Path | None:
    """Return the file in a folder that is a table of colours, or None."""
    for name in TABLE_FILES:
        path = root / name
        if path.is_file() and _looks_like_a_table(path):
            return path
    return None


def _looks_like_a_table(path: Path) -> bool:
    if path.name in ("labelmap.txt", "class_dict.csv", "label_colors.txt", "colors.json"):
        return True
    try:
        return bool(read_table(path).names)
    except DatasetError:
        return False


def read_table(path: str | Path) -> ColorTable:
    """Read a table of colours; the forms are at the top of this module.

    Raises:
        DatasetError: the file cannot be read or is none; the message names the line or the entry.
    """
    return table_in(read_text(str(path), "colours of classes"), path)


def table_in(text: str, path: str | Path) -> ColorTable:
    """Return the table of colours in the text of a file; see `read_table`."""
    text = text.strip()
    if text.startswith(("{", "[")):
        return table_of(_json_entries(text, str(path)), str(path))
    lines = [
        (number, line.strip())
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip() and not line.strip().startswith("#")
    ]
    entries: list[tuple[str, tuple[int, int, int]]] = []
    for number, line in lines:
        entry = _entry(line)
        if number == lines[0][0] and _COLUMNS.fullmatch(line):
            continue
        if entry is None or not is_text(entry[0]):
            raise DatasetError(
                f"{path}, line {number}: {shown(line)} is not the colour of a class, such as "
                "'name:red,green,blue::', 'name,red,green,blue' or 'red green blue name'"
            )
        if not is_color(entry[1]):
            raise DatasetError(
                f"{path}, line {number}: the colour of {shown(entry[0])} is {entry[1]}; three "
                "numbers from 0 to 255 are needed"
            )
        entries.append(entry)
    if not 0 < len(entries) <= MOST_CLASSES:
        raise DatasetError(f"{path}: it has {counted(len(entries), 'colour')}")
    return table_of([(name, (r, g, b)) for name, (r, g, b) in entries], str(path))


_NUMBER = r"([0-9]{1,9})"


def _entry(line: str) -> tuple[str, tuple[int, int, int]] | None:
    """Return the name and the colour in a line, or None."""
    if match := re.fullmatch(rf"(.+?):\s*{_NUMBER}\s*,\s*{_NUMBER}\s*,\s*{_NUMBER}\s*(:.*)?", line):
        name, r, g, b, _ = match.groups()
    elif match := re.fullmatch(rf"{_NUMBER}[\s,]+{_NUMBER}[\s,]+{_NUMBER}[\s,]+(.+)", line):
        r, g, b, name = match.groups()
    else:
        try:
            cells = [cell.strip() for cell in next(csv.reader(io.StringIO(line)), [])]
        except csv.Error:
            return None
        if len(cells) < 4 or not all(re.fullmatch(_NUMBER, cell) for cell in cells[1:4]):
            return None
        name, r, g, b = cells[:4]
    return name.strip(), (int(r), int(g), int(b))


def _json_entries(text: str, path: str) -> list[tuple[str, Color]]:
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not JSON: {error}") from error
    if isinstance(content, dict):
        pairs = list(content.items())
    else:
        pairs = [
            (item.get("name"), item.get("color", item.get("colour")))
            if isinstance(item, dict)
            else (None, None)
            for item in content
        ]
    entries = []
    for number, (name, color) in enumerate(pairs):
        if not is_text(name):
            raise DatasetError(f"{path}: entry {number}: its name is {shown(name)}")
        if not is_color(color):
            raise DatasetError(
                f"{path}: entry {number}: the colour of {shown(name)} is {shown(color)}; "
                "[red, green, blue], each 0 to 255, is needed"
            )
        entries.append((name, (color[0], color[1], color[2])))
    return entries
