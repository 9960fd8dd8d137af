"""Where a run writes its metrics: a line per period on the console, and what ``LOGGERS`` names."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import sys
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    TensorboardXWriter,
    get_event_storage,
)

from mask2former_runtime.files import read_json, write_atomically, write_json

from ...report.run_metrics import METRICS_FILE
from .trackers import Tracker, start_tracker

CSV_FILE = "metrics.csv"
# Ids of this run in trackers, so that a resumed run continues the same curves there.
IDS_FILE = "trackers.json"
_WINDOW = 20  # losses are medians over so many iterations, as in Detectron2's own writers
_ITERATION = "iteration"

Row = dict[str, float]

logger = logging.getLogger(__name__)


def build_writers(cfg: CfgNode, max_iter: int) -> list[EventWriter]:
    """Build the writers of a run, for the main process.

    Args:
        cfg: the config.
        max_iter: the end of the run, to which the time left is printed.
    """
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    writers: list[EventWriter] = [CommonMetricPrinter(max_iter)]
    for name in dict.fromkeys(cfg.LOGGERS):
        if name == "tensorboard":
            writers.append(TensorboardXWriter(str(folder)))
        elif name == "json":
            writers.append(JSONLinesWriter(folder / METRICS_FILE))
        elif name == "csv":
            writers.append(CSVWriter(folder / CSV_FILE))
        else:
            writers.append(TrackerWriter(name, cfg))
    return writers


class RowWriter(EventWriter):
    """Writes each value of Detectron2's storage once, in rows of one iteration."""

    replaces_from: int | None = None
    """The iteration from which the first rows of a run replace those that a file has."""

    def __init__(self) -> None:
        self._written = -1

    def write(self) -> None:
        """Write what is new."""
        rows: dict[int, Row] = defaultdict(dict)
        found = get_event_storage().latest_with_smoothing_hint(_WINDOW)
        for name, (value, iteration) in found.items():
            if iteration > self._written:
                rows[iteration][name] = float(value)
        if rows:
            self._written = max(rows)
            self.write_rows(dict(sorted(rows.items())))

    def first_of(self, rows: dict[int, Row]) -> int:
        """Return the iteration from which rows replace those that a file has.

        Args:
            rows: what is to be written.
        """
        first = min(rows) if self.replaces_from is None else min(self.replaces_from, *rows)
        self.replaces_from = None
        return first

    @abstractmethod
    def write_rows(self, rows: dict[int, Row]) -> None:
        """Write values by iteration, in ascending order."""


class JSONLinesWriter(RowWriter):
    """Writes a line of JSON per iteration, as Detectron2's ``JSONWriter`` does.

    A resumed run replaces the lines from its first iteration on.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._started = False

    def write_rows(self, rows: dict[int, Row]) -> None:
        """Append lines, or write the file anew."""
        lines = [json.dumps({**rows[i], _ITERATION: i}, sort_keys=True) + "\n" for i in rows]
        if self._started:
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(lines)
            return
        text = "".join([*self._lines_before(self.first_of(rows)), *lines]).encode()
        write_atomically(self._path, lambda file: file.write(text))
        self._started = True

    def _lines_before(self, iteration: int) -> Iterator[str]:
        """Yield the lines of earlier iterations; the last one of a killed run may be cut off."""
        text = self._path.read_text("utf-8", errors="replace") if self._path.exists() else ""
        for line in text.splitlines(keepends=True):
            with contextlib.suppress(ValueError, LookupError, TypeError):
                if line.endswith("\n") and json.loads(line)[_ITERATION] < iteration:
                    yield line


class CSVWriter(RowWriter):
    """Writes a table with a row per iteration and a column per metric.

    A new metric, such as that of the first evaluation, is a new column at the end. Then the file is
    written anew, atomically. A resumed run replaces the rows from its first iteration on.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._columns: list[str] = []

    def write_rows(self, rows: dict[int, Row]) -> None:
        """Append rows, or write the file anew."""
        cells = [
            {_ITERATION: str(iteration), **{name: f"{value:.8g}" for name, value in row.items()}}
            for iteration, row in rows.items()
        ]
        names = [name for row in cells for name in row]
        if self._columns and set(names) <= set(self._columns):
            with self._path.open("a", encoding="utf-8", newline="") as file:
                file.write(self._text(cells))
            return
        before = self._rows_before(self.first_of(rows))
        earlier = [name for row in before for name in row]
        self._columns = list(dict.fromkeys([*self._columns, *earlier, *names]))
        header = dict(zip(self._columns, self._columns, strict=True))
        text = self._text([header, *before, *cells]).encode()
        write_atomically(self._path, lambda file: file.write(text))

    def _text(self, cells: list[dict[str, str]]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self._columns, restval="", lineterminator="\n").writerows(cells)
        return text.getvalue()

    def _rows_before(self, iteration: int) -> list[dict[str, str]]:
        """Read the rows of earlier iterations; the last line of a killed run may be cut off."""
        if not self._path.exists():
            return []
        text = self._path.read_text("utf-8", errors="replace")
        whole = text[: text.rfind("\n") + 1].splitlines()
        rows = []
        for row in csv.DictReader(whole):
            number = row.get(_ITERATION) or ""
            if number.isdigit() and int(number) < iteration and None not in row:
                rows.append({name: value for name, value in row.items() if value is not None})
        return rows


class TrackerWriter(RowWriter):
    """Writes to a tracker of experiments.

    A tracker that fails during training is given up with a warning: the run goes on.

    Args:
        name: of the tracker.
        cfg: the config of the run, which the tracker gets.
    """

    def __init__(self, name: str, cfg: CfgNode) -> None:
        super().__init__()
        self._name = name
        self._cfg = cfg
        self._tracker: Tracker | None = None

    def start(self, resumed: bool) -> None:
        """Connect, and continue the run of before if it is resumed.

        Raises:
            OSError: the tracker cannot be used.
        """
        path = Path(self._cfg.OUTPUT_DIR, IDS_FILE)
        ids: dict[str, Any] = read_json(path) if path.is_file() else {}
        known = str(ids[self._name]) if resumed and ids.get(self._name) else None
        self._tracker = start_tracker(self._name, self._cfg, known)
        if self._tracker.run_id != known:
            write_json(path, {**ids, self._name: self._tracker.run_id})

    def write_rows(self, rows: dict[int, Row]) -> None:
        """Send rows."""
        if self._tracker is None:
            return
        try:
            for iteration, row in rows.items():
                self._tracker.log(row, iteration)
        except Exception as error:  # of the network, of the disk, of a server
            logger.warning("%s gets no more metrics of this run: %s", self._name, error)
            self._tracker = None

    def close(self) -> None:
        """Say how the run ended."""
        if self._tracker is not None:
            self._tracker.finish(failed=sys.exc_info()[1] is not None)
