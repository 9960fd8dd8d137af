"""Reading pickles of weights without running code, and without trusting what they say of memory.

A pickle is a program. The unpickler here knows a closed list of names, and arrays and tensors are
rebuilt from a plain numeric type, a shape and exactly as many bytes as these need. It also reads
what `torch.save` writes, zipped or in its older form, whose tensors lie beside a pickle.
"""

from __future__ import annotations

import collections
import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from torch import Tensor

from .rebuild import ALLOWED, RebuiltArray, RebuiltDtype, check_key, storage_of

_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
# Bytes that a file may turn into, for each of its own. Weights hardly compress.
_MOST_GROWTH = 10
_SMALL = 2**20

# Returns the storage of a key, which has this many bytes.
_FindStorage = Callable[[str, int], torch.UntypedStorage]


def read_pickle(file: BinaryIO, size: int) -> Any:
    """Read a pickle, of Python 2 too, that holds only tensors, arrays and plain containers.

    Args:
        file: the pickle.
        size: the length of the file in bytes.

    Raises:
        Exception: of any kind, if the pickle is damaged or asks for anything else.
    """
    return _WeightsUnpickler(file, size).load()


def is_zip(file: BinaryIO) -> bool:
    """Return whether a file begins as a zip archive does, and go back to its beginning."""
    begins = file.read(4) == b"PK\x03\x04"
    file.seek(0)
    return begins


def read_archive(file: BinaryIO, size: int) -> Any:
    """Read what `torch.save` wrote, onto the CPU.

    Args:
        file: the file, at its beginning.
        size: its length in bytes.

    Raises:
        Exception: of any kind, if the file is damaged or asks for anything but plain weights.
    """
    return _read_zip(file, size) if is_zip(file) else _read_legacy(file, size)


def _read_zip(file: BinaryIO, size: int) -> Any:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if sum(entry.file_size for entry in entries.values()) > _MOST_GROWTH * size + _SMALL:
            raise pickle.UnpicklingError("it unpacks to far more than its own size")
        folders = {name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")}
        if len(folders) != 1:
            raise pickle.UnpicklingError("it is a zip archive without one data.pkl")
        folder = folders.pop()
        if f"{folder}constants.pkl" in entries:
            raise pickle.UnpicklingError("it is a program of TorchScript, not weights")
        order = f"{folder}byteorder"
        if order in entries and archive.read(order) != b"little":
            raise pickle.UnpicklingError("its numbers are not little-endian")
        storages: dict[str, torch.UntypedStorage] = {}

        def find(key: str, length: int) -> torch.UntypedStorage:
            name = f"{folder}data/{key}"
            if name not in entries or entries[name].file_size != length:
                raise pickle.UnpicklingError(f"{name} does not have the length that is stated")
            if key not in storages:
                storages[key] = storage_of(archive.read(name))
            return storages[key]

        content = archive.read(f"{folder}data.pkl")
        return _WeightsUnpickler(io.BytesIO(content), size, find).load()


def _read_legacy(file: BinaryIO, size: int) -> Any:
    """Read the pickles of a header and of the content, and then the storages, one after another."""
    header = [read_pickle(file, size) for _ in range(3)]
    if header[:2] != [_MAGIC, _LEGACY_VERSION]:
        raise pickle.UnpicklingError("torch.save did not write it, or an early version did")
    if not isinstance(header[2], dict) or header[2].get("little_endian") is not True:
        raise pickle.UnpicklingError("its numbers are not little-endian")
    storages: dict[str, torch.UntypedStorage] = {}

    def find(key: str, length: int) -> torch.UntypedStorage:
        if key not in storages:
            if length + sum(storage.nbytes() for storage in storages.values()) > size:
                raise pickle.UnpicklingError("its tensors need more bytes than the file has")
            storages[key] = torch.UntypedStorage(length)
        if storages[key].nbytes() != length:
            raise pickle.UnpicklingError(f"two lengths are stated for the storage {key!r}")
        return storages[key]

    content = _WeightsUnpickler(file, size, find).load()
    keys = read_pickle(file, size)
    if not isinstance(keys, list) or len(keys) != len(storages) or set(keys) != set(storages):
        raise pickle.UnpicklingError("it does not list the storages of its tensors")
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))  # elements, of 1 to 16 bytes each
        length = storages[key].nbytes()
        data = file.read(length)
        if not count <= length <= 16 * count or len(data) != length:
            raise pickle.UnpicklingError(f"the storage {key!r} is cut off or has another length")
        storages[key].copy_(storage_of(data))
    return content


def _storage_from_bytes(content: Any) -> Any:
    """Do what `torch.storage._load_from_bytes` does, without trusting the bytes."""
    if not isinstance(content, bytes):
        raise pickle.UnpicklingError("a storage is not built from bytes")
    return read_archive(io.BytesIO(content), len(content))


class _WeightsUnpickler(pickle._Unpickler):
    """Builds only tensors, arrays and plain containers.

    The one in Python, whose memo grows with the entries and not with the largest number of one.
    """

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]

    def __init__(self, file: BinaryIO, size: int, find: _FindStorage | None = None) -> None:
        super().__init__(file, encoding="latin1")  # Python 2 wrote some of the published files

        def read(count: int) -> bytes:
            if count > size:  # memory would be reserved first
                raise pickle.UnpicklingError("it is cut off")
            return file.read(count)

        self._file_read = read
        self.find_storage = find
        self.bytes_left = _MOST_GROWTH * size + _SMALL

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _storage_from_bytes
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> torch.storage.TypedStorage:
        """Return a storage of a file that `torch.save` wrote."""
        kind, dtype, key, _, count, *view = pid
        plain = kind == "storage" and isinstance(dtype, torch.dtype) and isinstance(key, str)
        if not plain or self.find_storage is None or view not in ([], [None]):
            raise pickle.UnpicklingError("a storage is not described as torch.save does")
        if type(count) is not int or count < 0:
            raise pickle.UnpicklingError(f"the storage {key!r} has no valid length")
        untyped = self.find_storage(key, count * dtype.itemsize)
        return torch.storage.TypedStorage(wrap_storage=untyped, dtype=dtype, _internal=True)

    def _set_items(self, target: Any, items: list[Any]) -> None:
        if not isinstance(target, dict):
            raise pickle.UnpicklingError(f"a {type(target).__name__} takes no items")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[check_key(key)] = value

    def load_setitem(self) -> None:
        """Add an item whose key is plain."""
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items(self.stack[-1], [key, value])

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self) -> None:
        """Add items whose keys are plain."""
        items = self.pop_mark()  # type: ignore[attr-defined]
        self._set_items(self.stack[-1], items)

    dispatch[pickle.SETITEMS[0]] = load_setitems

    def load_dict(self) -> None:
        """Build a dict of items whose keys are plain."""
        items = self.pop_mark()  # type: ignore[attr-defined]
        self.stack.append({})
        self._set_items(self.stack[-1], items)

    dispatch[pickle.DICT[0]] = load_dict

    def load_additems(self) -> None:
        """Add plain elements to a set."""
        items = self.pop_mark()  # type: ignore[attr-defined]
        if not isinstance(self.stack[-1], set):
            raise pickle.UnpicklingError("only a set takes elements")
        self.stack[-1].update(map(check_key, items))

    dispatch[pickle.ADDITEMS[0]] = load_additems

    def refuse(self) -> None:
        """Refuse what weights do not contain."""
        raise pickle.UnpicklingError("it builds objects that weights do not contain")

    for _code in (pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.OBJ, pickle.INST, pickle.FROZENSET):
        dispatch[_code[0]] = refuse

    def load_bytearray8(self) -> None:
        """Read the bytes before there is memory for them."""
        (length,) = struct.unpack("<Q", self.read(8))  # type: ignore[attr-defined]
        self.append(bytearray(self.read(length)))  # type: ignore[attr-defined]

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def load_reduce(self) -> None:
        """Call an allowed function; what all calls build is bounded by the size of the file."""
        if not isinstance(self.stack[-1], tuple):
            raise pickle.UnpicklingError("a call has no arguments")
        self._spend(*self.stack[-1])
        super().load_reduce()  # type: ignore[misc]
        if isinstance(self.stack[-1], Tensor):
            self._spend(self.stack[-1])

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_build(self) -> None:
        """Set the state of an array, a type or, for `_metadata`, a state dict."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, RebuiltArray | RebuiltDtype):
            target.set_state(state)
            self._spend(target)
        elif isinstance(target, collections.OrderedDict) and isinstance(state, dict):
            if "_metadata" in state:
                target._metadata = state["_metadata"]  # type: ignore[attr-defined]
        else:
            raise pickle.UnpicklingError(f"a {type(target).__name__} takes no state")

    dispatch[pickle.BUILD[0]] = load_build

    def _spend(self, *values: Any) -> None:
        self.bytes_left -= sum(map(_size_of, values))
        if self.bytes_left < 0:
            raise pickle.UnpicklingError("it unpacks to far more than its own size")


def _size_of(value: Any) -> int:
    """Return about how many bytes a call builds from a value."""
    if isinstance(value, np.ndarray | Tensor):
        return value.nbytes
    if isinstance(value, bytes | str):
        return len(value)
    return 64 * len(value) if isinstance(value, dict | set | list | tuple) else 0
