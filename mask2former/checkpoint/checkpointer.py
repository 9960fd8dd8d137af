"""Detectron2's checkpointer, with the readers and the checks of this package."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from fvcore.common.checkpoint import _IncompatibleKeys
from torch import nn

from ..modeling.meta_arch.mask_former_head import migrate_names
from .backbones import convert_backbone
from .files import State, WeightsError, hf_weights_file, read_checkpoint, write_checkpoint
from .huggingface.weight_names import hf_to_d2, is_hf_state
from .matching import as_starting_point, compare, report
from .sources import local_weights

# Names that every head of Mask2Former has, in new or in old checkpoints, and Detectron2's own
# heads, which are `sem_seg_head` too, do not have.
_MASK2FORMER_HEAD = re.compile(
    r"sem_seg_head\.(pixel_decoder\.|mask_features\.|predictor\.static_query)"
)


def to_model_names(state: State) -> State:
    """Give weights of any known kind the names of this package's models.

    Args:
        state: weights of Hugging Face's Mask2Former, of an ImageNet backbone (see
            `convert_backbone`), or of one of this package's or the published checkpoints, old ones
            included.

    Returns:
        The same weights under new names. Names of any other model stay as they are.
    """
    # Weights saved from within torch's parallel wrappers
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if is_hf_state(state):
        return hf_to_d2(state)
    state = dict(convert_backbone(state) or state)
    if any(_MASK2FORMER_HEAD.match(name) for name in state):
        migrate_names(state)
    return state


def _from_caffe2(state: State, model: State) -> State:
    """Weights under Caffe2's names, which are an ImageNet classifier's, under the model's."""
    found = align_and_update_state_dicts(model, state, c2_conversion=True)
    # Its batch norms are scales and offsets only, for which the model's initial statistics stand.
    statistics = {
        name: tensor
        for name, tensor in model.items()
        if name.startswith("backbone.") and ".running_" in name
    }
    return statistics | {name: tensor for name, tensor in found.items() if name in model}


class Checkpointer(DetectionCheckpointer):
    """Loads weights of every kind that this package knows, completely or not at all.

    `load` takes local files, Hugging Face folders and addresses (see `local_weights`), and raises
    `WeightsError` with a report where Detectron2's logs a warning and goes on.

    Args:
        model: where to load into.
        save_dir: where `save` writes.
        for_training: weights that are no resumed checkpoint may be of a backbone alone, or of
            other classes; what they do not fill keeps its random values.
        allow_unsafe: read pickles that build arbitrary Python objects. That runs code of the
            file's author.
        checkpointables: as in Detectron2.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        for_training: bool = False,
        allow_unsafe: bool = False,
        **checkpointables: Any,
    ):
        super().__init__(model, save_dir, **checkpointables)
        self.for_training = for_training
        self.allow_unsafe = allow_unsafe
        self._may_start_anew = False
        self._source = ""

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """See Detectron2; additionally raises `WeightsError`, the model being as before then."""
        self._source = path
        self._may_start_anew = self.for_training and checkpointables is not None
        if path:
            path = local_weights(path)
            if os.path.isdir(path):
                path = str(hf_weights_file(Path(path)))
        try:
            return super().load(path, checkpointables)
        finally:
            self._parsed_url_during_load = None  # which Detectron2 leaves behind after an error

    def save(self, name: str, **kwargs: Any) -> None:
        """See Detectron2; a crash while writing leaves the older file of this name as it was."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        file_name = f"{name}.pth"
        path = Path(self.save_dir, file_name)
        self.logger.info("Saving checkpoint to %s", path)
        write_checkpoint({**data, **kwargs}, path)
        self.tag_last_checkpoint(file_name)

    def _load_file(self, filename: str) -> dict[str, Any]:
        return read_checkpoint(filename, self.allow_unsafe)

    def _load_model(self, checkpoint: dict[str, Any]) -> _IncompatibleKeys | None:
        state = to_model_names(checkpoint.pop("model"))
        model = self.model.state_dict()
        if checkpoint.get("__author__") == "Caffe2":
            state = _from_caffe2(state, model)
        fit, note = compare(state, model), ""
        if self._may_start_anew:
            fit, note = as_starting_point(fit, state)
        if not fit:
            raise WeightsError(report(fit, self._source, state, model))
        fitting = {name: t for name, t in state.items() if name in model}
        fitting = {name: t for name, t in fitting.items() if t.shape == model[name].shape}
        self.model.load_state_dict(fitting, strict=False)
        self.logger.info(
            "%d of the model's %d tensors are from %s. %s",
            len(fitting), len(model), self._source, note,
        )  # fmt: skip
        return None


def load_weights(model: nn.Module, path: str, *, allow_unsafe: bool = False) -> None:
    """Fill the whole model with weights of any kind that `Checkpointer` knows.

    Args:
        model: where to load into.
        path: local file, Hugging Face folder, or address (see `local_weights`).
        allow_unsafe: read pickles that build arbitrary Python objects. That runs code of the
            file's author.

    Raises:
        WeightsError: there is no such file, it cannot be read, or it does not fit the model, which
            is as before then.
    """
    Checkpointer(model, allow_unsafe=allow_unsafe).load(path, checkpointables=[])
