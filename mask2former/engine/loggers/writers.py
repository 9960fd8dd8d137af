"""Where a run writes its metrics: a line per period on the console, and what ``LOGGERS`` names."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import sys
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator
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
from ..run_folder import is_lost
from .trackers import Tracker, start_tracker

CSV_FILE = "metrics.csv"
# Ids of this run in trackers, so that a resumed run continues the same curves there.
IDS_FILE = "trackers.json"
_WINDOW = 20  # losses are medians over so many iterations, as in Detectron2's own writers
_ITERATION = "iteration"

Row = dict[str, Any]  # numbers by metric, or texts that were read

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
            writers.append(TensorBoardWriter(folder))
        elif name == "json":
            writers.append(JSONLinesWriter(folder / METRICS_FILE))
        elif name == "csv":
            writers.append(CSVWriter(folder / CSV_FILE))
        else:
            writers.append(TrackerWriter(name, cfg))
    return writers


class RunWriter(EventWriter, ABC):
    """A writer that is told when training begins."""

    @abstractmethod
    def start(self, iteration: int) -> None:
        """Prepare to write.

        Args:
            iteration: the first one; that of a run that is continued is not 0.

        Raises:
            OSError: what is written to cannot be used.
        """


class TensorBoardWriter(RunWriter, TensorboardXWriter):
    """Detectron2's writer, which leaves a folder alone that has taken the place of the run's.

    TensorBoard's own thread opens the file by its name again and again.

    Args:
        folder: `OUTPUT_DIR`.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self._folder = folder

    def start(self, iteration: int) -> None:
        """Open the file; importing TensorBoard takes a moment."""
        self._writer.flush()

    def write(self) -> None:
        """Write what is new, and wait until it is written."""
        if not is_lost(self._folder):
            super().write()
            self._writer.flush()


class RowWriter(RunWriter):
    """Writes each value of Detectron2's storage once, in rows of one iteration."""

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

    @abstractmethod
    def write_rows(self, rows: dict[int, Row]) -> None:
        """Write values by iteration, in ascending order."""


class FileWriter(RowWriter):
    """Appends rows to a file. Those of a resumed run replace what the file has from there on.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._replaces_from = 0
        self._started = False

    def start(self, iteration: int) -> None:
        """Note from which iteration on rows of the file are replaced."""
        # The last evaluation of a run that is continued is at its first iteration.
        self._replaces_from = iteration + 1 if iteration else 0

    def write_rows(self, rows: dict[int, Row]) -> None:
        """Append rows, or write the file anew, atomically."""
        if is_lost(self._path.parent):  # it may be another run's, and the next step ends this one
            return
        if self._started and self.fits(rows):
            with self._path.open("a", encoding="utf-8", newline="") as file:
                file.write(self.text_of(rows))
            return
        whole: dict[int, Row] = {}
        for iteration, row in (*self._earlier_rows(), *rows.items()):
            # An evaluation that is made up for adds to what training has written.
            whole.setdefault(iteration, {}).update(row)
        content = self.whole_text(whole).encode()
        self._started = False
        write_atomically(self._path, lambda file: file.write(content))
        self._started, self._replaces_from = True, sys.maxsize

    def _earlier_rows(self) -> list[tuple[int, Row]]:
        """Return the rows of the file that stay."""
        if not self._path.exists():
            return []
        text = self._path.read_text("utf-8-sig", errors="replace")
        whole = text[: text.rfind("\n") + 1]  # a killed run may have cut off the last line
        return [(i, row) for i, row in self.read(io.StringIO(whole)) if i < self._replaces_from]

    def fits(self, rows: dict[int, Row]) -> bool:
        """Tell whether rows can be appended to what this writer has written."""
        return True

    @abstractmethod
    def text_of(self, rows: dict[int, Row]) -> str:
        """Return a line per row."""

    def whole_text(self, rows: dict[int, Row]) -> str:
        """Return the text of a new file."""
        return self.text_of(rows)

    @abstractmethod
    def read(self, lines: Iterable[str]) -> Iterator[tuple[int, Row]]:
        """Yield the iterations and rows of lines, without damaged ones."""


class JSONLinesWriter(FileWriter):
    """Writes a line of JSON per iteration, as Detectron2's ``JSONWriter`` does."""

    def text_of(self, rows: dict[int, Row]) -> str:
        """Return a line per row."""
        objects = ({**row, _ITERATION: iteration} for iteration, row in rows.items())
        return "".join(json.dumps(each, sort_keys=True) + "\n" for each in objects)

    def read(self, lines: Iterable[str]) -> Iterator[tuple[int, Row]]:
        """Yield the iterations and rows of lines."""
        for line in lines:
            with contextlib.suppress(ValueError, RecursionError):
                row = json.loads(line)
                if isinstance(row, dict) and isinstance(row.get(_ITERATION), int):
                    yield row[_ITERATION], row


class CSVWriter(FileWriter):
    """Writes a table with a row per iteration and a column per metric.

    A new metric, such as that of the first evaluation, is a new column at the end. Then the file is
    written anew.
    """

    _columns: tuple[str, ...] = ()

    def fits(self, rows: dict[int, Row]) -> bool:
        """Tell whether the table has the columns of rows."""
        return all(set(self._columns).issuperset(row) for row in rows.values())

    def text_of(self, rows: dict[int, Row]) -> str:
        """Return a line per row."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        for iteration, row in rows.items():
            table.writerow([iteration, *(_cell(row.get(name, "")) for name in self._columns)])
        return text.getvalue()

    def whole_text(self, rows: dict[int, Row]) -> str:
        """Return the lines of rows below that of the columns."""
        names = (name for row in rows.values() for name in row)
        self._columns = tuple(dict.fromkeys((*self._columns, *names)))
        header = io.StringIO()
        csv.writer(header, lineterminator="\n").writerow([_ITERATION, *self._columns])
        return header.getvalue() + self.text_of(rows)

    def read(self, lines: Iterable[str]) -> Iterator[tuple[int, Row]]:
        """Yield the iterations and rows of lines below that of the columns."""
        with contextlib.suppress(csv.Error):  # of damage that makes the rest one field
            for row in csv.DictReader(lines):
                number = row.pop(_ITERATION, None) or ""
                if number.isdecimal() and None not in row:
                    yield int(number), {name: value for name, value in row.items() if value}


def _cell(value: Any) -> str:
    """Return a cell: what was read stays as it is."""
    return value if isinstance(value, str) else f"{value:.8g}"


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

    def start(self, iteration: int) -> None:
        """Connect, and continue the run of before if there is one.

        Raises:
            OSError: the tracker cannot be used.
        """
        path = Path(self._cfg.OUTPUT_DIR, IDS_FILE)
        ids: dict[str, Any] = read_json(path) if path.is_file() else {}
        known = str(ids[self._name]) if iteration and ids.get(self._name) else None
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
