"""Keep some of what a model found: certain classes, the best N, no two masks of one object."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mask2former_runtime.maps import box_of
from mask2former_runtime.prediction import Prediction
from mask2former_runtime.suppression import overlap_of, without_duplicates
from mask2former_runtime.text import one_line, some_of

from ..structures import Classes


@dataclass(frozen=True)
class Selection:
    """What to keep; `build_selection` makes one from names and checks it.

    Attributes:
        classes: indices of the classes to keep; None keeps all.
        most: how many instances or panoptic segments to keep, those with the highest scores;
            None keeps all.
        overlap: of two instances of one class whose masks have a greater IoU than this, keep only
            the one with the higher score; None keeps both.
    """

    classes: frozenset[int] | None = None
    most: int | None = None
    overlap: float | None = None


def build_selection(
    task: str,
    classes: Classes,
    *,
    names: Sequence[str] | None = None,
    most: int | None = None,
    overlap: float | None = None,
) -> Selection:
    """Build a selection for the results of a task.

    Args:
        task: "instance", "panoptic" or "semantic".
        classes: the model's classes.
        names: names of the classes to keep, each alone or several separated by commas.
        most: see `Selection`; at least 1. Not for semantic maps.
        overlap: see `Selection`; 0 to 1. Only for instances.

    Raises:
        ValueError: there is no class of a name, or the task does not have what is asked for.
    """
    if most is not None and most < 1:
        raise ValueError(f"--max {most}: keep at least 1")
    if overlap is not None and not 0 <= overlap <= 1:
        raise ValueError(f"--nms {overlap}: an IoU is between 0 and 1")
    if most is not None and task == "semantic":
        raise ValueError("--max means nothing for semantic maps, which have no separate objects")
    if overlap is not None and task != "instance":
        raise ValueError(f"--nms is for instances: the regions of {task} results never overlap")
    indices = None if names is None else frozenset(class_indices(names, classes))
    return Selection(indices, most, overlap)


def class_indices(names: Iterable[str], classes: Classes) -> list[int]:
    """Return the indices of the classes with these names, in upper or lower case.

    Args:
        names: names of classes, each alone or several separated by commas.
        classes: the classes to choose from.

    Raises:
        ValueError: there is no class of a name; the message lists similar names, or all if few.
    """
    exact: dict[str, list[int]] = {}
    folded: dict[str, list[int]] = {}
    for i, name in enumerate(classes.names):  # data sets may use a name twice
        exact.setdefault(name, []).append(i)
        folded.setdefault(name.casefold(), []).append(i)

    def look_up(name: str) -> list[int] | None:
        return exact.get(name) or folded.get(name.casefold())

    found: list[int] = []
    for text in names:
        # A few data sets have commas in names.
        parts = [text] if look_up(text) else [part.strip() for part in text.split(",")]
        for part in parts:
            if not part:
                continue
            indices = look_up(part)
            if indices is None:
                raise ValueError(f"--class {one_line(part)}: {_hint(part, classes.names)}")
            found += indices
    if not found:
        raise ValueError(f"--class names no class; {_known(classes.names)}")
    return found


def _hint(name: str, known: Sequence[str]) -> str:
    spellings = {other.casefold(): other for other in known}
    similar = difflib.get_close_matches(name.casefold(), spellings, n=3)
    if similar:
        return f"no such class; did you mean {' or '.join(spellings[s] for s in similar)}?"
    return f"no such class; {_known(known)}"


def _known(names: Sequence[str]) -> str:
    return f"the model knows {some_of(names, 20)}"


def select(found: Prediction, selection: Selection) -> Prediction:
    """Return a prediction of the objects that a selection names; see `build_selection`."""
    kept = [
        i for i, c in enumerate(found.labels) if selection.classes is None or c in selection.classes
    ]
    if selection.overlap is not None:
        kept = _without_duplicates(found, kept, selection.overlap)
    if selection.most is not None:
        scores = np.nan_to_num(found.scores)
        kept = sorted(sorted(kept, key=lambda i: -scores[i])[: selection.most])
    return found[kept]


def _without_duplicates(found: Prediction, candidates: Sequence[int], overlap: float) -> list[int]:
    """Suppress duplicates by the IoU of masks, class by class; `candidates` have the best first."""
    boxes, areas, parts = [(0, 0, 0, 0)] * len(found), [0] * len(found), {}
    for i in candidates:
        mask = found.mask(i)
        left, top, right, bottom = boxes[i] = box_of(mask)
        parts[i] = mask[top:bottom, left:right].copy()
        areas[i] = int(np.count_nonzero(parts[i]))
    labels = found.labels.tolist()
    return without_duplicates(candidates, labels, boxes, areas, overlap_of(parts, boxes), overlap)
