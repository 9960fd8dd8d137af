"""Converting the `config.json` of Hugging Face's Mask2Former to our config and back.

`decoder_layers` counts as our `DEC_LAYERS` does: 10 means 9 layers and one prediction from the
initial queries. `dropout` applies to all transformer layers of theirs, but only to the pixel
decoder's in ours; this matters in training only, and it is 0 in every published model.

Their `config.json` does not state the task of a model. We add these keys to the files we write:

- `mask2former_task`: "instance", "panoptic" or "semantic".
- `mask2former_thing_classes`: the classes of a panoptic model that are things.
- `mask2former_score_thresholds`: the lowest score to show of each class of instances, or null.
- `mask2former_object_mask_threshold`, `mask2former_overlap_threshold`: for panoptic inference.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from mask2former_runtime.files import read_json

from ...structures import Classes
from ...tasks import TASKS, tasks_of
from ..files import WeightsError
from .config_keys import check_model, get_for_hf, set_from_hf
from .preprocessor import PREPROCESSOR_FILE, set_preprocessing
from .schema import check_config, check_preprocessor

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
_TASK = "mask2former_task"
_THINGS = "mask2former_thing_classes"
_THRESHOLDS = "mask2former_score_thresholds"


def merge_hf_config(
    cfg: CfgNode, folder: str | Path, task: str | None = None, *, fallback: str | None = None
) -> None:
    """Set `cfg` to the model in a Hugging Face folder, and `MODEL.WEIGHTS` to the folder.

    This registers the names of the model's classes as a data set called `hf_` and the folder's
    name, and sets `DATASETS.TEST` to it.

    Args:
        cfg: the defaults, which are changed in place.
        folder: holds `config.json` and `preprocessor_config.json`.
        task: "instance", "panoptic" or "semantic". By default it is the value of "mask2former_task"
            in `config.json`, or whichever of these words is in "_name_or_path" or the folder's
            name.
        fallback: the task if none of these states it.

    Raises:
        WeightsError: a file is missing, a key has a value that our config cannot express, or the
            task or the thing classes are not known.
    """
    folder = Path(folder)
    path = folder / CONFIG_FILE
    content = _read(path)
    check_config(content, path)
    preprocessor = _read(folder / PREPROCESSOR_FILE)
    check_preprocessor(preprocessor, folder / PREPROCESSOR_FILE)
    task = _task(task, content, folder, fallback)
    names = _class_names(content, path)
    things = _thing_classes(content, names, path) if task == "panoptic" else range(len(names))
    classes = Classes(names, range(len(names)), frozenset(things))

    set_from_hf(cfg, content, path)
    set_preprocessing(cfg, preprocessor, folder / PREPROCESSOR_FILE)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = len(names)
    check_model(cfg, path)
    cfg.MODEL.WEIGHTS = str(folder)
    # A panoptic model also returns the other results, as in the published configs.
    test = cfg.MODEL.MASK_FORMER.TEST
    test.PANOPTIC_ON = task == "panoptic"
    test.INSTANCE_ON = task != "semantic"
    test.SEMANTIC_ON = task != "instance"

    data_set = f"hf_{folder.resolve().name}"
    MetadataCatalog.pop(data_set, None)
    MetadataCatalog.get(data_set).set(**classes.to_metadata(task))
    if content.get(_THRESHOLDS) is not None:
        MetadataCatalog.get(data_set).score_thresholds = content[_THRESHOLDS]
    cfg.DATASETS.TEST = (data_set,)
    if cfg.MODEL.MASK_FORMER.DROPOUT:
        logger.warning(
            "%s: 'dropout' is %g; in training, only the pixel decoder applies it",
            path, cfg.MODEL.MASK_FORMER.DROPOUT,
        )  # fmt: skip


def hf_config(
    cfg: CfgNode,
    class_names: Sequence[str],
    thing_classes: Sequence[int] | None = None,
    thresholds: Sequence[float | None] | None = None,
) -> dict[str, Any]:
    """Return the content of a `config.json` for the model that `cfg` describes.

    Args:
        cfg: the config of a model with a Swin or ResNet backbone.
        class_names: in the order of the model's outputs.
        thing_classes: the indices of the classes of a panoptic model that are things.
        thresholds: lowest score to show of each class, see `find_thresholds`.

    Raises:
        WeightsError: Hugging Face's Mask2Former cannot be such a model, or the number of classes
            differs.
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
            raise WeightsError("a panoptic model needs to know which of its classes are things")
        content[_THINGS] = sorted(thing_classes)
    if thresholds is not None:
        content[_THRESHOLDS] = list(thresholds)
    return content


def class_names_of(folder: str | Path) -> list[str]:
    """Read the names of the classes of a Hugging Face model, in the order of its outputs.

    Raises:
        WeightsError: there is no `config.json`, or the keys of its "id2label" are not 0, 1, 2...
    """
    path = Path(folder, CONFIG_FILE)
    content = _read(path)
    check_config(content, path)
    return _class_names(content, path)


def _class_names(content: Mapping[str, Any], path: Path) -> list[str]:
    # Version 4 of transformers does not write an id2label that is the default.
    labels = content.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    if set(labels) != {str(i) for i in range(len(labels))}:
        raise WeightsError(f"{path}: 'id2label' must name the classes 0, 1, 2 and so on")
    return [labels[str(i)] for i in range(len(labels))]


def task_of_cfg(cfg: CfgNode) -> str:
    """Return what a model is for, the first of `TASKS` that it predicts."""
    tasks = tasks_of(cfg)
    return tasks[0].name if tasks else "semantic"


def _task(given: str | None, content: Mapping[str, Any], folder: Path, fallback: str | None) -> str:
    path = folder / CONFIG_FILE
    said = given or content.get(_TASK)
    if said is not None:
        if said not in TASKS:
            source = "the task" if given else f"{path}: {_TASK!r}"
            raise WeightsError(f"{source} is {said!r}; supported are {', '.join(TASKS)}")
        return said
    # The cache of `huggingface_hub` has folders models--<name>/snapshots/<hash>.
    cached = [part for part in folder.resolve().parts if part.startswith("models--")]
    for name in (str(content.get("_name_or_path", "")), folder.resolve().name, *cached):
        words = set(re.split(r"[^a-z]+", name.lower())) & set(TASKS)
        if len(words) == 1:
            return words.pop()
    if fallback in TASKS:
        return fallback
    raise WeightsError(
        f"{path} does not state the task of the model: give it ({', '.join(TASKS)}) with "
        f'--task, or add the line "{_TASK}": "instance" (or another) to the file'
    )


def _thing_classes(content: Mapping[str, Any], names: list[str], path: Path) -> list[int]:
    """Return the thing classes, from the file or from a registered data set of the same classes."""
    if _THINGS in content:
        things = content[_THINGS]
        if max(things, default=0) >= len(names):
            raise WeightsError(f"{path}: {_THINGS!r} must list numbers below {len(names)}")
        return things
    for data_set in MetadataCatalog.list():
        metadata = MetadataCatalog.get(data_set)
        things = metadata.get("thing_dataset_id_to_contiguous_id")
        if things and list(metadata.get("stuff_classes") or ()) == names:
            return sorted(things.values())
    raise WeightsError(
        f"{path} does not say which of its {len(names)} classes are things, and no registered data "
        f'set has these classes: add a line such as "{_THINGS}": [0, 1, 2] to the file'
    )


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise WeightsError(f"{path} is missing: a Mask2Former of Hugging Face has this file")
    content = read_json(path, WeightsError)
    if not isinstance(content, dict):
        raise WeightsError(f"{path} is not a JSON object of keys and values")
    return content
