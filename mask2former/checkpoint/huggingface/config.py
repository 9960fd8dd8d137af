"""Configs of Hugging Face's Mask2Former and ours, both ways, without `transformers`.

`decoder_layers` counts as our `DEC_LAYERS` does: 10 means 9 layers, and a prediction from the
initial queries. `dropout` is that of all transformer layers there and of the pixel decoder's here
(0 in every published model); the two differ in training only.

Their `config.json` does not say what a model is for. These keys do, in the files that we write:

- `mask2former_task`: "instance", "panoptic" or "semantic".
- `mask2former_thing_classes`: of a panoptic model, the classes that are things.
- `mask2former_object_mask_threshold`, `mask2former_overlap_threshold`: of panoptic inference.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..files import WeightsError
from .config_keys import get_for_hf, set_from_hf
from .preprocessor import PREPROCESSOR_FILE, hf_preprocessor, set_preprocessing

__all__ = [
    "TASKS",
    "class_metadata",
    "class_names_of",
    "hf_config",
    "hf_preprocessor",
    "merge_hf_config",
    "task_of_cfg",
]

CONFIG_FILE = "config.json"
TASKS = ("instance", "panoptic", "semantic")
_TASK = "mask2former_task"
_THINGS = "mask2former_thing_classes"


def merge_hf_config(cfg: CfgNode, folder: str | Path, task: str | None = None) -> None:
    """Set `cfg` to the model in a Hugging Face folder, which `MODEL.WEIGHTS` then names.

    The names of its classes are registered as those of a data set, `hf_` and the folder's name,
    which `DATASETS.TEST` then names.

    Args:
        cfg: the defaults.
        folder: holds `config.json` and `preprocessor_config.json`.
        task: "instance", "panoptic" or "semantic". Without it, the key "mask2former_task" of
            `config.json` says, or one of these words in "_name_or_path" or the folder's name.

    Raises:
        WeightsError: a file is missing, a key has a value for which ours has no counterpart, or
            the task or the thing classes are not known.
    """
    folder = Path(folder)
    path = folder / CONFIG_FILE
    content = _read(path)
    preprocessor = _read(folder / PREPROCESSOR_FILE)
    task = _task(task, content, folder)
    names = class_names_of(folder)
    things = _thing_classes(content, names, path) if task == "panoptic" else None

    set_from_hf(cfg, content, path)
    set_preprocessing(cfg, preprocessor, folder / PREPROCESSOR_FILE)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = len(names)
    cfg.MODEL.WEIGHTS = str(folder)
    # A panoptic model gives the other results too, as in the published configs.
    test = cfg.MODEL.MASK_FORMER.TEST
    test.PANOPTIC_ON = task == "panoptic"
    test.INSTANCE_ON = task != "semantic"
    test.SEMANTIC_ON = task != "instance"

    data_set = f"hf_{folder.resolve().name}"
    MetadataCatalog.pop(data_set, None)
    MetadataCatalog.get(data_set).set(**class_metadata(task, names, things))
    cfg.DATASETS.TEST = (data_set,)
    if cfg.MODEL.MASK_FORMER.DROPOUT:
        logging.getLogger(__name__).warning(
            "%s: 'dropout' is %g; in training, it is applied in the pixel decoder only",
            path, cfg.MODEL.MASK_FORMER.DROPOUT,
        )  # fmt: skip


def hf_config(
    cfg: CfgNode, class_names: Sequence[str], thing_classes: Sequence[int] | None = None
) -> dict[str, Any]:
    """The content of a `config.json` for the model that `cfg` describes.

    Args:
        cfg: of a model with a Swin or ResNet backbone.
        class_names: in the order of the model's outputs.
        thing_classes: of a panoptic model, which of the classes, from 0, are things.

    Raises:
        WeightsError: the config, or the number of classes, is of a model that theirs cannot be.
    """
    count = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if len(class_names) != count:
        raise WeightsError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {count}, but there are {len(class_names)} names"
        )
    task = task_of_cfg(cfg)
    content: dict[str, Any] = {
        "architectures": ["Mask2FormerForUniversalSegmentation"],
        **get_for_hf(cfg),
        "id2label": {str(i): name for i, name in enumerate(class_names)},
        "label2id": {name: i for i, name in enumerate(class_names)},
        _TASK: task,
    }
    if task == "panoptic":
        if thing_classes is None:
            raise WeightsError("of a panoptic model it must be known which classes are things")
        content[_THINGS] = sorted(thing_classes)
    return content


def class_names_of(folder: str | Path) -> list[str]:
    """The names of the classes of the model in a Hugging Face folder, in the order of its outputs.

    Raises:
        WeightsError: there is no `config.json`, or its "id2label" does not count from 0.
    """
    path = Path(folder, CONFIG_FILE)
    # Version 4 writes no id2label if it is its default.
    labels = _read(path).get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    if not isinstance(labels, dict) or set(labels) != {str(i) for i in range(len(labels))}:
        raise WeightsError(f"{path}: 'id2label' must name the classes 0, 1, 2 and so on")
    return [str(labels[str(i)]) for i in range(len(labels))]


def class_metadata(
    task: str, names: Sequence[str], thing_classes: Sequence[int] | None = None
) -> dict[str, Any]:
    """What Detectron2's `MetadataCatalog` should hold of a model's classes.

    Ids are the classes' numbers. As of a panoptic data set, names are those of all classes.
    """
    metadata: dict[str, Any] = {}
    if task != "semantic":
        things = range(len(names)) if thing_classes is None else thing_classes
        metadata["thing_classes"] = list(names)
        metadata["thing_dataset_id_to_contiguous_id"] = {i: i for i in things}
    if task != "instance":
        metadata["stuff_classes"] = list(names)
    return metadata


def task_of_cfg(cfg: CfgNode) -> str:
    """What a model is for: "panoptic", even if it gives other results too, else "instance"..."""
    test = cfg.MODEL.MASK_FORMER.TEST
    return "panoptic" if test.PANOPTIC_ON else "instance" if test.INSTANCE_ON else "semantic"


def _task(given: str | None, content: Mapping[str, Any], folder: Path) -> str:
    path = folder / CONFIG_FILE
    said = given or content.get(_TASK)
    if said is not None:
        if said not in TASKS:
            source = "the task" if given else f"{path}: {_TASK!r}"
            raise WeightsError(f"{source} is {said!r}; supported are {', '.join(TASKS)}")
        return said
    # In the cache of `huggingface_hub`, a folder's name is a hash, and that of the model above it.
    cached = [part for part in folder.resolve().parts if part.startswith("models--")]
    for name in (str(content.get("_name_or_path", "")), folder.resolve().name, *cached):
        words = set(re.split(r"[^a-z]+", name.lower())) & set(TASKS)
        if len(words) == 1:
            return words.pop()
    raise WeightsError(
        f"{path} does not say what the model is for: give the task ({', '.join(TASKS)}) with "
        f'--task, or add the line "{_TASK}": "instance" (or another) to the file'
    )


def _thing_classes(content: Mapping[str, Any], names: list[str], path: Path) -> list[int]:
    """Which classes are things, from the file or from a registered data set of the same classes."""
    if _THINGS in content:
        things = content[_THINGS]
        if not isinstance(things, list) or not set(things) <= set(range(len(names))):
            raise WeightsError(f"{path}: {_THINGS!r} must list numbers below {len(names)}")
        return things
    for data_set in MetadataCatalog.list():
        metadata = MetadataCatalog.get(data_set)
        things = metadata.get("thing_dataset_id_to_contiguous_id")
        if things and list(metadata.get("stuff_classes") or ()) == names:
            return sorted(things.values())
    raise WeightsError(
        f"{path} does not say which of its {len(names)} classes are things, and they are those of "
        f'no registered data set: add a line such as "{_THINGS}": [0, 1, 2] to the file'
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(
            f"{path} is missing, which belongs to a model of Hugging Face's Mask2Former"
        ) from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds no keys and values")
    return content
