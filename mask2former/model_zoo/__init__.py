"""The published models by name: their configs and, where known, their trained weights.

The weights are licensed CC BY-NC 4.0, which excludes commercial use. The code is MIT.
"""

from .model_zoo import get, get_checkpoint_url, get_config, get_config_file, model_names

__all__ = ["get", "get_checkpoint_url", "get_config", "get_config_file", "model_names"]
