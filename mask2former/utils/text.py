"""Words for messages."""

from collections.abc import Collection


def some_of(names: Collection[object], most: int = 5) -> str:
    """Return the first `most` of `names`, and how many more there are."""
    listed = ", ".join(str(name) for name, _ in zip(names, range(most), strict=False))
    more = len(names) - most
    return f"{listed} and {more} more" if more > 0 else listed
