"""Registers the models and data sets with Detectron2 as soon as its registries are imported.

The registries come with all of Detectron2's models, which take seconds to import. So
``import mask2former`` does not import them: it only installs an import hook. Code that looks up a
name has imported the registry, and the hook has imported this package's parts with it.

The hook also spares that import what it does not need; see `_without_compiler`.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

from .utils.import_hook import ImportHook

_COMPILER = "torch._dynamo.utils"


def install() -> None:
    """Register what Detectron2 can take now, and the rest when its registries are imported."""
    ImportHook({name: partial(_around, name) for name in (*_WITHIN, *_AFTER)}).install()
    for name, action in _AFTER.items():
        if name in sys.modules:
            action()


@contextmanager
def _around(name: str) -> Iterator[None]:
    if name in _WITHIN:
        with _WITHIN[name]():
            yield
    else:
        yield
        _AFTER[name]()


def _register_data_sets() -> None:
    from . import data  # noqa: F401
    from .detectron2_lookups import extend

    extend()


def _register_models() -> None:
    from . import modeling  # noqa: F401


def _spare_the_compiler() -> None:
    """Let Detectron2's layers ask whether they are compiled without importing the compiler."""
    import torch
    from detectron2.layers import wrappers

    wrappers.check_if_dynamo_compiling = torch.compiler.is_compiling


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Put a module in the place of PyTorch's compiler, which imports that when it is used.

    The compiler takes a second to import. torchvision takes one function from it, and calls it
    only where its own C++ operators are missing.
    """
    if _COMPILER in sys.modules:
        yield
        return
    stand_in = ModuleType(_COMPILER)

    def remove() -> None:
        if sys.modules.get(_COMPILER) is stand_in:
            del sys.modules[_COMPILER]

    def find(name: str) -> Any:
        if name.startswith("__"):  # the import system asks for __path__
            raise AttributeError(name)
        remove()
        return getattr(importlib.import_module(_COMPILER), name)

    def is_compile_supported(device_type: str) -> bool:
        return find("is_compile_supported")(device_type)

    stand_in.__dict__.update(__getattr__=find, is_compile_supported=is_compile_supported)
    sys.modules[_COMPILER] = stand_in
    try:
        yield
    finally:
        remove()


@contextmanager
def _without_warning() -> Iterator[None]:
    """Hide that losses of Detectron2 use `torch.jit.script`, which its users cannot change."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
        yield


_WITHIN = {
    "detectron2.modeling.box_regression": _without_warning,
    "fvcore.nn.focal_loss": _without_warning,
    "torchvision.ops.roi_align": _without_compiler,
}
_AFTER: dict[str, Callable[[], None]] = {
    "detectron2.data": _register_data_sets,
    "detectron2.layers.wrappers": _spare_the_compiler,
    "detectron2.modeling": _register_models,
}
