"""Training images as the model sees them: augmented, with their targets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from PIL import Image

from ..data import ResumableSampler, SeededMapDataset, SegmentationMapper, build_mapper
from ..data.mapper import get_preset
from ..data.training_set import load_training_set
from ..structures import Classes
from ..visualization import (
    draw_instances,
    draw_panoptic,
    draw_semantic,
    palette_color,
)

# Distance between the lines of the hatching, as a share of the longer side.
_HATCHING = 1 / 40


def classes_of(cfg: CfgNode) -> Classes:
    """Return the classes of the first data set of ``DATASETS.TRAIN``."""
    count = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    return Classes.from_metadata(metadata, count) or Classes.numbered(count)


def samples(cfg: CfgNode, *, raw: bool) -> Iterator[dict[str, Any]]:
    """Yield the samples of `mask2former.data.build_train_loader`, one by one.

    Args:
        cfg: the config of the run. A negative ``SEED``, which stands for a random one, is 0 here.
        raw: leave out augmentation.
    """
    preset = get_preset(cfg)
    records = load_training_set(
        cfg.DATASETS.TRAIN, preset.targets, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    )
    mapper = build_mapper(cfg)
    if raw:
        mapper = SegmentationMapper(
            augmentations=[],
            image_format=mapper.image_format,
            targets=mapper.targets,
            num_classes=mapper.num_classes,
            ignore_label=mapper.ignore_label,
        )
    dataset = SeededMapDataset(records, mapper)
    for key in ResumableSampler(len(dataset), max(cfg.SEED, 0), rank=0, world_size=1):
        yield dataset[key]


def draw(sample: dict[str, Any], targets: str, classes: Classes, image_format: str) -> Image.Image:
    """Draw a training sample.

    Args:
        sample: the result of the mapper.
        targets: kind of targets; see `MapperPreset`.
        classes: the classes of the data set.
        image_format: ``INPUT.FORMAT``.
    """
    pixels = sample["image"].permute(1, 2, 0).numpy()
    image = (pixels[..., ::-1] if image_format == "BGR" else pixels).copy()
    padding = sample["padding_mask"].numpy()
    masks, labels = sample["instances"].gt_masks, sample["instances"].gt_classes.tolist()
    numbers = np.zeros(padding.shape, dtype=np.int32)
    for number, mask in enumerate(masks, start=1):
        numbers[mask.numpy()] = number
    image[padding] //= 3
    if targets == "instance":
        names = [classes.names[label] for label in labels]
        colors = [palette_color(i) for i in range(len(labels))]
        return draw_instances(image, [mask.numpy() for mask in masks], names, colors)
    hatch(image, (numbers == 0) & ~padding)
    if targets == "semantic":
        classes_of_pixels = np.array([-1, *labels])[numbers]
        return draw_semantic(image, classes_of_pixels, classes.names, classes.colors, -1)
    segments = [{"id": i, "category_id": label} for i, label in enumerate(labels, start=1)]
    return draw_panoptic(
        image, numbers, segments, classes.names, classes.things or (), classes.colors
    )


def hatch(image: np.ndarray, mask: np.ndarray) -> None:
    """Draw diagonal lines where the mask (H, W) covers the image (H, W, 3), in place."""
    distance = max(4, round(_HATCHING * max(mask.shape)))
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    phase = (rows + columns) % distance
    width = max(1, distance // 6)
    # A light line beside a dark one is visible on every background.
    image[mask & (phase < width)] = 235
    image[mask & (phase >= width) & (phase < 2 * width)] = 20


def summary(sample: dict[str, Any], targets: str, classes: Classes) -> str:
    """Return the number of targets and how much of the image is unlabelled or padding, in words."""
    labels = sample["instances"].gt_classes.tolist()
    counts = Counter(classes.names[label] for label in labels)
    if targets == "semantic":
        parts = [", ".join(counts) or "no class"]
    else:
        parts = [", ".join(f"{n} {name}" for name, n in counts.items()) or "no target"]
    padding = sample["padding_mask"]
    if targets != "instance":
        taken = padding.clone()
        for mask in sample["instances"].gt_masks:
            taken |= mask
        parts.append(f"{1 - taken.float().mean():.0%} unlabelled")
    parts.append(f"{padding.float().mean():.0%} padding")
    height, width = padding.shape
    return f"{width}x{height}: {'; '.join(parts)}"
