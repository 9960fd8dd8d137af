"""The names and ids of a model's classes: in Detectron2's catalog, and in the file beside weights.

`metadata.json` holds them under the names that `MetadataCatalog` uses, so that what is read can be
set there as it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata

from ..utils.files import write_atomically

METADATA_FILE = "metadata.json"

_NAMES = ("thing_classes", "stuff_classes")
_IDS = ("thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id")
_COLORS = ("thing_colors", "stuff_colors")
_KEYS = (*_NAMES, *_IDS, *_COLORS, "ignore_label")


def class_names(metadata: Mapping[str, Any] | Metadata, num_classes: int) -> list[str] | None:
    """Names of the classes of a model, in the order of its outputs.

    Panoptic sets name all classes in ``stuff_classes`` and may name the things alone in
    ``thing_classes``; instance sets have the latter only, semantic sets the former only.

    Args:
        metadata: of a data set, from the catalog or from `read_metadata`.
        num_classes: ``MODEL.SEM_SEG_HEAD.NUM_CLASSES``.

    Returns:
        `num_classes` names; None if `metadata` does not name so many.
    """
    for key in reversed(_NAMES):
        names = metadata.get(key)
        if names is not None and len(names) == num_classes:
            return list(names)
    return None


def write_metadata(path: str | os.PathLike[str], dataset_name: str) -> None:
    """Write what `MetadataCatalog` knows of the classes of a data set, for `read_metadata`.

    What it does not know is left out.
    """
    metadata = MetadataCatalog.get(dataset_name)
    content = {key: metadata.get(key) for key in _KEYS if metadata.get(key) is not None}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    write_atomically(Path(path), lambda file: file.write(text.encode()))


def saved_metadata(cfg: CfgNode, config_file: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield path and content of each `metadata.json` beside the weights and the config file.

    Raises:
        ValueError: see `read_metadata`.
    """
    for folder in dict.fromkeys(Path(file).parent for file in (cfg.MODEL.WEIGHTS, config_file)):
        path = folder / METADATA_FILE
        if path.is_file():
            yield str(path), read_metadata(path)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a `metadata.json`, also one that names things only.

    Returns:
        Those of the keys ``thing_classes``, ``stuff_classes`` (lists of names),
        ``thing_dataset_id_to_contiguous_id``, ``stuff_dataset_id_to_contiguous_id`` (int -> int),
        ``thing_colors``, ``stuff_colors`` (lists of RGB triples, 0..255) and ``ignore_label`` (int)
        that the file has a value for.

    Raises:
        ValueError: the file cannot be read, or is not as `write_metadata` writes it.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        found = {key: content[key] for key in _KEYS if content.get(key) is not None}
        for key in found.keys() & set(_NAMES):
            names = found[key]
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError(f"{key!r} is not a list of names")
        for key in found.keys() & set(_IDS):  # JSON has no integer keys
            found[key] = {int(id_): int(index) for id_, index in found[key].items()}
        for key in found.keys() & set(_COLORS):
            found[key] = [(int(r), int(g), int(b)) for r, g, b in found[key]]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not as train_net.py writes it: {error}") from error
    return found
