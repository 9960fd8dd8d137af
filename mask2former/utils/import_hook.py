"""Code that runs when another package is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class ImportHook(MetaPathFinder):
    """Runs code around the execution of modules; `install` it before they are imported.

    Args:
        around: a context manager for each module, by the module's full name.
    """

    def __init__(self, around: Mapping[str, Callable[[], AbstractContextManager[None]]]):
        self.around = around

    def install(self) -> None:
        """Ask this finder first whenever a module is imported."""
        sys.meta_path.insert(0, self)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find one of the modules as the other finders do; leave all others to those."""
        if name not in self.around:
            return None
        specs = (f.find_spec(name, path, target) for f in sys.meta_path if f is not self)
        spec = next(filter(None, specs), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self.around[name])
        return spec


class _Loader(Loader):
    """Stands in for the loader of a module until it executes the module."""

    def __init__(self, loader: Any, around: Callable[[], AbstractContextManager[None]]):
        self._loader = loader
        self._around = around

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        with self._around():
            self._loader.exec_module(module)
