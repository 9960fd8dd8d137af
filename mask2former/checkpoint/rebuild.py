"""Arrays and tensors from what a pickle says about them: checked types, shapes and bytes.

NumPy and PyTorch trust these where they build arrays themselves, and would read or write elsewhere.
"""

from __future__ import annotations

import collections
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

_DTYPES = {
    name: np.dtype(name)
    for name in ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
}
# The types of tensors that weights may have.
WEIGHT_DTYPES = (
    torch.float32, torch.float16, torch.bfloat16, torch.float64,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip
_MAX_DIMENSIONS = 32
_MAX_LENGTH = 2**40
_NDARRAY = "numpy.ndarray"  # stands for the class: nothing can be called


class RebuiltDtype:
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


class RebuiltArray(np.ndarray):
    """An array that the state in the pickle fills."""

    def set_state(self, state: Any) -> None:
        """Fill the array from (version, shape, type, order of Fortran, bytes), all checked."""
        _, shape, dtype, fortran, content = state
        content = content.encode("latin1") if isinstance(content, str) else content
        plain = _check_array(content, dtype, shape)
        super().__setstate__((1, shape, plain, bool(fortran), bytes(content)))  # type: ignore[arg-type]


def _check_shape(shape: Any) -> int:
    """Return the number of elements of a shape."""
    if (
        not isinstance(shape, tuple)
        or len(shape) > _MAX_DIMENSIONS
        or not all(type(length) is int and 0 <= length <= _MAX_LENGTH for length in shape)
    ):
        raise pickle.UnpicklingError("the shape of an array or tensor is invalid")
    count = math.prod(shape)
    if count > _MAX_LENGTH:
        raise pickle.UnpicklingError(f"an array or tensor has {count:.0e} elements")
    return count


def _check_array(content: Any, dtype: Any, shape: Any) -> np.dtype[Any]:
    if not isinstance(dtype, RebuiltDtype) or not isinstance(content, bytes | bytearray):
        raise pickle.UnpicklingError("an array is not built from a numeric type and bytes")
    if len(content) != _check_shape(shape) * dtype.dtype.itemsize:
        raise pickle.UnpicklingError(
            f"an array of shape {shape} and type {dtype.dtype} has {len(content)} bytes"
        )
    return dtype.dtype


def _empty_array(kind: object, shape: object, typecode: object) -> RebuiltArray:
    return RebuiltArray(0)


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


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: object) -> Tensor:
    """Rebuild a tensor that lies within its storage."""
    count = _check_shape(shape)
    if not isinstance(strides, tuple):
        raise pickle.UnpicklingError("a tensor has no strides")
    for number in (*strides, offset):
        _check_shape((number,))
    if not isinstance(storage, torch.storage.TypedStorage) or len(strides) != len(shape):
        raise pickle.UnpicklingError("a tensor is not built from a storage, a shape and strides")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if count and last >= storage._size():
        raise pickle.UnpicklingError(f"a tensor of shape {shape} reaches beyond its storage")
    return torch._utils._rebuild_tensor(storage, offset, shape, strides)


def storage_of(content: bytes) -> torch.UntypedStorage:
    """Return a storage with a copy of these bytes."""
    storage = torch.UntypedStorage(len(content))
    if content:
        view = torch.empty(0, dtype=torch.uint8).set_(storage, 0, (len(content),), (1,))
        view.numpy()[:] = np.frombuffer(content, np.uint8)
    return storage


def _rebuild_parameter(data: Any, *_: object) -> Tensor:
    if not isinstance(data, Tensor):
        raise pickle.UnpicklingError("a parameter is not built from a tensor")
    return data


def _rebuild_from_type(function: Any, kind: Any, arguments: Any, state: Any) -> Tensor:
    """Rebuild a tensor or parameter to which Python attributes were added; they are dropped."""
    if function not in (_rebuild_tensor, _rebuild_parameter):
        raise pickle.UnpicklingError("a tensor of a subclass is not built as PyTorch builds it")
    return function(*arguments)


@dataclass
class NotPlain:
    """Stands for a tensor of a kind that weights do not have."""

    kind: str


def check_key(key: Any) -> Any:
    """Return a key of a dict or an element of a set; to hash it must take no time.

    That of a tuple of tuples can take forever, and large integers can be made to collide.
    """
    parts = key if isinstance(key, tuple) and len(key) <= _MAX_DIMENSIONS else (key,)
    if not all(
        part is None or type(part) in (str, bytes, bool) or _is_small(part) for part in parts
    ):
        raise pickle.UnpicklingError(f"a {type(key).__name__} is the key of a dict or in a set")
    return key


def _is_small(value: Any) -> bool:
    return type(value) is int and abs(value) <= _MAX_LENGTH


def _ordered_dict(pairs: Any = ()) -> collections.OrderedDict[Any, Any]:
    return collections.OrderedDict((check_key(key), value) for key, value in pairs)


def _counter(counts: Any) -> collections.Counter[Any]:
    if not isinstance(counts, dict):  # the keys of a dict were checked
        raise pickle.UnpicklingError("a Counter is not built from a dict")
    return collections.Counter(counts)


def _set(elements: Any = ()) -> set[Any]:
    return set(map(check_key, elements))


def _not_plain(kind: str) -> Callable[..., NotPlain]:
    return lambda *_: NotPlain(kind)


def _device(name: Any, *index: Any) -> torch.device:
    return torch.device(name, *index)


_SCHEMES = ("per_tensor_affine", "per_channel_affine", "per_channel_affine_float_qparams")

ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): RebuiltDtype,
    ("collections", "OrderedDict"): _ordered_dict,
    ("collections", "Counter"): _counter,
    ("builtins", "set"): _set,
    ("__builtin__", "set"): _set,
    ("_codecs", "encode"): _encode,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): _device,
    ("torch", "Tensor"): "torch.Tensor",
    ("torch.nn.parameter", "Parameter"): "torch.nn.Parameter",
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    ("torch._utils", "_rebuild_sparse_tensor"): _not_plain("a sparse tensor"),
    ("torch._utils", "_rebuild_nested_tensor"): _not_plain("a nested tensor"),
    ("torch._utils", "_rebuild_qtensor"): _not_plain("a quantised tensor"),
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): _not_plain("a tensor without data"),
    ("torch._utils", "_rebuild_tensor_v3"): _not_plain("a tensor of an unusual type"),
    ("torch.serialization", "_get_layout"): _not_plain("a layout"),
    ("torch.storage", "UntypedStorage"): torch.uint8,
    **{
        ("torch", name): dtype for name, dtype in torch.storage._storage_type_to_dtype_map().items()
    },
    **{("torch", name): value for name, value in vars(torch).items() if type(value) is torch.dtype},
    **{("torch", name): name for name in _SCHEMES},
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
"""What pickles of weights may name; only functions that check their arguments can be called."""
