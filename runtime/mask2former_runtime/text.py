"""Parts of messages."""

from collections.abc import Collection


def some_of(names: Collection[object], most: int = 5) -> str:
    """Return a list of the first `most` names, and the number of further ones."""
    first = [one_line(str(name), 300) for name, _ in zip(names, range(most), strict=False)]
    listed = ", ".join(first)
    more = len(names) - most
    return f"{listed} and {more} more" if more > 0 else listed


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun, such as "1 image" or "3 images"."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def one_line(text: str, most: int = 800) -> str:
    """Return a text of unknown origin without what does not print, cut to `most` characters."""
    printable = "".join(c if c.isprintable() else " " for c in text[: most + 1])
    return printable if len(text) <= most else f"{printable[: most - 3]}..."


def clock(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds, such as "0:01:30"."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
