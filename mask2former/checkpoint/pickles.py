"""Reading pickles of weights without running code, and without trusting what they say of memory.

A pickle is a program. The unpickler here knows a closed list of names, and arrays and tensors are
rebuilt from a plain numeric type, a shape and exactly as many bytes as these need.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from torch import Tensor

_DTYPES = {
    name: np.dtype(name)
    for name in ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
}
_MAX_DIMENSIONS = 32
_MAX_LENGTH = 2**40
_NDARRAY = "numpy.ndarray"  # stands for the class: nothing can be called


class _Dtype:
    """A numeric type that a pickle names."""

    def __init__(self, name: str, align: object = False, copy: object = False) -> None:
        if not isinstance(name, str) or name not in _DTYPES:
            raise pickle.UnpicklingError(f"arrays of type {str(name)[:40]!r} are not weights")
        self.dtype = _DTYPES[name]

    def set_state(self, state: Any) -> None:
        """Check that the state adds nothing to the type but the byte order of this machine."""
        plain = isinstance(state, tuple) and len(state) >= 5 and state[2:5] == (None, None, None)
        if not plain or state[1] not in ("<", "|", "="):
            raise pickle.UnpicklingError("an array has a structured or big-endian type")


class _Array(np.ndarray):
    """An array that the state in the pickle fills."""

    def set_state(self, state: Any) -> None:
        """Fill the array from (version, shape, type, order of Fortran, bytes), all checked."""
        _, shape, dtype, fortran, content = state
        content = content.encode("latin1") if isinstance(content, str) else content
        plain = _check_array(content, dtype, shape)
        super().__setstate__((1, shape, plain, bool(fortran), bytes(content)))  # type: ignore[arg-type]


def read_pickle(file: BinaryIO, allow_unsafe: bool = False) -> Any:
    """Read a pickle, of Python 2 too, that holds only tensors, arrays and plain containers.

    Args:
        file: the pickle.
        allow_unsafe: build any object that the pickle asks for. This runs its author's code.

    Raises:
        Exception: of any kind, if the pickle is damaged or asks for anything else.
    """
    # latin1: Python 2 wrote some of the published files.
    if allow_unsafe:
        return pickle.Unpickler(file, encoding="latin1").load()
    return _WeightsUnpickler(file, encoding="latin1").load()


def _check_shape(shape: Any) -> int:
    """Return the number of elements of a shape."""
    if (
        not isinstance(shape, tuple)
        or len(shape) > _MAX_DIMENSIONS
        or not all(type(length) is int and 0 <= length <= _MAX_LENGTH for length in shape)
    ):
        raise pickle.UnpicklingError("the shape of an array or tensor is invalid")
    return math.prod(shape)


def _check_array(content: Any, dtype: Any, shape: Any) -> np.dtype[Any]:
    if not isinstance(dtype, _Dtype) or not isinstance(content, bytes | bytearray):
        raise pickle.UnpicklingError("an array is not built from a numeric type and bytes")
    if len(content) != _check_shape(shape) * dtype.dtype.itemsize:
        raise pickle.UnpicklingError(
            f"an array of shape {shape} and type {dtype.dtype} has {len(content)} bytes"
        )
    return dtype.dtype


def _empty_array(kind: object, shape: object, typecode: object) -> _Array:
    return _Array(0)


def _scalar(dtype: Any, content: Any) -> np.generic:
    content = content.encode("latin1") if isinstance(content, str) else content
    return np.frombuffer(bytes(content), _check_array(content, dtype, ()))[0]


def _array_from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    plain = _check_array(content, dtype, shape)
    array = np.frombuffer(bytes(content), plain).reshape(shape, order="F" if order == "F" else "C")
    return array.copy()


def _encode(text: Any, encoding: Any) -> bytes:
    """Build bytes as Python 2 wrote them."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("bytes are encoded as text other than latin1")
    return text.encode("latin1")


def _storage_from_bytes(content: Any) -> Any:
    """Do what `torch.storage._load_from_bytes` does, without trusting the bytes."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: object) -> Tensor:
    """Rebuild a tensor that lies within its storage."""
    count = _check_shape(shape)
    _check_shape(strides)
    if not isinstance(storage, torch.storage.TypedStorage) or len(strides) != len(shape):
        raise pickle.UnpicklingError("a tensor is not built from a storage, a shape and strides")
    _check_shape((offset,))
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if count and last >= storage._size():
        raise pickle.UnpicklingError(f"a tensor of shape {shape} reaches beyond its storage")
    return torch._utils._rebuild_tensor(storage, offset, shape, strides)


def _rebuild_parameter(data: Any, *_: object) -> Tensor:
    if not isinstance(data, Tensor):
        raise pickle.UnpicklingError("a parameter is not built from a tensor")
    return data


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Dtype,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _encode,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch.storage", "_load_from_bytes"): _storage_from_bytes,
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")  # of NumPy 1 and 2
        for module, name, function in (
            ("multiarray", "_reconstruct", _empty_array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _array_from_buffer),
        )
    },
}


class _WeightsUnpickler(pickle._Unpickler):
    """Builds only tensors, arrays and plain containers.

    The one in Python, whose memo grows with the entries and not with the largest number of one.
    """

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
        return _ALLOWED[module, name]

    def load_build(self) -> None:
        """Set the state of an array, a type or, for `_metadata`, a state dict."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, _Array | _Dtype):
            target.set_state(state)
        elif isinstance(target, collections.OrderedDict) and isinstance(state, dict):
            if "_metadata" in state:
                target._metadata = state["_metadata"]  # type: ignore[attr-defined]
        else:
            raise pickle.UnpicklingError(f"a {type(target).__name__} takes no state")

    dispatch[pickle.BUILD[0]] = load_build
