"""A report of everything that is wrong with a data set, sorted by kind and capped in length."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ...structures import Classes

_STORED_PER_KIND = 100
_LISTED_PER_KIND = 5
_LISTED_CLASSES = 20


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        kind: the heading it is listed under.
        is_error: whether training or evaluation cannot go on; otherwise it is a warning.
        detail: what is wrong here.
        file_name: the image, where there is one.
        image_id: its id.
        annotation_id: the annotation, where there is one.
        segment_id: the segment of a panoptic annotation, where there is one.
    """

    kind: str
    is_error: bool
    detail: str
    file_name: str | None = None
    image_id: Any = None
    annotation_id: Any = None
    segment_id: Any = None

    def __str__(self) -> str:
        where = []
        if self.file_name is not None:
            where.append(f"image {self.file_name}")
        if self.image_id is not None:
            where.append(f"image id {self.image_id!r:.50}")
        if self.annotation_id is not None:
            where.append(f"annotation id {self.annotation_id!r:.50}")
        if self.segment_id is not None:
            where.append(f"segment id {self.segment_id!r:.50}")
        return f"{', '.join(where)}: {self.detail}" if where else self.detail


@dataclass
class Report:
    """What the check of one data set found.

    Attributes:
        source: the annotation file, or the folder of label maps.
        unit: what is counted for each class: "objects", "segments" or "pixels".
        problems: up to 100 of each kind.
        counts: kind -> number of all problems of that kind.
        classes: those of the data set that are usable.
        num_images: images in the data set.
        num_annotations: annotations, or segments; 0 for label maps.
        num_empty_images: images without objects, segments or labelled pixels.
        num_per_category: category id -> units; crowd regions are not counted.
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
    ) -> None:
        """Count a problem and keep it unless there are many of its kind already."""
        self.counts[kind] += 1
        if self.counts[kind] <= _STORED_PER_KIND:
            self.problems.append(
                Problem(kind, is_error, detail, file_name, image_id, annotation_id, segment_id)
            )

    @property
    def num_errors(self) -> int:
        """Number of all errors, those that are not stored included."""
        return sum(self.counts[kind] for kind in {p.kind for p in self.errors})

    @property
    def errors(self) -> list[Problem]:
        """Problems that must be solved first."""
        return [p for p in self.problems if p.is_error]

    @property
    def warnings(self) -> list[Problem]:
        """Problems that training and evaluation can live with."""
        return [p for p in self.problems if not p.is_error]

    def summary(self) -> str:
        """Return images and what they show of each class in a few lines."""
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
        return "\n".join(lines)

    def __str__(self) -> str:
        """Return errors, then warnings, by kind, with the first few of each."""
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
