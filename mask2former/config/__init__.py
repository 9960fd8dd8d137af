"""The config: every key with its default, and reading files safely."""

from .defaults import add_maskformer2_config
from .load import load_config
from .merge import merge_file, merge_overrides

__all__ = ["add_maskformer2_config", "load_config", "merge_file", "merge_overrides"]
