"""Names of classes that a format cannot hold, which its writer refuses before it writes anything.

What reads the format decides: a name must be read back as it was written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ....structures import Color
from ...checks.semantic_folders import class_names_in
from ...errors import DatasetError
from ..color_tables import VOID, table_in

NO_CLASS = "where it means pixels of no class"
NO_OBJECT = "where it means pixels of no object"


def require_writable(names: Iterable[str], to: str, problem: Callable[[str], str | None]) -> None:
    """Check that a format can hold the names of the classes.

    Args:
        names: the classes.
        to: the format, for the message.
        problem: says why it cannot hold a name, or returns None.

    Raises:
        DatasetError: it cannot hold a name.
    """
    for name in names:
        if (reason := problem(name)) is not None:
            raise DatasetError(
                f"class {name!r:.100} cannot be written as {to}, {reason}: rename it"
            )


def line_problem(name: str) -> str | None:
    """Return why a list of names, one per line, cannot hold a name, or None."""
    try:
        is_kept = class_names_in(name, "") == [name] and not name.startswith("\ufeff")
    except DatasetError:
        is_kept = False
    return None if is_kept else "whose list of classes, one per line, would change the name"


def table_text(entries: Iterable[tuple[str, Color]]) -> str:
    """Return the text of ``labelmap.txt`` for names and their colours."""
    lines = [f"{name}:{','.join(map(str, color))}::" for name, color in entries]
    return "\n".join(["# label:color_rgb:parts:actions", *lines, ""])


def table_problem(name: str) -> str | None:
    """Return why ``labelmap.txt`` cannot hold a name, or None."""
    if name.strip().lower() in VOID:
        return NO_CLASS
    try:
        is_kept = table_in(table_text([(name, (0, 0, 0))]), "").names == (name,)
    except DatasetError:
        is_kept = False
    return None if is_kept else "whose table of colours would change the name"
