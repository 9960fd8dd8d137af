"""A report of all problems of a data set, sorted by kind and capped in length."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from mask2former_runtime.text import one_line

from ...structures import Classes
from ...utils.size import Size

_STORED_PER_KIND = 100
_LISTED_PER_KIND = 5
_LISTED_CLASSES = 20


@dataclass(frozen=True)
class Problem:
    """One problem; its place is given as far as it is known.

    Attributes:
        kind: the heading in the report.
        is_error: whether it prevents training or evaluation; otherwise it is a warning.
        detail: what is wrong.
        file_name: the image.
        image_id: the id of the image.
        annotation_id: the annotation.
        segment_id: the segment of a panoptic annotation.
        source: the file of the annotation, and its line or object there.
    """

    kind: str
    is_error: bool
    detail: str
    file_name: str | None = None
    image_id: Any = None
    annotation_id: Any = None
    segment_id: Any = None
    source: str | None = None

    def __str__(self) -> str:
        where = [] if self.source is None else [self.source]
        if self.file_name is not None:
            where.append(f"image {self.file_name}")
        if self.image_id is not None:
            where.append(f"image id {self.image_id!r:.50}")
        if self.annotation_id is not None:
            where.append(f"annotation id {self.annotation_id!r:.50}")
        if self.segment_id is not None:
            where.append(f"segment id {self.segment_id!r:.50}")
        return one_line(f"{', '.join(where)}: {self.detail}" if where else self.detail)


@dataclass
class ImageContent:
    """What an image of a data set holds.

    Attributes:
        size: (height, width) of the upright image, or None if it is not known.
        units: category id -> number of objects, segments or pixels, without crowd regions.
        areas: of its objects, or segments of things, without crowd regions, in pixels of the image;
            empty where they are not known.
    """

    size: Size | None
    units: Counter[int] = field(default_factory=Counter)
    areas: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class StoredStatistics:
    """The values of images that are read as they are stored.

    Attributes:
        type: NumPy's name of the type of the values.
        images: from how many images the following are.
        low: least value of each channel.
        high: greatest value of each channel.
        mean: of each channel, over all pixels.
        std: standard deviation of each channel, over all pixels.
    """

    type: str
    images: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def lines(self) -> list[str]:
        """Return what a user reads: the kind, and a line per channel."""
        channels = list(zip(self.low, self.high, self.mean, self.std, strict=True))
        of = "1 image" if self.images == 1 else f"{self.images} images"
        return [
            f"images are read as they are stored: {len(channels)} x {self.type}; in {of}:",
            *(
                f"  channel {i}: {low:.6g} to {high:.6g}, mean {mean:.6g}, std {std:.6g}"
                for i, (low, high, mean, std) in enumerate(channels)
            ),
        ]


@dataclass
class Report:
    """The result of checking one data set.

    Attributes:
        source: the annotation file, or the folder of label maps.
        unit: what is counted per class: "objects", "segments" or "pixels".
        problems: up to 100 of each kind.
        counts: kind -> number of all problems of that kind.
        classes: the usable classes of the data set.
        num_images: number of images.
        num_annotations: number of annotations or segments; 0 for label maps.
        num_empty_images: number of images without objects, segments or labelled pixels.
        num_per_category: category id -> number of units, without crowd regions.
        images: file name relative to the folder of images -> content, for usable images. Label maps
            whose pixels were not read have no units.
        notes: what the check left out; lines of the summary.
        stored: how images are stored that are no pictures of 8 bits, and their statistics; or None.
    """

    source: str
    unit: str = "objects"
    problems: list[Problem] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    classes: Classes = field(default_factory=lambda: Classes((), ()))
    num_images: int = 0
    num_annotations: int = 0
    num_empty_images: int = 0
    num_per_category: Counter[int] = field(default_factory=Counter)
    images: dict[str, ImageContent] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    stored: StoredStatistics | None = None

    def add(
        self,
        kind: str,
        is_error: bool,
        detail: str,
        *,
        file_name: str | None = None,
        image_id: Any = None,
        annotation_id: Any = None,
        segment_id: Any = None,
        source: str | None = None,
    ) -> None:
        """Count a problem, and keep it unless there are many of the same kind already."""
        self.counts[kind] += 1
        if self.counts[kind] <= _STORED_PER_KIND:
            self.problems.append(
                Problem(
                    kind, is_error, detail, file_name, image_id, annotation_id, segment_id, source
                )
            )

    def prepend(self, other: Report) -> None:
        """Take over the problems of another report."""
        self.problems[:0] = other.problems
        self.counts.update(other.counts)

    @property
    def num_errors(self) -> int:
        """The number of all errors, including those that are not kept."""
        return sum(self.counts[kind] for kind in {p.kind for p in self.errors})

    @property
    def errors(self) -> list[Problem]:
        """Problems that prevent training or evaluation."""
        return [p for p in self.problems if p.is_error]

    @property
    def warnings(self) -> list[Problem]:
        """Problems that do not prevent training or evaluation."""
        return [p for p in self.problems if not p.is_error]

    def summary(self) -> str:
        """Return the number of images, and of objects, segments or pixels per class, in words."""
        counts = [
            (self.num_per_category[i], name)
            for i, name in zip(self.classes.ids, self.classes.names, strict=True)
        ]
        counts.sort(reverse=True)
        total = self.num_per_category.total()
        listed = [
            f"{name} {count / total:.1%}" if self.unit == "pixels" else f"{name} {count}"
            for count, name in counts[:_LISTED_CLASSES]
            if count
        ]
        if len(counts) > _LISTED_CLASSES:
            listed.append(f"... and {len(counts) - _LISTED_CLASSES} more")
        parts = [f"{self.num_images} images"]
        if total:
            parts[0] += f" ({self.num_empty_images} without {self.unit})"
        if self.unit != "pixels":
            records = "annotations" if self.unit == "objects" else self.unit
            parts.append(f"{self.num_annotations} {records}")
        parts.append(f"{len(self.classes)} classes")
        lines = [f"{self.source}: {', '.join(parts)}"]
        if total:
            lines.append(f"  {self.unit} per class: {', '.join(listed)}")
        without = sum(count == 0 for count, _ in counts)
        if without and total:
            lines.append(f"  classes without {self.unit}: {without}")
        lines += [f"  {line}" for line in self.stored.lines()] if self.stored else []
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(map(one_line, lines))

    def __str__(self) -> str:
        """Return the errors and then the warnings, by kind, with the first few of each."""
        lines = []
        for heading, problems in (("ERROR", self.errors), ("WARNING", self.warnings)):
            kinds: dict[str, list[Problem]] = {}
            for problem in problems:
                kinds.setdefault(problem.kind, []).append(problem)
            for kind, examples in kinds.items():
                lines.append(f"  {heading} {kind} ({self.counts[kind]}):")
                lines += [f"    {example}" for example in examples[:_LISTED_PER_KIND]]
                if self.counts[kind] > _LISTED_PER_KIND:
                    lines.append(f"    ... and {self.counts[kind] - _LISTED_PER_KIND} more")
        if not lines:
            return f"{self.source}: no problems found."
        return "\n".join([f"{self.source}:", *lines])
