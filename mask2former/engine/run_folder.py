"""One training run per folder, and one process that writes to it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import IO

from mask2former_runtime.files import fcntl  # Windows does not have it: folders are not locked

from ..checkpoint.resume import newest_checkpoints, remove_unfinished

LOCK = ".lock"

logger = logging.getLogger(__name__)

# The locks of this process, by their path. Locks end with the process, however it ends.
_held: dict[Path, IO[str]] = {}
# What the folders were that this process claimed, by the paths that it was given.
_claimed: dict[Path, os.stat_result] = {}


class LostFolderError(OSError):
    """Raised when the folder of a run was deleted, moved or replaced while the run wrote to it."""


def check_run_folder(folder: Path, resume: bool) -> None:
    """Check, and change nothing, that a run can have a folder.

    Args:
        folder: `OUTPUT_DIR`.
        resume: whether the run continues from the checkpoints in the folder.

    Raises:
        ValueError: the folder holds the checkpoints of an earlier run, which would be lost.
        OSError: the folder cannot be written to.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise OSError(f"{folder} cannot be the folder of a run: {there} is a file")
    if not os.access(there, os.W_OK):
        raise OSError(f"{folder} cannot be the folder of a run: {there} cannot be written to")
    checkpoints = newest_checkpoints(folder)
    if checkpoints and not resume:
        raise ValueError(
            f"{folder} already holds a training run ({checkpoints[0].name}): add --resume to "
            f"continue it, or choose another folder, such as {folder}_2, to train anew; "
            "to replace the earlier run, delete the folder first"
        )


def claim_run_folder(folder: Path, resume: bool) -> None:
    """Create and lock the folder of a run, and remove what a killed run left unfinished there.

    Args:
        folder: `OUTPUT_DIR`.
        resume: whether the run continues from the checkpoints in the folder.

    Raises:
        ValueError: another process trains in the folder, or see `check_run_folder`.
        OSError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{folder} cannot be the folder of a run: {reason}") from error
    _lock(folder)
    _claimed[folder.absolute()] = folder.stat()
    check_run_folder(folder, resume)
    for path in remove_unfinished(folder):
        logger.info("Removed %s, which a killed run had not finished", path)


def is_lost(folder: Path) -> bool:
    """Return whether the folder that this process claimed has been deleted, moved or replaced."""
    claimed = _claimed.get(folder.absolute())
    if claimed is None:
        return False
    try:
        if not os.path.samestat(folder.stat(), claimed):
            return True
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # a disk that does not answer for a moment ends no run
        return False
    path = folder.resolve() / LOCK
    try:  # reading the file would give up the lock as it is closed
        return path in _held and not os.path.samestat(path.stat(), os.fstat(_held[path].fileno()))
    except OSError:  # another process takes the folder only by a new file
        return False


def _lock(folder: Path) -> None:
    path = folder.resolve() / LOCK
    if fcntl is None or (path in _held and not is_lost(folder)):
        return
    # Unlike those of `flock`, these locks are not inherited by data loading workers, which may
    # outlive a killed run by seconds.
    file = path.open("a+")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.seek(0)
        owner = file.read(20).strip() or "unknown"
        file.close()
        raise ValueError(
            f"process {owner} is training in {folder}: wait until it ends, or give another "
            "folder for the output"
        ) from error
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    _held[path] = file
