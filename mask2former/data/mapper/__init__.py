"""From a dataset dict to a model input: reading, augmentations, targets."""

from .mapper import (
    MAPPER_PRESETS,
    MapperPreset,
    SegmentationMapper,
    Targets,
    build_mapper,
    get_preset,
)

__all__ = [
    "MAPPER_PRESETS",
    "MapperPreset",
    "SegmentationMapper",
    "Targets",
    "build_mapper",
    "get_preset",
]
