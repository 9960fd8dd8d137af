"""What a model will miss in a user's own data, said before it is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from detectron2.config import CfgNode

from mask2former_runtime.preprocessing import network_size
from mask2former_runtime.text import counted

from ... import model_zoo
from ...config import load_config
from ...data.checks.report import ImageContent, Report
from ...data.mapper.augmentations import has_fixed_crop, has_scale_jitter
from ...tasks import TASKS, TaskName
from .choices import set_values
from .default_model import default_model
from .facts import count_units, data_facts, machine_facts
from .recipe import FAR_LARGER, choose

# Masks are predicted at a quarter of the network's size: smaller objects have 2 x 2 pixels there.
_SMALL_SIDE = 8
# Less than this share of the objects is not worth a warning.
_LEAST_SHARE = 0.01


def data_warnings(
    cfg: CfgNode, images: Mapping[str, ImageContent], task: TaskName
) -> Iterator[str]:
    """Yield a line for each thing that a model of this config will miss, with the key to change.

    Args:
        cfg: the config of the run.
        images: what the training images hold, by file name.
        task: the task of the data.
    """
    yield from _small_objects(cfg, images)
    if cfg.MODEL.META_ARCHITECTURE == "MaskFormer":
        yield from _many_objects(cfg, images, task)


def _small_objects(cfg: CfgNode, images: Mapping[str, ImageContent]) -> Iterator[str]:
    sizes = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    seen, scales = [], []
    for content in images.values():
        if content.size is not None and content.areas:
            height, width = network_size(*content.size, *sizes)
            scale = (height * width) / (content.size[0] * content.size[1])
            scales.append(scale**0.5)
            seen.append(np.array(content.areas, np.float32) * scale)
    sides = np.sqrt(np.concatenate(seen)) if seen else np.zeros(0)
    small = sides[sides < _SMALL_SIDE]
    if len(small) and len(small) >= _LEAST_SHARE * len(sides):
        median = np.median(small)
        tiles = ""
        if np.median(scales) < FAR_LARGER:
            tiles = "; or train with INPUT.OBJECT_CROP 0.5 and predict with --tile"
        yield (
            f"{len(small)} of {counted(len(sides), 'object')} are smaller than {_SMALL_SIDE} x "
            f"{_SMALL_SIDE} pixels where the network sees them (their median is "
            f"{median:.1f} x {median:.1f}) and will hardly be found: give a larger "
            f"{_size_keys(cfg)}, as far as memory and time allow{tiles}"
        )


def _size_keys(cfg: CfgNode) -> str:
    """Return the keys that decide how large the network sees images, with their values."""
    keys = ["IMAGE_SIZE"] if has_scale_jitter(cfg) else ["MIN_SIZE_TRAIN"]
    if keys == ["MIN_SIZE_TRAIN"] and has_fixed_crop(cfg):
        return f"INPUT.CROP.SIZE (now {list(cfg.INPUT.CROP.SIZE)})"
    keys += ["MIN_SIZE_TEST", "MAX_SIZE_TEST"]
    return " and ".join(f"INPUT.{key} (now {cfg.INPUT[key]})" for key in keys)


def _many_objects(
    cfg: CfgNode, images: Mapping[str, ImageContent], task: TaskName
) -> Iterator[str]:
    queries = cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES
    counts = [count_units(content, task) for content in images.values()]
    over = [count for count in counts if count > queries]
    if over:
        verb = "has" if len(over) == 1 else "have"
        yield (
            f"{len(over)} of {counted(len(counts), 'image')} {verb} more {TASKS[task].units} "
            f"than the model has queries, {queries}, and it cannot find more of them than that: "
            f"the most is {max(over)}. Give a larger MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"
        )


def warnings_of_defaults(report: Report, task: TaskName) -> list[str]:
    """Return the warnings for a run of `mask2former train` without further arguments.

    Args:
        report: of the training set, without errors.
        task: its task.
    """
    model = default_model(task)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cfg = load_config(model_zoo.get_config_file(model.name), ["MODEL.DEVICE", device])
    data = data_facts(task, report.images, report.classes)
    set_values(cfg, choose(cfg, data, machine_facts(cfg)))
    found = list(data_warnings(cfg, report.images, task))
    heading = f"With the settings that `mask2former train` would choose ({model.name}):"
    return [heading, *(f"  WARNING {warning}" for warning in found)] if found else []
