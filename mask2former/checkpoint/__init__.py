"""Weights of every kind: read safely, renamed, and fitted to a model."""

from .checkpointer import Checkpointer, load_weights, to_model_names
from .files import WeightsError, read_checkpoint, write_checkpoint
from .sources import local_weights

__all__ = [
    "Checkpointer",
    "WeightsError",
    "load_weights",
    "local_weights",
    "read_checkpoint",
    "to_model_names",
    "write_checkpoint",
]
