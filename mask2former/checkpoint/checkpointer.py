"""Detectron2's checkpointer, with the readers and the checks of this package."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from fvcore.common.checkpoint import _IncompatibleKeys
from torch import Tensor, nn

from mask2former_runtime.files import write_atomically

from ..modeling.backbone import TimmBackbone
from ..modeling.meta_arch.mask_former_head import migrate_names
from .backbones import convert_backbone
from .files import (
    State,
    WeightsError,
    as_weights_error,
    hf_weights_file,
    read_checkpoint,
    write_checkpoint,
)
from .huggingface.eomt_names import eomt_to_d2, is_eomt_state
from .huggingface.weight_names import hf_to_d2, is_hf_state
from .matching import as_starting_point, compare, report, without_pilots
from .resizing import resized
from .resume import LAST_CHECKPOINT, newest_checkpoints
from .sources import local_weights
from .timm_weights import convert_timm

# Names that every head of Mask2Former has, in new or in old checkpoints, and Detectron2's own
# heads, which are `sem_seg_head` too, do not have.
_MASK2FORMER_HEAD = re.compile(
    r"sem_seg_head\.(pixel_decoder\.|mask_features\.|predictor\.static_query)"
)


class UnreadableError(WeightsError):
    """Raised for a file that cannot be read, unlike one that does not fit the model."""


def to_model_names(state: State) -> State:
    """Give weights of any known kind the names of this package's models.

    Args:
        state: weights of Hugging Face's Mask2Former or EoMT, of an ImageNet backbone (see
            `convert_backbone`), or of one of this package's or the published checkpoints, old ones
            included.

    Returns:
        The same weights under new names. Names of any other model stay as they are.
    """
    # Weights saved from within torch's parallel wrappers
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if is_eomt_state(state):
        with as_weights_error("the weights do not have the shapes of Hugging Face's EoMT"):
            return eomt_to_d2(state)
    if is_hf_state(state):
        with as_weights_error("the weights do not have the shapes of Hugging Face's Mask2Former"):
            return hf_to_d2(state)
    state = dict(convert_backbone(state) or state)
    if any(_MASK2FORMER_HEAD.match(name) for name in state):
        migrate_names(state)
    return state


def _from_caffe2(state: State, model: State) -> State:
    """Rename the weights of Caffe2's ImageNet classifiers to the names of the model."""
    found = align_and_update_state_dicts(model, state, c2_conversion=True)
    # Caffe2's batch norms have a scale and an offset only: the model keeps its initial statistics.
    statistics = {
        name: tensor
        for name, tensor in model.items()
        if name.startswith("backbone.") and ".running_" in name
    }
    return statistics | {name: tensor for name, tensor in found.items() if name in model}


class Checkpointer(DetectionCheckpointer):
    """Loads weights of every kind that this package knows, completely or not at all.

    `load` takes local files, Hugging Face folders and addresses (see `local_weights`). Where
    Detectron2's checkpointer logs a warning and goes on, it raises `WeightsError` with a report.

    Args:
        model: the model to load into and to save.
        save_dir: the folder that `save` writes to.
        for_training: accept weights of a backbone alone, or of a model with other classes, other
            queries or fewer levels, unless a checkpoint is resumed. Parameters that they do not
            fill keep their random values.
        allow_unsafe: read pickles that build arbitrary Python objects. This runs code written by
            the file's author.
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
    ) -> None:
        super().__init__(model, save_dir, **checkpointables)
        self.for_training = for_training
        self.allow_unsafe = allow_unsafe
        self._may_start_anew = False
        self._resuming = False
        self._source = ""
        self.resumed_from = ""

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Load the newest whole checkpoint of `save_dir` with all state, or weights from `path`.

        Args:
            path: the weights to start from, where nothing is resumed.
            resume: continue from `save_dir` if it holds a checkpoint. Damaged ones are passed over.

        Raises:
            WeightsError: no checkpoint of `save_dir` can be read, or the newest does not fit.
        """
        checkpoints = newest_checkpoints(Path(self.save_dir)) if resume else []
        if not checkpoints:
            if resume:
                self.logger.info("No checkpoint to resume in %s", self.save_dir or "save_dir")
            return self.load(path, checkpointables=[])
        damaged: list[str] = []
        for checkpoint in checkpoints:
            self.logger.info("Resuming from %s", checkpoint)
            try:
                self._resuming = True
                content = self.load(str(checkpoint))
            except UnreadableError as error:
                self.logger.warning("%s; the checkpoint before it is tried", error)
                damaged.append(str(error))
                continue
            finally:
                self._resuming = False
            self.resumed_from = str(checkpoint)
            return content
        raise WeightsError(
            f"no checkpoint in {self.save_dir} can be resumed: {'; '.join(damaged)}. "
            "To start again, give another OUTPUT_DIR"
        )

    def has_checkpoint(self) -> bool:
        """Return whether `save_dir` holds a checkpoint, whole or not."""
        return bool(newest_checkpoints(Path(self.save_dir)))

    def get_checkpoint_file(self) -> str:
        """Return the newest checkpoint of `save_dir`, or "" if there is none."""
        return next(map(str, newest_checkpoints(Path(self.save_dir))), "")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write the name of the newest checkpoint to the file `last_checkpoint`, atomically."""
        name = last_filename_basename.encode()
        write_atomically(Path(self.save_dir, LAST_CHECKPOINT), lambda file: file.write(name))

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load as Detectron2 does, or raise `WeightsError` and leave the model as it was."""
        self._source = path
        self._may_start_anew = self.for_training and checkpointables is not None
        if path:
            path = local_weights(path)
            if os.path.isdir(path):
                path = str(hf_weights_file(Path(path)))
        try:
            with as_weights_error(f"the state of training in {self._source} cannot be used"):
                return super().load(path, checkpointables)
        finally:
            self._parsed_url_during_load = None  # Detectron2 does not reset it after an error

    def save(self, name: str, **kwargs: Any) -> None:
        """Save as Detectron2 does; a crash while writing leaves an older file intact.

        Raises:
            OSError: the disk is full or the folder cannot be written to.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        file_name = f"{name}.pth"
        path = Path(self.save_dir, file_name)
        self.logger.info("Saving checkpoint to %s", path)
        try:
            write_checkpoint({**data, **kwargs}, path)
        except (OSError, RuntimeError) as error:
            # torch raises an error of its own while it handles that of the disk
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            reason = f"cannot save a checkpoint: {cause.strerror or cause}"
            raise OSError(cause.errno, reason, str(path)) from error
        self.tag_last_checkpoint(file_name)

    def _load_file(self, filename: str) -> dict[str, Any]:
        try:
            return read_checkpoint(filename, self.allow_unsafe)
        except WeightsError as error:
            raise UnreadableError(str(error)) from error

    def _load_model(self, checkpoint: dict[str, Any]) -> _IncompatibleKeys | None:
        if self._resuming and "trainer" in self.checkpointables and "trainer" not in checkpoint:
            final = checkpoint.get("final")
            where = f" from {final['continue_from']} beside it alone" if final else ""
            raise WeightsError(
                f"{self._source} holds weights only, so that training cannot be resumed{where}: "
                "give it as MODEL.WEIGHTS, and another OUTPUT_DIR, without --resume"
            )
        state = checkpoint.pop("model")
        backbone = getattr(self.model, "backbone", None)
        of_timm = convert_timm(state, backbone) if isinstance(backbone, TimmBackbone) else None
        state = of_timm or to_model_names(state)
        model = self.model.state_dict()
        if checkpoint.get("__author__") == "Caffe2":
            with as_weights_error(f"{self._source} does not hold weights of Caffe2"):
                state = _from_caffe2(state, model)
        note = resized_note = ""
        if self._may_start_anew:
            state, resized_note = resized(state, self.model)
        fit = compare(state, model)
        if self._may_start_anew:
            fit, note = as_starting_point(fit, state)
        note += resized_note
        if not self._resuming:
            fit, of_pilots = without_pilots(fit)
            note += of_pilots
        if not fit:
            raise WeightsError(report(fit, self._source, state, model))
        fitting = {name: t for name, t in state.items() if name in model}
        fitting = {
            name: self._converted(name, t, model[name])
            for name, t in fitting.items()
            if t.shape == model[name].shape
        }
        if not fitting:
            raise WeightsError(f"no tensor of {self._source} has the name of one in the model")
        others = {str(state[name].dtype) for name in fitting} - {
            str(model[name].dtype) for name in fitting
        }
        if others:
            note += f" Tensors of {', '.join(sorted(others))} were converted."
        self.model.load_state_dict(fitting, strict=False)
        self.logger.info(
            "%d of the model's %d tensors were loaded from %s. %s",
            len(fitting), len(model), self._source, note,
        )  # fmt: skip
        return None

    def _converted(self, name: str, tensor: Tensor, own: Tensor) -> Tensor:
        """Return a tensor of the file in the type of the model's, which must be able to hold it."""
        found = tensor.to(own.dtype)
        if tensor.is_floating_point() != own.is_floating_point():
            problem = f"is of {tensor.dtype}, in the model of {own.dtype}"
        elif (
            found.is_floating_point() and found.dtype != tensor.dtype and not found.isfinite().all()
        ):
            problem = f"holds numbers that {own.dtype}, its type in the model, cannot hold"
        elif name.endswith("relative_position_index") and not torch.equal(found, own.cpu()):
            problem = "does not number the positions in a window as the model does"
        elif name.endswith("running_var") and (found < 0).any():
            problem = "holds a negative variance"
        else:
            return found
        raise WeightsError(f"the weights {self._source} do not fit the model: {name} {problem}")


def load_weights(model: nn.Module, path: str, *, allow_unsafe: bool = False) -> None:
    """Load weights of any kind that `Checkpointer` knows into the whole model.

    Args:
        model: the model to load into.
        path: a local file, a Hugging Face folder, or an address (see `local_weights`).
        allow_unsafe: read pickles that build arbitrary Python objects. This runs code written by
            the file's author.

    Raises:
        WeightsError: the file does not exist, cannot be read or does not fit the model. The model
            stays as it was.
    """
    if not path:
        raise WeightsError("no weights are named: give a file, a folder or an address")
    Checkpointer(model, allow_unsafe=allow_unsafe).load(path, checkpointables=[])
