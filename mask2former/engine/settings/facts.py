"""What the recipe needs to know about the data and the machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

from ...data.checks.report import ImageContent, StoredStatistics
from ...structures import Classes
from ...tasks import TaskName
from ...utils.device import has_fast_bfloat16
from ...utils.resources import free_memory, usable_cores

# Share of the free memory that training may take, and the memory of a machine that does not tell.
_SHARE = {"cpu": 0.6, "cuda": 0.85}
_USUAL_MEMORY = 8 * 2**30


@dataclass(frozen=True)
class DataFacts:
    """What the recipe needs to know about the data.

    Attributes:
        task: "panoptic", "instance" or "semantic".
        images: number of training images.
        val_images: number of validation images.
        short_side: median of the shorter sides of the training images, in pixels.
        long_side: median of their longer sides.
        elongation: longer side over shorter side, at least 1; 95th percentile.
        objects: objects, segments or classes per image; 99th percentile.
        most_objects: their largest number.
        void_is_background: whether pixels without a label can only be the background of the
            classes, as in panoptic data of things alone and in label maps of a single class.
        frequencies: share of the images that have each class, of the classes that occur, ascending;
            empty for semantic data.
        object_side: median of the sides of squares with the objects' areas, in pixels of their
            images; 0 if it is not known.
        stored: how the training images are stored, if they are no pictures of 8 bits.
    """

    task: TaskName
    images: int
    val_images: int
    short_side: int
    long_side: int
    elongation: float
    objects: int
    most_objects: int
    void_is_background: bool = False
    frequencies: tuple[float, ...] = ()
    object_side: float = 0.0
    stored: StoredStatistics | None = None


@dataclass(frozen=True)
class Machine:
    """What the recipe needs to know about the machine.

    Attributes:
        device: "cpu" or "cuda".
        processes: processes that train together.
        cores: processor cores that each process can use.
        memory: free memory of the device for each process, in bytes.
        fast_16_bit: whether the device computes faster in 16 bits than in float32.
    """

    device: str
    processes: int
    cores: int
    memory: float
    fast_16_bit: bool


def data_facts(
    task: TaskName,
    images: Mapping[str, ImageContent],
    classes: Classes,
    *,
    num_val: int = 0,
    stored: StoredStatistics | None = None,
) -> DataFacts:
    """Return what the recipe needs to know about data.

    Args:
        task: the task of the data.
        images: what the training images hold, by file name; at least one.
        classes: their classes.
        num_val: number of validation images.
        stored: see `DataFacts`.
    """
    sizes = [content.size for content in images.values() if content.size is not None]
    counts = sorted(count_units(content, task) for content in images.values())
    if task == "semantic" and not counts[-1]:  # the pixels of label maps were not read
        counts = [len(classes)]
    return DataFacts(
        task=task,
        images=max(1, len(images)),
        val_images=num_val,
        short_side=_percentile(sorted(map(min, sizes)), 0.5),
        long_side=_percentile(sorted(map(max, sizes)), 0.5),
        elongation=_percentile(sorted(max(size) / min(size) for size in sizes), 0.95),
        objects=_percentile(counts, 0.99),
        most_objects=counts[-1],
        void_is_background=(task == "semantic" and len(classes) == 1)
        or (task == "panoptic" and len(classes.things or ()) == len(classes)),
        frequencies=() if task == "semantic" else _frequencies(images),
        object_side=_percentile(sorted(a for c in images.values() for a in c.areas) or [0], 0.5)
        ** 0.5,
        stored=stored,
    )


def _frequencies(images: Mapping[str, ImageContent]) -> tuple[float, ...]:
    counts = Counter(c for content in images.values() for c, n in content.units.items() if n)
    return tuple(sorted(count / len(images) for count in counts.values()))


def count_units(content: ImageContent, task: TaskName) -> int:
    """Return how many objects, segments or classes an image holds, which need a query each."""
    return len(content.units) if task == "semantic" else content.units.total()


def _percentile(values: Sequence[Any], share: float) -> Any:
    """Return the value below which a share of the sorted values is."""
    return values[min(len(values) - 1, int(share * len(values)))]


def machine_facts(cfg: CfgNode) -> Machine:
    """Return what the recipe needs to know about this machine, for one of the processes."""
    device = torch.device(cfg.MODEL.DEVICE)
    processes = comm.get_world_size()
    here = comm.get_local_size()
    if device.type == "cuda":
        memory: float = torch.cuda.mem_get_info(device)[0]
    else:
        free = free_memory()
        memory = (_USUAL_MEMORY if free is None else free) / here
    return Machine(
        device=device.type,
        processes=processes,
        cores=max(1, usable_cores() // here),
        memory=memory * _SHARE[device.type],
        fast_16_bit=device.type == "cuda" or has_fast_bfloat16(),
    )
