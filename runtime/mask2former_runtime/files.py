"""Writing files completely or not at all, and reading JSON with clear errors."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

fcntl: ModuleType | None = None
with contextlib.suppress(ImportError):  # Windows does not have it
    import fcntl

# Of `write_atomically`.
_TEMPORARY = re.compile(r"\.(.{1,50})\.[0-9a-f]{16}", re.DOTALL)
# Of `moved_at_the_end`.
_UNFINISHED = ".unfinished."
_UNFINISHED_NAME = re.compile(re.escape(_UNFINISHED) + r"\w{8}")


class _NewFile(io.BufferedRandom):
    """A file without a number, to which Pillow would write without noticing a full disk."""

    def __init__(self, path: Path) -> None:
        self._file = io.FileIO(path, "x+")
        super().__init__(self._file)

    def fileno(self) -> int:
        """Say that there is none."""
        raise io.UnsupportedOperation("fileno")

    def sync(self) -> None:
        """Have the disk hold the content."""
        self.flush()
        os.fsync(self._file.fileno())


def write_atomically(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file in the folder of `path`, then rename it to `path`.

    The disk holds the content before the name: a power failure too leaves the old or the new file.

    Raises:
        OSError: the file cannot be written, or see `check_replaceable`.
    """
    path = Path(path)
    check_replaceable(path)
    temporary = path.with_name(f".{_shortened(path.name)}.{secrets.token_hex(8)}")
    with _NewFile(temporary) as file:
        try:
            write(file)
            file.sync()
            file.close()  # Windows renames no open file
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):  # it tries again to write what did not fit
                file.close()
            os.unlink(temporary)
            raise
    sync_folder(path.parent)


def unfinished_files(folder: Path, names: str | re.Pattern[str]) -> list[Path]:
    """Return the temporary files of `write_atomically` in a folder, left by killed processes.

    Args:
        folder: where to look.
        names: name of the file that was being written, or what the names of several match.
    """
    if isinstance(names, str):
        names = re.compile(re.escape(_shortened(names)))
    found = ((path, _TEMPORARY.fullmatch(path.name)) for path in folder.glob(".*"))
    return [path for path, match in found if match and names.fullmatch(match[1])]


def _shortened(name: str) -> str:
    """Return a name that is short enough to be a part of another."""
    return f"{Path(name).stem[:40]}{Path(name).suffix[:10]}"


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Have the disk hold the names of the files in a folder; Windows has no call for that."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def moved_at_the_end(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder, whose files move to `folder` when all are complete.

    After an error, `folder` is as before, or is not there if it was made here. What killed
    processes left in it is removed.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    remove_abandoned(folder)
    try:
        with _locked_folder(folder) as temporary:
            yield temporary
            for file in list(temporary.iterdir()):
                check_replaceable(folder / file.name)
                os.replace(file, folder / file.name)
            sync_folder(folder)
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):  # somebody else uses it
                folder.rmdir()
        raise


@contextlib.contextmanager
def _locked_folder(parent: Path) -> Iterator[Path]:
    """Yield a temporary folder that `remove_abandoned` of other processes leaves alone."""
    while True:
        with tempfile.TemporaryDirectory(
            dir=parent, prefix=_UNFINISHED, ignore_cleanup_errors=True
        ) as name:
            lock = _lock(Path(name))
            if not os.path.isdir(name):  # another process removed it before it was locked
                if lock is not None:
                    os.close(lock)
                continue
            try:
                yield Path(name)
            finally:
                if lock is not None:
                    os.close(lock)
            return


def remove_abandoned(folder: Path) -> list[Path]:
    """Remove the temporary folders of `moved_at_the_end` that killed processes left in a folder.

    Returns:
        Those that stay: of processes that run, or all where nothing can be locked, as on Windows.
    """
    stay = []
    for path in folder.glob(f"{_UNFINISHED}*"):
        if not _UNFINISHED_NAME.fullmatch(path.name):
            continue
        lock = _lock(path)
        if lock is None:
            stay.append(path)
        else:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)
    return stay


def _lock(folder: Path) -> int | None:
    """Lock a folder until its descriptor, which is returned, is closed or the process ends.

    Returns:
        None if another process has locked it, or it cannot be locked.
    """
    if fcntl is None:
        return None
    descriptor = None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if descriptor is not None:
            os.close(descriptor)
        return None
    return descriptor


def write_json(path: str | os.PathLike[str], content: Any, **options: Any) -> None:
    """Write `content` as UTF-8 JSON, atomically; `options` are those of `json.dumps`."""
    text = json.dumps(content, **options)
    write_atomically(path, lambda file: file.write(text.encode()))


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_special(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is that of a pipe, a socket or a device, which nothing here may open.

    To open a pipe waits for its other end, and a device may never end.
    """
    return os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))


def check_replaceable(path: str | os.PathLike[str]) -> None:
    """Raise `OSError` for a pipe, a socket or a device, which renaming a file onto it would delete.

    Everything directly in ``/dev`` counts as one: ``/dev/stdout`` is a link.
    """
    if is_special(path) or os.path.dirname(os.path.abspath(path)) == "/dev":
        raise OSError(f"{os.fspath(path)} is a pipe, a socket or a device: name a file")


def read_json(path: str | os.PathLike[str], error: type[ValueError] = ValueError) -> Any:
    """Read a UTF-8 JSON file.

    Args:
        path: the file.
        error: the exception to raise; its message names the file and the reason.

    Raises:
        ValueError: the file cannot be opened, is no regular file, or is not JSON.
    """
    if is_special(path):
        raise error(f"{path} cannot be read: not a regular file")
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as reason:
        raise error(f"{path} cannot be read: {reason.strerror or reason}") from reason
    except RecursionError as reason:
        raise error(f"{path} is not JSON that can be read: it is nested too deeply") from reason
    except ValueError as reason:  # JSONDecodeError and UnicodeDecodeError
        raise error(f"{path} is not JSON: {reason}") from reason
