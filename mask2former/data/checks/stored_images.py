"""Images that are no pictures of 8 bits: whether they are all of one kind, and their statistics.

Shapes:
    H, W: height and width of an image, C: channels.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from mask2former_runtime.image import ImageReadError
from mask2former_runtime.stored import StoredKind, read_stored

from .report import Report, StoredStatistics

# Statistics are of so many images at most, evenly spread over the data set.
_SAMPLE = 200


class StoredCheck:
    """Collects the kinds of the images of a data set.

    If most of them are pictures of 8 bits, so are all: of 16 bits, the upper 8 are used, and what
    cannot be shown as a picture is an error. Otherwise all must be of the most common kind, and
    they are read as they are stored.

    Args:
        report: where problems and statistics are added.
    """

    def __init__(self, report: Report):
        self.report = report
        self._files: list[tuple[str, StoredKind, dict[str, Any]]] = []

    def add(self, path: str, kind: StoredKind | None, **where: Any) -> None:
        """Add an image that can be read; `where` is that of `Report.add`."""
        palette = StoredKind("uint8", 3, is_picture=True)
        self._files.append((path, kind or palette, where))

    def finish(self) -> None:
        """Add errors about images of another kind, and the statistics of the others."""
        kinds = Counter((k.is_picture, k.type, k.channels) for _, k, _ in self._files)
        pictures = sum(n for (is_picture, _, _), n in kinds.items() if is_picture)
        if 2 * pictures >= len(self._files):
            for _, kind, where in self._files:
                if kind.picture_problem:
                    problem = kind.picture_problem
                    self.report.add("image file cannot be read", True, problem, **where)
            return
        _, name, channels = max((k for k in kinds if not k[0]), key=lambda k: kinds[k])
        usual = StoredKind(name, channels)
        sound = []
        for path, kind, where in self._files:
            if (kind.type, kind.channels) == (name, channels):
                sound.append((path, where))
            else:
                detail = f"{kind}, and most images have {usual}"
                self.report.add("image of another kind than most", True, detail, **where)
        sample = sound[:: -(-len(sound) // _SAMPLE)]
        self.report.stored = _statistics(sample, usual, self.report)


def _statistics(
    files: list[tuple[str, dict[str, Any]]], kind: StoredKind, report: Report
) -> StoredStatistics | None:
    """Read images and return the statistics of their pixels; add those that cannot be read."""
    known = {problem.file_name for problem in report.errors}
    number, count = 0, 0
    low, high = np.full(kind.channels, np.inf), np.full(kind.channels, -np.inf)
    mean, squares = np.zeros(kind.channels), np.zeros(kind.channels)
    for path, where in files:
        try:
            values = read_stored(path, kind.type, kind.channels).reshape(-1, kind.channels)
        except ImageReadError as error:
            if where.get("file_name") not in known:
                reason = str(error).removeprefix(f"{path}: ")
                report.add("image file cannot be read", True, reason, **where)
            continue
        low, high = np.minimum(low, values.min(0)), np.maximum(high, values.max(0))
        # Sums of squares of differences from the mean are merged, which keeps their precision.
        own = values.mean(0, dtype=np.float64)
        total = count + len(values)
        squares += ((values - own) ** 2).sum(0) + (own - mean) ** 2 * count * len(values) / total
        mean += (own - mean) * len(values) / total
        number, count = number + 1, total
    if not number:
        return None
    columns = (low, high, mean, np.sqrt(squares / count))
    return StoredStatistics(kind.type, number, *(tuple(map(float, c)) for c in columns))
