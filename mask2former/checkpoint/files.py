"""Reading and writing files of weights, without running code that they may contain."""

from __future__ import annotations

import collections
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from ..utils.files import read_json, write_atomically
from .pickles import read_pickle

State = dict[str, Tensor]

# Names of the weights in a Hugging Face folder, in the order in which they are looked for.
HF_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# Keys under which files store their weights: Detectron2 and Swin, many others, pycls.
_NESTED_UNDER = ("model", "state_dict", "model_state")
_TRUST = (
    "If you trust the author of the file, allow it with --allow-unsafe-weights (in Python: "
    "allow_unsafe=True)"
)


class WeightsError(ValueError):
    """Raised for weights that cannot be read or do not fit; the message says what to do."""


def read_checkpoint(path: str | os.PathLike[str], allow_unsafe: bool = False) -> dict[str, Any]:
    """Read the weights, and everything else that a checkpoint holds, onto the CPU.

    Args:
        path: a local `.pth`, `.pt`, `.bin` (PyTorch), `.pkl` (Detectron2, Caffe2), `.safetensors`
            or `.index.json` (Hugging Face, in several files) file, or a Hugging Face folder.
        allow_unsafe: read pickles that build arbitrary Python objects. This runs code written by
            the file's author.

    Returns:
        A dict whose "model" maps parameter names to tensors. Weights that the file stores under
        another key, or under none, are moved there; other entries are as in the file.

    Raises:
        WeightsError: the file does not exist, is damaged or of another kind, or it holds objects
            other than tensors, arrays and containers and `allow_unsafe` is false.
    """
    path = Path(path)
    if path.is_dir():
        path = hf_weights_file(path)
    if not path.is_file():
        raise WeightsError(f"cannot load the weights: no such file: {path}")
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        elif path.suffix == ".json":
            content = _read_shards(path, allow_unsafe)
        elif path.suffix == ".pkl" and not _is_zip(path):
            with path.open("rb") as file:
                content = read_pickle(file, allow_unsafe)
        else:
            content = torch.load(path, map_location="cpu", weights_only=not allow_unsafe)
        checkpoint = _nest(content, path)
    except WeightsError:
        raise
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"cannot load the weights {path}: {_why_not_unpickled(str(error))}"
        ) from error
    except Exception as error:  # damaged files make the readers raise any kind
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise WeightsError(
            f"cannot load the weights {path}, the file may be damaged: {reason}"
        ) from error
    return checkpoint


def hf_weights_file(folder: Path) -> Path:
    """Return the file in a Hugging Face folder that holds, or lists, its weights.

    Raises:
        WeightsError: the folder has no such file.
    """
    for name in HF_WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(f"the folder {folder} holds none of {', '.join(HF_WEIGHT_FILES)}")


def write_checkpoint(
    checkpoint: dict[str, Any], path: str | os.PathLike[str], overwrite: bool = True
) -> None:
    """Write a checkpoint atomically: afterwards there is either the whole file or the old one.

    Args:
        checkpoint: "model" maps parameter names to tensors; all other entries are plain data.
        path: ends in `.pth` (PyTorch), `.pkl` (NumPy arrays, as Detectron2's published models) or
            `.safetensors` (weights only).
        overwrite: replace an existing file.

    Raises:
        WeightsError: the path has another suffix, the file exists and `overwrite` is false, or the
            format cannot hold the checkpoint.
    """
    path = Path(path)
    writers: dict[str, Callable[[dict[str, Any], BinaryIO], object]] = {
        ".pth": lambda content, file: torch.save(content, file),
        ".pkl": lambda content, file: pickle.dump(_as_numpy(content, path), file, protocol=4),
        ".safetensors": lambda content, file: file.write(_as_safetensors(content, path)),
    }
    if path.suffix not in writers:
        raise WeightsError(f"{path}: weights are written as one of {', '.join(writers)}")
    if path.exists() and not overwrite:
        raise WeightsError(f"{path} exists already")
    content = {**checkpoint, "model": with_versions(checkpoint["model"])}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: writers[path.suffix](content, file))


def with_versions(state: State) -> collections.OrderedDict[str, Tensor]:
    """Add the metadata that a `state_dict()` of the model carries, unless the state has some.

    The published code renames the tensors of a state without this metadata, as in old checkpoints.
    """
    versioned = collections.OrderedDict(state)
    metadata = getattr(state, "_metadata", None)
    if metadata is None:
        modules = ("sem_seg_head", "sem_seg_head.predictor")
        metadata = collections.OrderedDict(
            (module, {"version": 2})
            for module in modules
            if any(name.startswith(f"{module}.") for name in state)
        )
    versioned._metadata = metadata  # type: ignore[attr-defined]
    return versioned


def _read_shards(index: Path, allow_unsafe: bool) -> State:
    """Read the files that a Hugging Face index names."""
    names = read_json(index)["weight_map"]
    state: State = {}
    for shard in sorted(set(names.values())):
        if Path(shard).name != shard:
            raise WeightsError(f"{index}: {shard!r} is not the name of a file beside it")
        state.update(read_checkpoint(index.parent / shard, allow_unsafe)["model"])
    missing = sorted(set(names) - set(state))
    if missing:
        raise WeightsError(f"{index} lists {missing[0]}, but none of its files holds it")
    return state


def _nest(content: Any, path: Path) -> dict[str, Any]:
    """Return the content with its weights, as tensors, under "model"."""
    if not isinstance(content, dict):
        raise WeightsError(
            f"{path} holds a {type(content).__name__}, not a dict of parameter names and tensors"
        )
    for key in _NESTED_UNDER:
        if isinstance(content.get(key), dict):
            weights = content[key]
            checkpoint = {k: v for k, v in content.items() if k != key}
            break
    else:
        weights, checkpoint = content.get("blobs", content), {}
        if not any("." in str(name) for name in weights):
            # Caffe2's files use names that Detectron2 converts, and hold momenta of the parameters.
            weights = {k: v for k, v in weights.items() if not str(k).endswith("_momentum")}
            checkpoint = {"__author__": "Caffe2", "matching_heuristics": True}
    state = {name: _as_tensor(name, value, path) for name, value in weights.items()}
    if hasattr(weights, "_metadata"):
        state = collections.OrderedDict(state)
        state._metadata = weights._metadata  # type: ignore[attr-defined]
    return {"model": state, **checkpoint}


def _as_tensor(name: object, value: object, path: Path) -> Tensor:
    if isinstance(name, str) and isinstance(value, Tensor):
        return value.detach()
    if isinstance(name, str) and isinstance(value, np.ndarray | np.generic):
        return torch.from_numpy(np.array(value))
    raise WeightsError(
        f"{path} does not hold weights: {name!r} is a {type(value).__name__}, not a tensor"
    )


def _as_numpy(content: dict[str, Any], path: Path) -> dict[str, Any]:
    arrays: collections.OrderedDict[str, Any] = collections.OrderedDict()
    for name, tensor in content["model"].items():
        if tensor.dtype == torch.bfloat16:
            raise WeightsError(f"{path}: NumPy has no bfloat16 for {name}; write .pth instead")
        arrays[name] = tensor.detach().cpu().numpy()
    arrays._metadata = content["model"]._metadata  # type: ignore[attr-defined]
    return {"__author__": "mask2former", **content, "model": arrays}


def _as_safetensors(content: dict[str, Any], path: Path) -> bytes:
    others = sorted(set(content) - {"model", "__author__", "matching_heuristics"})
    if others:
        raise WeightsError(f"{path}: .safetensors holds weights only, not {', '.join(others)}")
    state = {name: tensor.detach().contiguous() for name, tensor in content["model"].items()}
    return safetensors.torch.save(state, metadata={"format": "pt"})


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _why_not_unpickled(error: str) -> str:
    refused = re.search(r"GLOBAL ([\w.]+)", error)
    if refused:
        return f"it asks for {refused[1]}, which weights do not need and may run any code. {_TRUST}"
    return f"the file may be damaged: {error.partition(chr(10))[0]}"
