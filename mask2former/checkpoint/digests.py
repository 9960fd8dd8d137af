"""A SHA-256 inside each file of weights that this package writes, which finds any changed bit.

`.pth` and `.pkl` files end in "sha256:" and the digits, over all bytes before. Readers of zip files
(where it is the comment of the archive) and of pickles do not mind. A `.safetensors` file has this
text in its metadata; it is over the whole file with zeros in place of the digits. Each digest is
recognised by either of two marks, so that one changed bit cannot hide it.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import BinaryIO

_MARK = "sha256:"
_DIGITS = 64
_LENGTH = len(_MARK) + _DIGITS
_END_OF_ZIP = b"PK\x05\x06"
_KEY = "mask2former_digest"
# What a file is made with, before its digest is known.
METADATA = {_KEY: _MARK + "0" * _DIGITS}


def append_digest(file: BinaryIO) -> None:
    """Add the digest at the end of a whole `.pth` or `.pkl` file that is open for both."""
    end = file.seek(0, 2)
    file.seek(max(end - 22, 0))
    if file.read(4) == _END_OF_ZIP:
        file.seek(end - 2)
        file.write(_LENGTH.to_bytes(2, "little"))  # of the comment
    text = f"{_MARK}{_sha256(file, end)}"
    file.seek(0, 2)
    file.write(text.encode())


def insert_digest(content: bytes) -> bytes:
    """Return the bytes of a `.safetensors` file, written with `METADATA`, with its digest."""
    digest = hashlib.sha256(content).hexdigest()
    return content.replace(METADATA[_KEY].encode(), f"{_MARK}{digest}".encode(), 1)


def digest_holds(file: BinaryIO, safetensors: bool) -> bool:
    """Return whether a file has the content that its digest says; true for files without one.

    Args:
        file: the file. Its position is at the beginning afterwards.
        safetensors: whether this is a `.safetensors` file.

    Raises:
        ValueError: the header of a `.safetensors` file cannot be read.
    """
    size = file.seek(0, 2)
    stated, found = _of_safetensors(file, size) if safetensors else _of_end(file, size)
    file.seek(0)
    return stated == found


def _of_end(file: BinaryIO, size: int) -> tuple[str, str]:
    """Return the digest that a file states and the one that it has; both empty if it has none."""
    file.seek(max(size - _LENGTH, 0))
    tail = file.read().decode("latin1")
    mark, digits = tail[: len(_MARK)], tail[len(_MARK) :]
    if len(tail) < _LENGTH or not (mark == _MARK or re.fullmatch("[0-9a-f]{64}", digits)):
        return "", ""
    return tail, f"{_MARK}{_sha256(file, size - _LENGTH)}"


def _of_safetensors(file: BinaryIO, size: int) -> tuple[str, str]:
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > size:
        raise ValueError("its header is longer than the file")
    header = file.read(length)
    metadata = json.loads(header).get("__metadata__")
    texts = metadata.items() if isinstance(metadata, dict) else ()
    stated = [v for k, v in texts if k == _KEY or str(v).startswith(_MARK)]
    if not stated:
        return "", ""
    text = str(stated[0])
    digest = hashlib.sha256(length.to_bytes(8, "little"))
    digest.update(header.replace(text.encode(), METADATA[_KEY].encode(), 1))
    return text, f"{_MARK}{_sha256(file, size - 8 - length, digest, 8 + length)}"


def _sha256(file: BinaryIO, count: int, digest: hashlib._Hash | None = None, start: int = 0) -> str:
    """Return the SHA-256 of `count` bytes of a file, after what `digest` has seen."""
    digest = digest or hashlib.sha256()
    file.seek(start)
    while count > 0 and (chunk := file.read(min(count, 2**20))):
        digest.update(chunk)
        count -= len(chunk)
    return digest.hexdigest()
