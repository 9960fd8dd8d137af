"""Map a dataset dict to a model input: read files, augment, make targets."""

from .mapper import (
    MAPPER_PRESETS,
    MapperPreset,
    SegmentationMapper,
    build_mapper,
    build_validation_mapper,
    get_preset,
)

__all__ = [
    "MAPPER_PRESETS",
    "MapperPreset",
    "SegmentationMapper",
    "build_mapper",
    "build_validation_mapper",
    "get_preset",
]
