"""`detectron2.model_zoo` for the published Mask2Former models.

A model's name is the path of its config within `configs/`, with or without ".yaml", such as
"coco/instance-segmentation/maskformer2_R50_bs16_50ep.yaml".
"""

from __future__ import annotations

import difflib
import functools
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import detectron2.config
    import torch

WEIGHTS_TABLE = "https://github.com/facebookresearch/Mask2Former/blob/main/MODEL_ZOO.md"
# The end of the name of the weights file, for the models for which it is certain.
WEIGHTS_HASHES = {
    "coco/instance-segmentation/maskformer2_R50_bs16_50ep": "3c8ec9",
    "coco/instance-segmentation/swin/maskformer2_swin_large_IN21k_384_bs16_100ep": "e5f453",
    "coco/panoptic-segmentation/maskformer2_R50_bs16_50ep": "94dc52",
    "coco/panoptic-segmentation/swin/maskformer2_swin_large_IN21k_384_bs16_100ep": "f07440",
}


def get(
    name: str, trained: bool = True, device: str | torch.device | None = None
) -> torch.nn.Module:
    """Build a published model.

    The published weights are licensed CC BY-NC 4.0: no commercial use.

    Args:
        name: see the top of this module.
        trained: load the published weights, which are downloaded the first time. Otherwise all
            weights are random, and no file is read.
        device: the device of the model. By default the config's if CUDA is available, or else the
            CPU.

    Returns:
        The model, in training mode like the models of `detectron2.model_zoo.get`.

    Raises:
        ValueError: no config has this name, or the address of its weights is not known. It is
            a `WeightsError` if the weights cannot be downloaded or read.
    """
    import torch
    from detectron2.modeling import build_model

    from ..checkpoint import load_weights

    cfg = get_config(name, trained)
    if device is None and not torch.cuda.is_available():
        device = "cpu"
    if device is not None:
        cfg.MODEL.DEVICE = str(device)
    model = build_model(cfg)
    if trained:
        load_weights(model, cfg.MODEL.WEIGHTS)
    return model


def get_config(name: str, trained: bool = False) -> detectron2.config.CfgNode:
    """Load the config of a published model.

    Args:
        name: see the top of this module.
        trained: set ``MODEL.WEIGHTS`` to the published weights. Otherwise it stays as in the
            config: the ImageNet backbone that training starts from.

    Raises:
        ValueError: no config has this name, or the address of its weights is not known.
    """
    from ..config import load_config

    cfg = load_config(get_config_file(name))
    if trained:
        cfg.MODEL.WEIGHTS = get_checkpoint_url(name)
    return cfg


def get_config_file(name: str) -> str:
    """Return the path of a config file, which exists as long as this package is installed.

    Args:
        name: see the top of this module. Files that other configs derive from have names too.

    Raises:
        ValueError: no config has this name.
    """
    name = name.removesuffix(".yaml")
    files = _config_files()
    if name not in files:
        raise ValueError(f"no config is named {name!r}. {_suggestion(name)}")
    return str(files[name])


def get_checkpoint_url(name: str) -> str:
    """Return the URL of the published weights.

    They are licensed CC BY-NC 4.0: no commercial use.

    Args:
        name: see the top of this module.

    Raises:
        ValueError: no config has this name, or the address of its weights is not known.
    """
    from ..checkpoint.sources import PUBLISHED_URL

    get_config_file(name)  # raises for an unknown name
    name = name.removesuffix(".yaml")
    if name not in model_names():
        raise ValueError(f"{name} is not a published model: there are no weights of it")
    if name not in WEIGHTS_HASHES:
        raise ValueError(
            f"this version does not know the address of the weights of {name}. Look it up in "
            f"{WEIGHTS_TABLE} and set MODEL.WEIGHTS to it, or to the path of the downloaded file"
        )
    dataset, task, *_, config = name.split("/")
    folder = f"{dataset}/{task.removesuffix('-segmentation')}/{config}"
    return f"{PUBLISHED_URL}{folder}/model_final_{WEIGHTS_HASHES[name]}.pkl"


def model_names() -> list[str]:
    """List the names of the published models, sorted, without ".yaml"."""
    return [
        name
        for name in _config_files()
        if "-segmentation/" in name and not name.rpartition("/")[2].startswith("Base-")
    ]


def config_folder() -> Path:
    """Return the folder of the config files of this package."""
    installed = Path(__file__).parent / "configs"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "configs"


@functools.cache
def _config_files() -> dict[str, Path]:
    folder = config_folder()
    files = sorted(folder.rglob("*.yaml"))
    if not files:
        raise FileNotFoundError(f"mask2former is installed without its configs: no {folder}")
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def similar_names(name: str) -> list[str]:
    """List what a wrong name may mean: the same file in other folders, or else similar names."""
    names, file = model_names(), name.rpartition("/")[2]
    elsewhere = [known for known in names if known.rpartition("/")[2] == file]
    return difflib.get_close_matches(name, elsewhere or names, cutoff=0.0 if elsewhere else 0.5)


def _suggestion(name: str) -> str:
    """Suggest names to write instead."""
    close = similar_names(name)
    if not close:
        return "`mask2former zoo` lists the published models (model_zoo.model_names() in Python)"
    return f"Did you mean {', '.join(close)}?"
