"""Mask2Former as a Detectron2 extension.

Importing this package registers its models and data sets with Detectron2.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import data, modeling
    from .api import Mask2Former
    from .config import add_maskformer2_config, load_config

__version__ = "0.1.0"

__all__ = ["Mask2Former", "add_maskformer2_config", "data", "load_config", "modeling"]

# Where the names are that are imported when they are used first.
_HOMES = {
    "Mask2Former": ".api",
    "add_maskformer2_config": ".config",
    "load_config": ".config",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _command_is_starting() -> bool:
    """Tell whether this process runs the command, which registers once it knows its arguments."""
    if sys.argv[:1] == ["-m"]:  # python -m imports the package, and then its __main__
        return sys.orig_argv[-len(sys.argv)].removeprefix("-m") == __name__
    return getattr(sys.modules.get("mask2former_command"), "is_starting", False)


if not _command_is_starting():
    importlib.import_module(".registration", __name__)
