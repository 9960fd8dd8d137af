"""Mask2Former as a Detectron2 extension.

Importing this package registers its models and data sets with Detectron2. If Detectron2's
registries have not been imported yet, that happens as soon as they are.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import registration

if TYPE_CHECKING:
    from . import data, modeling
    from .api import Mask2Former
    from .config import add_maskformer2_config, load_config

__version__ = "0.1.0"

__all__ = ["Mask2Former", "add_maskformer2_config", "data", "load_config", "modeling"]

# Where the names are that are imported when they are used first; "" for modules.
_HOMES = {
    "Mask2Former": ".api",
    "add_maskformer2_config": ".config",
    "data": "",
    "load_config": ".config",
    "modeling": "",
}


if not TYPE_CHECKING:  # for which every name would be there

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = _HOMES[name]
        module = importlib.import_module(home or f".{name}", __name__)
        return getattr(module, name) if home else module


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


registration.install()
