"""The weights and classes of a training run, from its output folder."""

import logging
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..checkpoint import WeightsError
from ..checkpoint.resume import BEST, FINAL, newest_checkpoints
from ..structures import Classes

logger = logging.getLogger(__name__)


def weights_of_run(config_file: str, overrides: Sequence[object]) -> list[object]:
    """Add the weights of the run that wrote `config_file` to `overrides`, unless they name weights.

    The config in an output folder still names the weights that training started from. A file of
    `checkpoint_of_run` beside it is the one meant. A Hugging Face folder as `config_file` names its
    own weights.
    """
    if "MODEL.WEIGHTS" in overrides[::2] or Path(config_file).is_dir():
        return list(overrides)
    weights = checkpoint_of_run(Path(config_file).parent)
    if weights is None:
        return list(overrides)
    logger.info("Using the weights beside the config file: %s", weights)
    return [*overrides, "MODEL.WEIGHTS", str(weights)]


def checkpoint_of_run(folder: Path) -> Path | None:
    """Return the weights that stand for a run, or None if there are none.

    That is `model_best.pth`, which a run with ``SOLVER.BEST_METRIC`` has, or else `model_final.pth`
    or, in an unfinished run, the newest checkpoint.
    """
    for name in (BEST, FINAL):
        if (folder / name).exists():
            return folder / name
    return next(iter(newest_checkpoints(folder)), None)


def config_beside(weights: Path) -> Path:
    """Return the config beside a file of weights: the YAML file of its name, or `config.yaml`.

    Raises:
        WeightsError: there is none.
    """
    for path in (weights.with_suffix(".yaml"), weights.with_name("config.yaml")):
        if path.is_file():
            return path
    raise WeightsError(
        f"beside {weights} there is no config.yaml: give --config-file (in Python: config_file)"
    )


def register_classes(cfg: CfgNode, classes: Classes) -> None:
    """Register the classes for those data sets of the config whose classes are not registered.

    A panoptic model needs this, because its weights do not say which of its classes are things.
    """
    if classes.things is None:
        task = "semantic"
    else:
        task = "panoptic" if len(classes.things) < len(classes) else "instance"
    metadata = classes.to_metadata(task)
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        entry = MetadataCatalog.get(name)
        if not any(entry.get(key) for key in metadata):
            entry.set(**metadata)
