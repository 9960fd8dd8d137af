"""Writing a model as a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode

from mask2former_runtime.files import moved_at_the_end, write_json

from ...structures import Classes
from ..files import HF_WEIGHT_FILES, State, WeightsError, write_checkpoint
from .config import CONFIG_FILE, hf_config, task_of_cfg
from .preprocessor import PREPROCESSOR_FILE, hf_preprocessor
from .weight_names import d2_to_hf

FILES = (HF_WEIGHT_FILES[0], CONFIG_FILE, PREPROCESSOR_FILE)
"""The names of the files of a folder: weights, config, and the config of the image processor."""


def save_hf_folder(
    folder: Path,
    state: State,
    cfg: CfgNode,
    classes: Classes,
    *,
    thresholds: Sequence[float | None] | None = None,
    overwrite: bool = False,
) -> State:
    """Write a folder for transformers' ``Mask2FormerForUniversalSegmentation.from_pretrained``.

    Args:
        folder: the folder, which need not exist.
        state: the weights, under the names of this package's models.
        cfg: the config of the model.
        classes: the model's classes.
        thresholds: lowest score to show of each class; None in place of a number or of all for the
            default.
        overwrite: replace existing files.

    Returns:
        The weights under Hugging Face's names, as in the file.

    Raises:
        WeightsError: Hugging Face's Mask2Former cannot be such a model, or a file exists.
    """
    refuse_existing([folder / name for name in FILES], overwrite)
    things = sorted(classes.things or ()) if task_of_cfg(cfg) == "panoptic" else None
    contents = {
        CONFIG_FILE: hf_config(cfg, classes.names, things, thresholds),
        PREPROCESSOR_FILE: hf_preprocessor(cfg),
    }
    theirs = d2_to_hf(state)
    with moved_at_the_end(folder) as new:
        write_checkpoint({"model": theirs}, new / FILES[0])
        for name, content in contents.items():
            write_json(new / name, content, indent=2)
    return theirs


def refuse_existing(files: list[Path], overwrite: bool) -> None:
    """Raise `WeightsError` if a file exists, unless it may be replaced."""
    existing = [str(file) for file in files if file.exists()]
    if existing and not overwrite:
        raise WeightsError(
            f"{', '.join(existing)} exists already: replace it with --overwrite (in Python: "
            "overwrite=True)"
        )
