"""Which checkpoint of a training run to continue from."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mask2former_runtime.files import unfinished_files

LAST_CHECKPOINT = "last_checkpoint"
FINAL = "model_final.pth"
BEST = "model_best.pth"
_PERIODIC = re.compile(r"model_(\d{7,})\.pth")
_WRITTEN = re.compile(rf".+\.(csv|html|json|pth|yaml)|{LAST_CHECKPOINT}")


def numbered_checkpoints(folder: Path) -> dict[Path, int]:
    """Return the checkpoints that are named by their iteration, with that iteration."""
    return {
        path: int(match[1])
        for path in folder.glob("model_*.pth")
        if (match := _PERIODIC.fullmatch(path.name))
    }


def newest_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, the one to continue from first.

    This is the checkpoint that the file `last_checkpoint` names, unless a later one was written
    after that file: a run can be killed between the two. The others follow, latest first, for the
    case that a file is damaged. `FINAL` comes last, as it holds weights alone, unless
    `last_checkpoint` names it: earlier versions continued from it.

    Args:
        folder: the `OUTPUT_DIR` of the run. It need not exist.
    """
    iterations = numbered_checkpoints(folder)
    tag = folder / LAST_CHECKPOINT
    tagged = folder / tag.read_text(errors="replace").strip() if tag.is_file() else folder

    def rank(path: Path) -> float:
        """Return the iteration; a checkpoint without number follows those written before it."""
        if path in iterations:
            return iterations[path]
        if path != tagged:
            return -1
        earlier = (n for other, n in iterations.items() if _written(other) <= _written(path))
        return max(earlier, default=-1) + 0.5

    found = {*iterations, *(path for path in [folder / FINAL] if path.is_file())}
    if os.path.isfile(tagged):  # unlike `Path.is_file`, false for any impossible name
        found.add(tagged)
    ordered = sorted(found, key=rank, reverse=True)
    if tagged in ordered:
        later = [p for p in ordered if rank(p) > rank(tagged) and _written(p) > _written(tag)]
        first = [*later, tagged]
        ordered = [*first, *(path for path in ordered if path not in first)]
    return ordered


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns


def remove_unfinished(folder: Path) -> list[Path]:
    """Delete the temporary files of a killed run; no other process may write to the folder."""
    unfinished = unfinished_files(folder, _WRITTEN)
    for path in unfinished:
        path.unlink()
    return unfinished
