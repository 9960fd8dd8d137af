"""The parts of a report, and the page that shows them."""

from __future__ import annotations

import base64
import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, ClassVar

import numpy as np
from markupsafe import Markup
from PIL import Image

from mask2former_runtime.text import one_line

_LONGEST_NAME = 60
_LONGEST_TEXT = 2000
_NOTHING = "\N{EN DASH}"
_MOST_CLASSES = 24  # of a confusion matrix that can still be read


@dataclass(frozen=True)
class Tiles:
    """The most important numbers, large.

    Attributes:
        items: name and value, as text.
    """

    kind: ClassVar[str] = "tiles"
    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        headers: titles of the columns.
        rows: cells; numbers are shown with `digits` decimals, and NaN as a dash.
        bars: columns whose numbers have a bar, and the value of the longest one.
        caption: what the table shows.
        note: text below it.
        digits: decimals of the numbers that are not integers.
        folded: show it only when the reader opens it.
    """

    kind: ClassVar[str] = "table"
    headers: Sequence[str]
    rows: Sequence[Sequence[Any]]
    bars: dict[int, float] = field(default_factory=dict)
    caption: str = ""
    note: str = ""
    digits: int = 1
    folded: bool = False

    def text(self, cell: Any) -> str:
        """Return a cell as it is shown."""
        if isinstance(cell, str):
            return cell
        if isinstance(cell, int | np.integer):
            return f"{int(cell):,}"
        return _NOTHING if math.isnan(cell) else f"{cell:,.{self.digits}f}"

    def is_number(self, cell: Any) -> bool:
        """Return whether a cell is a number."""
        return not isinstance(cell, str)

    def share(self, column: int, cell: Any) -> float | None:
        """Return the length of the bar of a cell, 0 to 1, or None without a bar."""
        if column not in self.bars or isinstance(cell, str) or math.isnan(cell):
            return None
        return min(1.0, max(0.0, cell / self.bars[column])) if self.bars[column] > 0 else 0.0


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        title: its heading.
        svg: the drawing.
        names: names of the lines, in the order of their colours, for the legend.
        note: text below it.
    """

    kind: ClassVar[str] = "chart"
    title: str
    svg: Markup
    names: Sequence[str] = ()
    note: str = ""


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix: true classes in rows, predicted ones in columns.

    Attributes:
        rows: names of the rows.
        columns: names of the columns.
        counts: (rows, columns) numbers.
        shares: (rows, columns) parts of the row, in [0, 1], NaN for an empty row; they colour the
            cells.
        title: its heading.
        note: text below it.
        percent: show the shares, and the counts under the pointer, instead of the counts.
    """

    kind: ClassVar[str] = "matrix"
    rows: Sequence[str]
    columns: Sequence[str]
    counts: np.ndarray
    shares: np.ndarray
    title: str
    note: str = ""
    percent: bool = False

    def text(self, i: int, j: int) -> str:
        """Return a cell as it is shown."""
        if self.percent:
            share = self.shares[i, j]
            return "" if math.isnan(share) or share < 0.0005 else f"{100 * share:.1f}"
        return f"{self.counts[i, j]:,}" if self.counts[i, j] else ""

    def heat(self, i: int, j: int) -> int:
        """Return how strongly a cell is coloured, 0 to 100."""
        share = self.shares[i, j]
        return 0 if math.isnan(share) else round(100 * share)


@dataclass(frozen=True)
class Picture:
    """A picture inside the page.

    Attributes:
        jpeg: its bytes.
        size: (width, height) in pixels.
        caption: text below it.
    """

    jpeg: bytes
    size: tuple[int, int]
    caption: str

    @classmethod
    def of(cls, image: Image.Image, caption: str, longest: int) -> Picture:
        """Compress an image, at most `longest` pixels wide and high.

        Its size in bytes is at most a quarter of a byte per pixel of the largest such square, which
        noisy images reach by a lower quality and then by fewer pixels.
        """
        image = image.convert("RGB")
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        for quality in itertools.chain((85, 70, 55), itertools.repeat(40)):
            content = io.BytesIO()
            image.save(content, "JPEG", quality=quality, optimize=True)
            if content.tell() <= longest**2 / 4 or (quality == 40 and max(image.size) < 64):
                break
            if quality == 40:
                image = image.resize([max(1, side * 3 // 4) for side in image.size])
        return cls(content.getvalue(), image.size, caption)

    @property
    def url(self) -> Markup:
        """The content as an address."""
        return Markup(f"data:image/jpeg;base64,{base64.b64encode(self.jpeg).decode()}")


@dataclass(frozen=True)
class Pictures:
    """Pictures below a heading.

    Attributes:
        title: the heading.
        items: the pictures.
        note: text above them.
        small: show more of them side by side.
    """

    kind: ClassVar[str] = "pictures"
    title: str
    items: Sequence[Picture]
    note: str = ""
    small: bool = False


@dataclass(frozen=True)
class Text:
    """A paragraph, or with `code` the text of a file that opens on demand."""

    kind: ClassVar[str] = "text"
    text: str
    code: str = ""


@dataclass(frozen=True)
class Beside:
    """Blocks side by side, as far as the page is wide enough."""

    kind: ClassVar[str] = "beside"
    items: Sequence[Tiles | Table | Chart | Matrix | Pictures | Text]


Block = Tiles | Table | Chart | Matrix | Pictures | Text | Beside


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading, which its navigation names."""

    title: str
    blocks: Sequence[Block]


def render(title: str, facts: Sequence[tuple[str, str]], sections: Sequence[Section]) -> str:
    """Return the page: HTML that needs no other file.

    Args:
        title: its heading.
        facts: names and values below the heading.
        sections: its parts.
    """
    # Importing the package that trains does not cost the time to import this.
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["name"] = shown_name
    environment.filters["lines"] = lambda text: Markup("\n").join(map(_printable, text.split("\n")))
    source = files(__package__).joinpath("page.html").read_text("utf-8")
    style = Markup(files(__package__).joinpath("page.css").read_text("utf-8"))
    return environment.from_string(source).render(
        title=title, facts=facts, sections=sections, style=style
    )


def _printable(value: Any) -> Any:
    """Return plain text without what does not print; markup, which is ours, stays."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return one_line(value, _LONGEST_TEXT)
    return value


def shown_name(name: str) -> str:
    """Return a name from a file without what does not print, and shortened if it is long."""
    return one_line(name, _LONGEST_NAME)


def confusion_matrix(
    names: Sequence[str],
    confusion: np.ndarray,
    *,
    missed: str = "",
    invented: str = "",
    **options: Any,
) -> Matrix:
    """Show the classes that are confused most often.

    Args:
        names: K names.
        confusion: (K, K) numbers or, with `missed` and `invented`, (K + 1, K + 1).
        missed: title of the last column.
        invented: title of the last row.
        options: `title`, `note` and `percent` of the `Matrix`.
    """
    K = len(names)
    between = confusion[:K, :K].copy()
    between[range(K), range(K)] = 0
    shown = np.arange(K)
    if K > _MOST_CLASSES:
        mistakes = between.sum(0) + between.sum(1)
        shown = np.sort(np.argsort(-mistakes, kind="stable")[:_MOST_CLASSES])
        left_out = f"The {_MOST_CLASSES} of {K} classes that are confused most often."
        options["note"] = f"{left_out} {options.get('note', '')}".strip()
    with np.errstate(invalid="ignore"):
        shares = confusion / confusion.sum(1, keepdims=True)
    index = np.append(shown, K) if missed else shown
    shown_names = [names[int(k)] for k in shown]
    if missed:
        shares[K] = np.nan  # there is nothing that these are a part of
    return Matrix(
        [*shown_names, invented] if missed else shown_names,
        [*shown_names, missed] if missed else shown_names,
        confusion[np.ix_(index, index)],
        shares[np.ix_(index, index)],
        **options,
    )


def confusion_table(
    names: Sequence[str], confusion: np.ndarray, unit: str, most: int = 10
) -> Table:
    """List the most frequent confusions of one class with another.

    Args:
        names: K names.
        confusion: (K, K) or more numbers, true classes in rows.
        unit: what is counted.
        most: the number of lines.
    """
    K = len(names)
    there = np.argwhere(confusion[:K, :K]).tolist()
    pairs = [(int(confusion[i, j]), i, j) for i, j in there if i != j]
    pairs = sorted(pairs, key=lambda pair: (-pair[0], pair[1:]))[:most]
    rows = [
        (names[i], names[j], number, 100 * number / max(1, int(confusion[i].sum())))
        for number, i, j in pairs
    ]
    return Table(
        ("true class", "predicted as", unit, "% of the true class"),
        rows,
        {2: max((row[2] for row in rows), default=0)},
        caption="Most frequent confusions",
        note="" if rows else "No class is taken for another.",
    )
