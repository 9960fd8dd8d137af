"""Reading and writing files of weights, without running code that they may contain."""

from __future__ import annotations

import collections
import os
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from mask2former_runtime.files import read_json, write_atomically

from .digests import METADATA, append_digest, digest_holds, insert_digest
from .pickles import is_zip, read_archive, read_pickle
from .rebuild import WEIGHT_DTYPES, NotPlain

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
# In an index: other files beside it, so that no index can refer to itself.
_SHARD = re.compile(r"(?!\.)[\w. +-]{1,200}\.(safetensors|bin)")
_TRUST = (
    "If you trust the author of the file, allow it with --allow-unsafe-weights (in Python: "
    "allow_unsafe_weights=True)"
)


class WeightsError(ValueError):
    """Raised for weights that cannot be read or do not fit; the message says what to do."""


@contextmanager
def as_weights_error(what: str) -> Iterator[None]:
    """Turn any error of code that trusts the content of a file into a `WeightsError`."""
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0][:300]
        raise WeightsError(f"{what}: {type(error).__name__}: {reason}") from error


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
        what = "not a regular file" if path.exists() else "no such file"
        raise WeightsError(f"cannot load the weights: {what}: {path}")
    try:
        content = _read(path, allow_unsafe)
        return _nest(content, path)
    except WeightsError:
        raise
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"cannot load the weights {path}: {_why_not_unpickled(str(error))}"
        ) from error
    except Exception as error:  # damaged files make the readers raise any kind
        reason = str(error).partition("\n")[0][:300] or type(error).__name__
        raise WeightsError(
            f"cannot load the weights {path}, the file may be damaged: {reason}"
        ) from error


def _read(path: Path, allow_unsafe: bool) -> Any:
    if path.suffix == ".json":
        return _read_shards(path, allow_unsafe)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not digest_holds(file, path.suffix == ".safetensors"):
            raise WeightsError(
                f"{path} has changed since it was written, by a damaged disk, for example: its "
                "SHA-256 is another. Use an earlier checkpoint or another copy"
            )
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        pickled = path.suffix == ".pkl" and not is_zip(file)
        if allow_unsafe:
            if pickled:
                return pickle.Unpickler(file, encoding="latin1").load()
            return torch.load(file, map_location="cpu", weights_only=False)
        return read_pickle(file, size) if pickled else read_archive(file, size)


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

    def write(file: BinaryIO) -> None:
        writers[path.suffix](content, file)
        if path.suffix != ".safetensors":
            append_digest(file)

    write_atomically(path, write)


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
    content = read_json(index)
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not names:
        raise WeightsError(f"{index}: 'weight_map' does not map names of tensors to files")
    shards = list(dict.fromkeys(map(str, names.values())))
    for shard in shards:
        if not _SHARD.fullmatch(shard):
            raise WeightsError(
                f"{index}: {shard[:100]!r} in 'weight_map' is not the name of a .safetensors or "
                ".bin file beside it"
            )
    state: State = {}
    for shard in sorted(shards):
        part = read_checkpoint(index.parent / shard, allow_unsafe)["model"]
        if twice := state.keys() & part.keys():
            raise WeightsError(f"{index}: {min(twice)[:200]!r} is in {shard} and in another file")
        state.update(part)
    missing = next((name for name in names if name not in state), None)
    if missing is not None:
        raise WeightsError(f"{index} lists {missing[:200]!r}, but none of its files holds it")
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
    if not state:
        raise WeightsError(f"{path} holds no tensors")
    if hasattr(weights, "_metadata"):
        state = collections.OrderedDict(state)
        state._metadata = weights._metadata  # type: ignore[attr-defined]
    return {"model": state, **checkpoint}


def _as_tensor(name: object, value: object, path: Path) -> Tensor:
    """Return the tensor of a parameter: dense, of a plain type, and finite."""
    if isinstance(value, np.ndarray | np.generic):
        value = torch.from_numpy(np.array(value))
    if isinstance(name, str) and not (name.isprintable() and len(name) <= 1000):
        raise WeightsError(f"{path}: {name[:200]!r} is not the name of a parameter")
    if not isinstance(name, str) or not isinstance(value, Tensor):
        kind = value.kind if isinstance(value, NotPlain) else f"a {type(value).__name__}"
        raise WeightsError(
            f"{path} does not hold weights: {str(name)[:200]!r} is {kind}, not a tensor of numbers"
        )
    value = value.detach()
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
        kind = "quantised" if value.is_quantized else str(value.layout).removeprefix("torch.")
        kind = f"on the device {value.device}" if value.device.type != "cpu" else kind
        raise WeightsError(f"{path}: {name[:200]!r} is {kind}; weights are dense and hold data")
    if value.dtype not in WEIGHT_DTYPES:
        raise WeightsError(f"{path}: {name[:200]!r} is of {value.dtype}, which weights are not")
    # Models are of float32: numbers beyond its range would become infinite there.
    as_loaded = value.float() if value.dtype == torch.float64 else value
    if value.is_floating_point() and not as_loaded.isfinite().all():
        raise WeightsError(
            f"{path}: {name[:200]!r} holds NaN or infinity, as after training that diverged. "
            "Use an earlier checkpoint or another copy"
        )
    return value


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
    return insert_digest(safetensors.torch.save(state, metadata={"format": "pt", **METADATA}))


def _why_not_unpickled(error: str) -> str:
    refused = re.search(r"GLOBAL ([\w.]+)", error)
    if refused:
        name = refused[1][:100]
        return f"it asks for {name}, which weights do not need and may run any code. {_TRUST}"
    return f"the file may be damaged: {error.partition(chr(10))[0][:300]}"
