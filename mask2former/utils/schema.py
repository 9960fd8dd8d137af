"""The types and ranges of values in JSON files, checked in one place before they are used."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

MOST_CLASSES = 1_000_000
_MOST_CHARACTERS = 1000

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 80


class Field(NamedTuple):
    """What a value must be, in words and as a function."""

    text: str
    holds: Callable[[Any], bool]


def check_fields(
    content: Mapping[str, Any], fields: Mapping[str, Field], where: str, error: type[ValueError]
) -> None:
    """Check the values of those keys that a JSON object has.

    Raises:
        ValueError: of the class `error`; a value is of another type or out of range. The message
            begins with `where` and names the key.
    """
    for key, field in fields.items():
        if key in content and not field.holds(content[key]):
            raise error(f"{where}: {key!r} is {shown(content[key])}; it must be {field.text}")


def shown(value: object) -> str:
    """Return a value as Python writes it, on one line and shortened."""
    return _short.repr(value)


def is_whole(value: object, low: int, high: int) -> bool:
    """Return whether a value is an integer in a range; `True` is none."""
    return type(value) is int and low <= value <= high


def whole(low: int, high: int) -> Field:
    """Return the field of integers in a range."""
    return Field(f"a whole number from {low} to {high}", lambda v: is_whole(v, low, high))


def number(low: float, high: float) -> Field:
    """Return the field of finite numbers in a range."""
    return Field(
        f"a number from {low:g} to {high:g}",
        lambda v: type(v) in (int, float) and low <= v <= high,
    )


def list_of(field: Field, count: int | None = None) -> Field:
    """Return the field of lists, of a certain length or of any."""
    return Field(
        f"a list{f' of length {count}' if count else ''}, each element {field.text}",
        lambda v: isinstance(v, list) and count in (None, len(v)) and all(map(field.holds, v)),
    )


def either(*fields: Field) -> Field:
    """Return the field of values that one of these fields has."""
    return Field(
        " or ".join(field.text for field in fields),
        lambda v: any(field.holds(v) for field in fields),
    )


FLAG = Field("true or false", lambda v: type(v) is bool)
NULL = Field("null", lambda v: v is None)
OBJECT = Field("an object of keys and values", lambda v: isinstance(v, dict))
TEXT = Field(
    f"text of up to {_MOST_CHARACTERS} characters",
    # JSON texts can hold halves of a character, and the character that ends texts in C.
    lambda v: (
        isinstance(v, str) and len(v) <= _MOST_CHARACTERS and not re.search("[\ud800-\udfff\0]", v)
    ),
)
CLASS_NAMES = Field(
    f"a list of up to {MOST_CLASSES} names",
    lambda v: isinstance(v, list) and len(v) <= MOST_CLASSES and all(map(TEXT.holds, v)),
)
COLORS = list_of(list_of(whole(0, 255), 3))
