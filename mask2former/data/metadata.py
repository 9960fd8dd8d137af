"""The classes of a model: in Detectron2's catalog, and in the file beside its weights.

`metadata.json` uses the names of `MetadataCatalog`, so that its content can be set there unchanged.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from mask2former_runtime.files import read_json, write_json

from ..structures import Classes
from ..utils.schema import (
    CLASS_NAMES,
    COLORS,
    MOST_CLASSES,
    NULL,
    Field,
    check_fields,
    either,
    is_whole,
    list_of,
    number,
    whole,
)

logger = logging.getLogger(__name__)

METADATA_FILE = "metadata.json"
# Metadata of a data set that is a part of the images of its files: their names, relative to the
# folder of images
ONLY_IMAGES = "only_images"

_NAMES = ("thing_classes", "stuff_classes")
_IDS = ("thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id")
_COLORS = ("thing_colors", "stuff_colors")
# Of each class; found for the weights beside the file, and not by a data set
_THRESHOLDS = "score_thresholds"
_KEYS = (*_NAMES, *_IDS, *_COLORS, "ignore_label", _THRESHOLDS)
_ID = re.compile(r"-?[0-9]{1,18}")
_INDICES = Field(
    f"an object of ids and numbers below {MOST_CLASSES}",
    lambda v: (
        isinstance(v, dict)
        and all(_ID.fullmatch(k) and is_whole(i, 0, MOST_CLASSES - 1) for k, i in v.items())
    ),
)
_FIELDS = {
    **dict.fromkeys(_NAMES, CLASS_NAMES),
    **dict.fromkeys(_IDS, _INDICES),
    **dict.fromkeys(_COLORS, COLORS),
    "ignore_label": whole(-(2**31), 2**32),
    _THRESHOLDS: list_of(either(number(0, 1), NULL)),
}


def write_metadata(path: str | os.PathLike[str], dataset_name: str) -> None:
    """Write what `MetadataCatalog` knows about the classes of a data set, for `read_metadata`."""
    metadata = MetadataCatalog.get(dataset_name)
    content = {key: metadata.get(key) for key in _KEYS if metadata.get(key) is not None}
    write_json(path, content, indent=1, ensure_ascii=False)


def write_thresholds(
    path: str | os.PathLike[str], thresholds: Sequence[float | None] | None
) -> None:
    """Write the thresholds of a model into its `metadata.json`, which is made if there is none.

    Args:
        path: the file.
        thresholds: lowest score to show of each class, from 0 to 1; None for classes that have the
            default. None instead of the whole removes what the file has.
    """
    content = read_json(path) if os.path.exists(path) else {}
    content.pop(_THRESHOLDS, None)
    if thresholds is not None:
        content[_THRESHOLDS] = list(thresholds)
    write_json(path, content, indent=1, ensure_ascii=False)


def find_thresholds(cfg: CfgNode, config_file: str) -> tuple[float | None, ...] | None:
    """Return what `write_thresholds` or a Hugging Face folder says of a model, or None.

    Raises:
        ValueError: a `metadata.json` is damaged, or has thresholds for other classes.
    """
    count = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    for path, metadata in _sources(cfg, config_file):
        found = metadata.get(_THRESHOLDS)
        if found is None:
            continue
        if len(found) != count:
            raise ValueError(
                f"{path} has {len(found)} {_THRESHOLDS}, and the model has {count} classes: remove "
                "them, or find them anew (mask2former evaluate --find-thresholds)"
            )
        return tuple(found)
    return None


def saved_metadata(cfg: CfgNode, config_file: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the path and the content of each `metadata.json` beside the weights and the config.

    Raises:
        ValueError: see `read_metadata`.
    """
    for folder in dict.fromkeys(Path(file).parent for file in (cfg.MODEL.WEIGHTS, config_file)):
        path = folder / METADATA_FILE
        if path.is_file():
            yield str(path), read_metadata(path)


def find_classes(cfg: CfgNode, config_file: str, required: bool = False) -> Classes | None:
    """Find the classes of the model that a config describes.

    They are in a `metadata.json` that `train_net.py` wrote beside the weights or the config file,
    or in the metadata of the registered data sets of ``DATASETS``.

    Args:
        cfg: the config.
        config_file: where it comes from.
        required: raise an error where no source has as many classes as the model.

    Returns:
        The classes, or None if no source has as many classes as the model; warnings say how many
        each has.

    Raises:
        ValueError: a `metadata.json` is damaged, or the classes are required and not found.
    """
    count = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    others = []
    for source, metadata in list(_sources(cfg, config_file)):
        classes = Classes.from_metadata(metadata, count)
        if classes is not None:
            return classes
        found = [str(len(metadata[key])) for key in reversed(_NAMES) if metadata.get(key)]
        if found:
            others.append(f"{source} has {' and '.join(found)} classes")
    if required:
        raise ValueError(
            f"the names of the model's {count} classes are not known: "
            f"{'; '.join(others) or 'DATASETS is empty'}. Put a {METADATA_FILE}, as train_net.py "
            "writes it, beside the checkpoint"
        )
    for other in others:
        logger.warning("%s, the model %d: its names are not used", other, count)
    return None


def _sources(cfg: CfgNode, config_file: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the names and the content of all metadata, those of files first."""
    yield from saved_metadata(cfg, config_file)
    for name in dict.fromkeys((*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)):
        yield f"data set {name!r}", MetadataCatalog.get(name).as_dict()


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a `metadata.json`. Files of earlier versions name only things.

    Returns:
        A dict with the keys that have a value in the file, out of ``thing_classes``,
        ``stuff_classes`` (lists of names), ``thing_dataset_id_to_contiguous_id``,
        ``stuff_dataset_id_to_contiguous_id`` (int -> int), ``thing_colors``, ``stuff_colors``
        (lists of RGB triples, 0..255), ``ignore_label`` (int), and ``score_thresholds``, see
        `write_thresholds`.

    Raises:
        ValueError: the file cannot be read, or does not have the form that `write_metadata` writes.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not as train_net.py writes it: it is not a JSON object")
    found = {key: content[key] for key in _KEYS if content.get(key) is not None}
    check_fields(found, _FIELDS, f"{path} is not as train_net.py writes it", ValueError)
    for key in found.keys() & set(_IDS):  # JSON has no integer keys
        found[key] = {int(id_): index for id_, index in found[key].items()}
    for key in found.keys() & set(_COLORS):
        found[key] = [(r, g, b) for r, g, b in found[key]]
    return found
