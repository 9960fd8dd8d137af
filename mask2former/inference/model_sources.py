"""Which config and weights a user means: a run, a file, a Hugging Face model, a published name."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from mask2former_runtime.text import one_line, some_of

from .. import model_zoo
from ..checkpoint.files import HF_WEIGHT_FILES, WeightsError
from ..checkpoint.huggingface.config import CONFIG_FILE
from ..checkpoint.resume import FINAL
from ..model_zoo.model_zoo import similar_names
from .exported import SUFFIXES as EXPORT_SUFFIXES
from .exported import is_exported
from .hub import download_model
from .run_folder import checkpoint_of_run, config_beside

RUN_CONFIG = "config.yaml"
HUB = "hf://"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_WEIGHTS = (".bin", ".pkl", ".pt", ".pth", ".safetensors")


@dataclass(frozen=True)
class ModelSource:
    """A config, and the keys of it to change, such as ``MODEL.WEIGHTS``.

    Attributes:
        config_file: a YAML file, or a Hugging Face folder or an exported file, which have their own
            weights.
        overrides: ``(key, value, ...)``.
    """

    config_file: str
    overrides: tuple[object, ...] = ()

    @property
    def exported(self) -> bool:
        """Whether it is an exported file, whose network cannot be changed."""
        return is_exported(self.config_file)

    def refuse_exported(self, done: str) -> None:
        """Raise `ValueError` for an exported file, which cannot be "trained", for example."""
        if self.exported:
            raise ValueError(
                f"{self.config_file} is an exported file, which cannot be {done}: use the model "
                "that it was exported from"
            )


def find_model(
    source: str | os.PathLike[str],
    *,
    config_file: str | os.PathLike[str] | None = None,
    revision: str | None = None,
) -> ModelSource:
    """Find the config and the weights that a source names.

    Only the name of a published model, a Hub id and an address use the network, and only if the
    files are not in their caches.

    Args:
        source: one of

            - the folder of a run: ``config.yaml`` with ``model_final.pth`` or, in an unfinished
              run, the newest checkpoint;
            - a file of weights. Its config is the YAML file of the same name or ``config.yaml``
              beside it, unless `config_file` is given;
            - a YAML file in the folder of a run;
            - an exported file (``.onnx``, ``.xml`` or ``.pt2``), which is its own config;
            - a Hugging Face folder, or the Hub's ``owner/name`` (or ``hf://owner/name``);
            - the name of a published model: see `mask2former.model_zoo`;
            - an address of weights (see `local_weights`), with `config_file`.
        config_file: the config of a file or an address of weights.
        revision: branch, tag or commit of a model on the Hub.

    Raises:
        ValueError: the source does not exist, or could mean several things.
    """
    text = os.fspath(source) if isinstance(source, os.PathLike) else source
    if not isinstance(text, str):
        raise ValueError(f"a model is given by its path or name, not by a {type(text).__name__}")
    path = Path(os.path.expanduser(text))
    own_config = None if config_file is None else os.fspath(config_file)
    if text.startswith(HUB):
        return _on_hub(text.removeprefix(HUB), revision)
    if "://" in text:
        if own_config is None:
            raise ValueError(f"{text} names weights only: give their config too, as config_file")
        return ModelSource(own_config, ("MODEL.WEIGHTS", text))
    if os.path.isdir(path):
        if own_config is not None:
            raise ValueError(f"config_file is for a file of weights, and {text} is a folder")
        return _in_folder(path)
    if os.path.exists(path):
        return _of_file(path, own_config)
    if own_config is not None:
        raise ValueError(f"{text}: no such file")
    name = text.removesuffix(".yaml")
    if name in model_zoo.model_names():
        address = model_zoo.get_checkpoint_url(name)
        return ModelSource(model_zoo.get_config_file(name), ("MODEL.WEIGHTS", address))
    # "output/mine" with a mistake in it is a path, not a model of the owner "output".
    if _HUB_ID.fullmatch(text) and not path.parent.exists() and path.suffix not in _WEIGHTS:
        try:
            return _on_hub(text, revision)
        except WeightsError as error:
            raise WeightsError(f"there is no folder {text} here, and {error}") from error
    raise ValueError(_unknown(text, path))


def _in_folder(folder: Path) -> ModelSource:
    is_run, is_hf = (folder / RUN_CONFIG).is_file(), (folder / CONFIG_FILE).is_file()
    if is_run and is_hf:
        raise ValueError(
            f"{folder} holds both {RUN_CONFIG}, of a training run, and {CONFIG_FILE}, of a Hugging "
            f"Face model: name the file of weights, such as {folder / FINAL} or "
            f"{folder / HF_WEIGHT_FILES[0]}"
        )
    if is_hf:
        return ModelSource(str(folder))
    if is_run:
        return _of_run(folder / RUN_CONFIG)
    inner = sorted(
        path.parent for name in (RUN_CONFIG, CONFIG_FILE) for path in folder.glob(f"*/{name}")
    )
    hint = f". Did you mean {some_of(inner)}?" if inner else ""
    raise ValueError(
        f"{folder} is neither the folder of a training run ({RUN_CONFIG} and a checkpoint) nor of "
        f"a Hugging Face model ({CONFIG_FILE} and weights){hint}"
    )


def _of_run(config: Path) -> ModelSource:
    weights = checkpoint_of_run(config.parent)
    if weights is None:
        raise ValueError(
            f"beside {config} there is neither {FINAL} nor another checkpoint: name the file of "
            "the weights, and give the config as config_file"
        )
    return ModelSource(str(config), ("MODEL.WEIGHTS", str(weights)))


def _of_file(path: Path, config_file: str | None) -> ModelSource:
    if path.suffix in (".yaml", ".yml"):
        if config_file is not None:
            raise ValueError(f"config_file is for a file of weights, and {path} is a config")
        return _of_run(path)
    if path.suffix in EXPORT_SUFFIXES:
        if config_file is not None:
            raise ValueError(f"config_file is for a file of weights; {path} has its own")
        return ModelSource(str(path))
    if path.suffix not in _WEIGHTS and path.name not in HF_WEIGHT_FILES:
        raise ValueError(
            f"{path} is not a model: files of weights end in {', '.join(_WEIGHTS)}, exports "
            f"in {', '.join(EXPORT_SUFFIXES)}, configs in .yaml"
        )
    if config_file is None:
        if path.name in HF_WEIGHT_FILES and path.with_name(CONFIG_FILE).is_file():
            return ModelSource(str(path.parent))
        config_file = str(config_beside(path))
    return ModelSource(config_file, ("MODEL.WEIGHTS", str(path)))


def _on_hub(repository: str, revision: str | None) -> ModelSource:
    if not _HUB_ID.fullmatch(repository):
        raise ValueError(f"{HUB}{repository}: a model on the Hub is named {HUB}owner/name")
    return _in_folder(download_model(repository, revision))


def _unknown(text: str, path: Path) -> str:
    """Return what a source that does not exist may mean instead."""
    neighbours = [str(p) for p in path.parent.iterdir()] if path.parent.is_dir() else []
    hints = difflib.get_close_matches(str(path), neighbours, n=2, cutoff=0.7)
    hints += similar_names(text.removesuffix(".yaml"))[:3]
    hint = f". Did you mean {' or '.join(hints)}?" if hints else ""
    if not hint and _HUB_ID.fullmatch(text):
        hint = f". For a model on the Hub, write {HUB}{text}"
    return (
        f"{one_line(text, 200)}: no such file or folder, and no published model has this name{hint}"
    )
