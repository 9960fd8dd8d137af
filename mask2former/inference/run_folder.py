"""What a training run left in its output folder: its weights and the names of its classes."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..data.classes import METADATA_FILE, class_names, saved_metadata

logger = logging.getLogger("mask2former.demo")

_NAMES = ("stuff_classes", "thing_classes")


@dataclass(frozen=True)
class Classes:
    """The classes of a model, in the order of its outputs."""

    names: Sequence[str]
    category_ids: Sequence[int]
    """Ids in the data set that the model was trained on."""
    things: frozenset[int] | None = None
    """Which of the classes, from 0, are things; None if that is not known."""
    colors: Sequence[tuple[int, int, int]] | None = None
    """RGB, 0 to 255, if the data set has colours of its own."""


def weights_of_run(config_file: str, overrides: Sequence[str]) -> list[str]:
    """Overrides with the weights of the run that wrote `config_file`, unless they name some.

    The config in an output folder still names the weights that training started from. If
    `model_final.pth` or, of an unfinished run, `last_checkpoint` lies beside it, those are meant.
    A Hugging Face folder in the place of `config_file` names its own.
    """
    if "MODEL.WEIGHTS" in overrides[::2] or Path(config_file).is_dir():
        return list(overrides)
    folder = Path(config_file).parent
    weights = folder / "model_final.pth"
    last = folder / "last_checkpoint"
    if not weights.exists() and last.exists():
        weights = folder / Path(last.read_text().strip()).name
    if not weights.exists():
        return list(overrides)
    logger.info("Using the weights beside the config file: %s", weights)
    return [*overrides, "MODEL.WEIGHTS", str(weights)]


def register_classes(cfg: CfgNode, config_file: str) -> None:
    """Register the classes in `metadata.json` for the config's data sets if nothing else has.

    Panoptic models need them: which of the classes are things is not in the weights.
    """
    count = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    for _, metadata in saved_metadata(cfg, config_file):
        if class_names(metadata, count) is not None:
            for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
                entry = MetadataCatalog.get(name)
                if not any(entry.get(key) for key in metadata):
                    entry.set(**metadata)
            return


def find_classes(cfg: CfgNode, config_file: str) -> Classes:
    """Names, ids, kinds and colours of the classes.

    From `metadata.json` beside the weights or the config file, which `train_net.py` writes; else
    from the registered data sets of `DATASETS`; else they are "class 0" and so on.

    Raises:
        ValueError: a `metadata.json` is damaged.
    """
    count = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    sources = list(saved_metadata(cfg, config_file))
    for name in dict.fromkeys((*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)):
        sources.append((f"data set {name!r}", MetadataCatalog.get(name).as_dict()))
    for source, metadata in sources:
        names = class_names(metadata, count)
        if names is not None:
            return _classes(names, metadata)
        found = [len(metadata[key]) for key in _NAMES if metadata.get(key)]
        if found:
            logger.warning(
                "%s has %s classes, the model %d: its names are not used",
                source, " and ".join(map(str, found)), count,
            )  # fmt: skip
    logger.warning("The names of the classes are not known: no fitting %s found", METADATA_FILE)
    return Classes([f"class {i}" for i in range(count)], range(count))


def _classes(names: Sequence[str], metadata: Mapping[str, Any]) -> Classes:
    count = len(names)
    of_all_kinds = list(metadata.get("stuff_classes") or ()) == list(names)
    things = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    if max(things.values(), default=0) >= count:
        things = {}  # numbered among other classes than these
    stuff = (metadata.get("stuff_dataset_id_to_contiguous_id") or {}) if of_all_kinds else {}
    to_id = {index: id_ for ids in (stuff, things) for id_, index in ids.items()}
    thing_ids: frozenset[int] | None = frozenset(things.values() or range(count))
    if of_all_kinds and not things:
        thing_ids = None
    kind = "stuff" if of_all_kinds else "thing"
    colors = metadata.get(f"{kind}_colors") or ()
    return Classes(
        names,
        [to_id.get(i, i) for i in range(count)],
        thing_ids,
        [tuple(color) for color in colors] if len(colors) == count else None,
    )
