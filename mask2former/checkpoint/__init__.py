"""Weights of every kind: read safely, converted by name, fitted to a model."""

from .files import WeightsError

__all__ = ["WeightsError"]
