"""The published models by name: their configs and, where known, their trained weights.

The weights are licensed CC BY-NC 4.0, which excludes commercial use. The code is MIT.
"""

from .model_zoo import (
    config_folder,
    get,
    get_checkpoint_url,
    get_config,
    get_config_file,
    model_names,
)

__all__ = [
    "config_folder",
    "get",
    "get_checkpoint_url",
    "get_config",
    "get_config_file",
    "model_names",
]
