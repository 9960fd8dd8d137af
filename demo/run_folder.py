"""What a training run left in its output folder: its weights and the names of its classes."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from mask2former.engine.setup import METADATA_FILE

logger = logging.getLogger("mask2former.demo")


@dataclass(frozen=True)
class Classes:
    """The classes of a model, in the order of its outputs."""

    names: Sequence[str]
    category_ids: Sequence[int]
    """Ids in the data set that the model was trained on."""


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
    """Register the classes in `metadata.json` for `DATASETS.TEST` if nothing else has.

    Panoptic models need them: which of the classes are things is not in the weights.
    """
    path = Path(config_file).parent / METADATA_FILE
    for name in cfg.DATASETS.TEST[:1]:
        metadata = MetadataCatalog.get(name)
        if not metadata.get("thing_dataset_id_to_contiguous_id") and path.is_file():
            content = json.loads(path.read_text())
            ids = content.pop("thing_dataset_id_to_contiguous_id", None) or {}
            metadata.set(
                thing_dataset_id_to_contiguous_id={int(id_): i for id_, i in ids.items()},
                **{key: value for key, value in content.items() if value is not None},
            )


def find_classes(cfg: CfgNode, config_file: str) -> Classes:
    """Names and ids of the classes.

    From `metadata.json` beside the weights or the config file, which `train_net.py` writes; else
    from the registered data set of `DATASETS.TEST`; else they are "class 0" and so on.
    """
    count = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    for file in dict.fromkeys((cfg.MODEL.WEIGHTS, config_file)):
        path = Path(file).parent / METADATA_FILE
        if path.is_file():
            classes = _read_metadata(path)
            if classes is not None and _fits(classes, count, str(path)):
                return classes
    for name in cfg.DATASETS.TEST:
        metadata = MetadataCatalog.get(name)
        names = metadata.get("thing_classes")
        if names is not None:
            to_index = metadata.get("thing_dataset_id_to_contiguous_id")
            classes = _classes(names, to_index)
            if _fits(classes, count, f"data set {name!r}"):
                return classes
    logger.warning("The names of the classes are not known: no fitting %s found", METADATA_FILE)
    return Classes([f"class {i}" for i in range(count)], range(count))


def _fits(classes: Classes, count: int, source: str) -> bool:
    if len(classes.names) == count:
        return True
    logger.warning(
        "%s has %d classes, the model %d: its names are not used",
        source, len(classes.names), count,
    )  # fmt: skip
    return False


def _read_metadata(path: Path) -> Classes | None:
    try:
        content = json.loads(path.read_text())
        names = content["thing_classes"]
        to_index = content.get("thing_dataset_id_to_contiguous_id")
        # JSON has no integer keys
        to_index = to_index and {int(id_): index for id_, index in to_index.items()}
        return _classes(names, to_index) if names else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not as train_net.py writes it: {error!r}") from error


def _classes(names: Sequence[str], to_index: dict[int, int] | None) -> Classes:
    if not to_index:
        return Classes(names, range(len(names)))
    to_id = {index: category_id for category_id, index in to_index.items()}
    # A panoptic model has classes besides the things, which are no instances and need no id.
    return Classes(names, [to_id.get(i, i) for i in range(len(names))])
