"""Run the preparations: convert many independent files with several processes."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mask2former_runtime.files import write_atomically, write_json

from ...utils.progress import with_progress
from ..checks.report import Report
from ..errors import DatasetError

# Increase it when the content of journals changes.
_JOURNAL_VERSION = 1
# Files that one process takes at a time.
_CHUNK = 4


class Job(ABC):
    """A task that makes one folder of PNG files, one JSON file, or both.

    A job refers to its inputs by name. The files of different names do not depend on each other.
    """

    title: str
    """For progress bars and messages."""
    output_folder: Path | None = None
    """Folder with one PNG file per name, if the job makes any."""
    output_json: Path | None = None
    """File written when all names are done, if the job makes one."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names to convert, in the order of the output.

        Raises:
            DatasetError: inputs are missing; the message says which, and where to get them.
        """

    @abstractmethod
    def convert(self, name: str) -> Any:
        """Write the PNG file of `name` and return its part of the JSON file, in any process.

        Raises:
            DatasetError: the inputs of this name are unusable.
        """

    @abstractmethod
    def check(self) -> Report:
        """Check the outputs against the images."""

    def content(self, names: Sequence[str], parts: Sequence[Any]) -> Any:
        """Return the content of the JSON file, given what `convert` returned for each name."""
        raise NotImplementedError

    def png(self, name: str) -> Path:
        """Return the path of the PNG file of `name`."""
        assert self.output_folder is not None
        return self.output_folder / f"{name}.png"

    def save_png(self, name: str, pixels: np.ndarray) -> None:
        """Write the PNG file of `name`; it appears only once it is complete."""
        image = Image.fromarray(pixels)
        write_atomically(self.png(name), lambda file: image.save(file, format="png"))


def run(
    job: Job, *, workers: int = 1, overwrite: bool = False, check: bool = True, quiet: bool = False
) -> int:
    """Run a job, or the rest of it.

    Existing files are kept. Files get their names only when they are complete, so an interrupted
    run leaves no half-written ones.

    Args:
        job: the job.
        workers: number of processes.
        overwrite: replace existing files.
        check: at the end, read all outputs and compare them with the images.
        quiet: show no progress bar and print nothing.

    Returns:
        How many names this run converted.

    Raises:
        DatasetError: inputs or outputs are unusable; the message lists them.
        ValueError: `workers` is less than 1.
    """
    if workers < 1:
        raise ValueError(f"workers={workers}: must be at least 1")
    names = job.names()
    if job.output_folder is not None:
        job.output_folder.mkdir(parents=True, exist_ok=True)
    journal = None if job.output_json is None else _Journal(job.output_json, job.title)
    if overwrite and journal is not None:
        journal.remove()
    done = {} if overwrite else _finished(job, names, journal)
    rest = [name for name in names if name not in done]
    if rest or (journal is not None and not _exists(job.output_json)):
        _convert_all(job, rest, done, journal, workers, quiet)
        if job.output_json is not None and journal is not None:
            write_json(job.output_json, job.content(names, [done[name] for name in names]))
            journal.remove()
    _remove_leftovers(job)
    if not quiet:
        print(f"{job.title}: {len(rest)} files made, {len(names) - len(rest)} there already.")
    if check:
        _check(job, quiet)
    return len(rest)


def _finished(job: Job, names: Sequence[str], journal: _Journal | None) -> dict[str, Any]:
    """Return the names that are done already, with what an earlier run noted about them."""
    have_png = set(names)
    if job.output_folder is not None:
        files = set(os.listdir(job.output_folder))
        have_png = {name for name in names if job.png(name).name in files}
    if journal is None:
        return dict.fromkeys(have_png)
    if _exists(job.output_json) and len(have_png) == len(names):
        return dict.fromkeys(names)
    return {name: part for name, part in journal.read().items() if name in have_png}


def _exists(path: Path | None) -> bool:
    return path is not None and path.exists()


def _convert_all(
    job: Job,
    names: Sequence[str],
    done: dict[str, Any],
    journal: _Journal | None,
    workers: int,
    quiet: bool,
) -> None:
    """Convert `names`, adding to `done`. Unusable inputs are listed when the others are done."""
    problems = []
    total = len(names) + len(done)
    with (
        with_progress(
            description=job.title, total=total, initial=len(done), unit="files", quiet=quiet
        ) as bar,
        contextlib.ExitStack() as stack,
    ):
        note = None if journal is None else stack.enter_context(journal.writing(done))
        for name, part, problem in _results(job, names, workers):
            bar.update()
            if problem is not None:
                problems.append(problem)
                continue
            done[name] = part
            if note is not None:
                note(name, part)
    if problems:
        raise DatasetError(
            f"{job.title}: {len(problems)} of {total} files cannot be made. "
            "The other files are kept. The problems are:\n  "
            + "\n  ".join(problems[:10])
            + (f"\n  and {len(problems) - 10} more" if len(problems) > 10 else "")
        )


Result = tuple[str, Any, str | None]  # name, part of the JSON, what is wrong


def _results(job: Job, names: Sequence[str], workers: int) -> Iterator[Result]:
    """Yield what `Job.convert` returns for each of `names`, in order."""
    if workers == 1 or len(names) <= _CHUNK:
        for name in names:
            yield _convert(job, name)
        return
    # A forked process has already imported all modules, which takes seconds otherwise.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    pool = ProcessPoolExecutor(
        min(workers, len(names)), multiprocessing.get_context(method), _set_job, (job,)
    )
    try:
        yield from pool.map(_convert_in_worker, names, chunksize=_CHUNK)
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"{job.title}: a process was killed, perhaps because memory ran out. Finished files "
            "are kept: run the same command again, with fewer --workers."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_job: Job | None = None


def _set_job(job: Job) -> None:
    global _job
    _job = job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # only the parent handles Ctrl-C


def _convert_in_worker(name: str) -> Result:
    assert _job is not None
    return _convert(_job, name)


def _convert(job: Job, name: str) -> Result:
    try:
        return name, job.convert(name), None
    except DatasetError as error:
        return name, None, str(error)


def _remove_leftovers(job: Job) -> None:
    """Remove files that killed processes had not finished writing."""
    if job.output_folder is not None:
        for path in job.output_folder.glob(".*.png.*"):
            path.unlink()
    if job.output_json is not None:
        for path in job.output_json.parent.glob(f".{job.output_json.name}.*"):
            path.unlink()


def _check(job: Job, quiet: bool) -> None:
    """Raise `DatasetError` if the outputs have errors."""
    report = job.check()
    # In the data of users this is only a warning, but in our own outputs it is an error.
    wrong_areas = report.counts["segment area differs"]
    if report.num_errors or wrong_areas:
        raise DatasetError(
            f"{job.title}: {report.num_errors + wrong_areas} errors in what is there now. "
            f"Remove these files, or give --overwrite to make all of them again.\n{report}"
        )
    if not quiet:
        print(report.summary())


class _Journal:
    """A file beside the JSON file that holds the parts of finished names until all are done.

    Args:
        output_json: the JSON file.
        title: of the job.
    """

    def __init__(self, output_json: Path, title: str):
        self.path = output_json.with_name(f"{output_json.name}.partial")
        self.header = json.dumps({"version": _JOURNAL_VERSION, "title": title})

    def read(self) -> dict[str, Any]:
        """Return the parts by name; nothing if another version of the job wrote the file."""
        if not self.path.exists():
            return {}
        lines = self.path.read_text(encoding="utf-8").split("\n")
        if lines.pop(0) != self.header:
            return {}
        lines.pop()  # after the last line break: nothing, or a line cut off
        return dict(json.loads(line) for line in lines)

    @contextlib.contextmanager
    def writing(self, done: dict[str, Any]) -> Iterator[Any]:
        """Open the file, starting with those `done`, and yield a function that adds a name."""

        def note(name: str, part: Any) -> None:
            file.write(json.dumps([name, part]) + "\n")
            file.flush()

        old = "".join(json.dumps(item) + "\n" for item in done.items())
        text = f"{self.header}\n{old}"
        write_atomically(self.path, lambda file: file.write(text.encode()))
        with self.path.open("a", encoding="utf-8") as file:
            yield note

    def remove(self) -> None:
        """Remove the file if it exists."""
        self.path.unlink(missing_ok=True)
