"""Training images as the model sees them: augmented, with their targets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from PIL import Image

from mask2former_runtime.drawing.scenes import InstanceScene, PanopticScene, Scene, SemanticScene
from mask2former_runtime.stored import STORED_TYPES, as_picture
from mask2former_runtime.text import counted

from ..data import ResumableSampler, SeededMapDataset, SegmentationMapper, build_mapper
from ..data.loader import build_train_dataset
from ..data.mapper.targets import crowd_segmentation
from ..structures import Classes

# Distance between the lines of the hatching, as a share of the longer side.
_HATCHING = 1 / 40


def classes_of(cfg: CfgNode) -> Classes:
    """Return the classes of the first data set of ``DATASETS.TRAIN``."""
    count = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    return Classes.from_metadata(metadata, count) or Classes.numbered(count)


def samples(cfg: CfgNode, *, raw: bool) -> Iterator[dict[str, Any]]:
    """Yield the samples of `mask2former.data.build_train_loader`, one by one: see `sample_stream`.

    Args:
        cfg: the config of the run. A negative ``SEED``, which stands for a random one, is 0 here.
        raw: leave out augmentation.
    """
    dataset = build_train_dataset(cfg)
    if raw:
        mapper, dataset.paste = build_mapper(cfg), None
        dataset.mapper = SegmentationMapper(
            augmentations=[],
            image_format=mapper.image_format,
            targets=mapper.targets,
            num_classes=mapper.num_classes,
            ignore_label=mapper.ignore_label,
        )
    yield from sample_stream(dataset, max(cfg.SEED, 0))


def sample_stream(dataset: SeededMapDataset, seed: int) -> Iterator[dict[str, Any]]:
    """Yield the samples of a run from its beginning.

    Samples of images with crowds also have ``crowds``, the `Instances` of the regions that training
    leaves out because nobody told the objects in them apart.

    Args:
        dataset: of dataset dicts, with the mapper of the run.
        seed: of the run.
    """
    for key in ResumableSampler(len(dataset), seed, rank=0, world_size=1, repeats=dataset.repeats):
        sample = dataset[key]
        record = dataset.dataset[key[0]]
        if any(item.get("iscrowd") for item in _objects(record)):
            # Crops depend on the seed alone, so a second pass gives the same one.
            second = SeededMapDataset([_crowds_only(record)], dataset.mapper)
            sample["crowds"] = second[0, key[1]]["instances"]
        yield sample


def _objects(record: dict[str, Any]) -> list[dict[str, Any]]:
    return record.get("annotations") or record.get("segments_info") or []


def _crowds_only(record: dict[str, Any]) -> dict[str, Any]:
    """Return a dataset dict whose crowds are objects, and whose objects are crowds."""
    swapped = []
    for item in _objects(record):
        item = {**item, "iscrowd": int(not item.get("iscrowd"))}
        if "annotations" in record and not item["iscrowd"]:
            item["segmentation"] = crowd_segmentation(item)
            if item["segmentation"] is None:  # it is nowhere
                continue
        swapped.append(item)
    return {**record, **{k: swapped for k in ("annotations", "segments_info") if k in record}}


def draw(sample: dict[str, Any], targets: str, classes: Classes, image_format: str) -> Image.Image:
    """Draw a training sample.

    Args:
        sample: the result of the mapper.
        targets: kind of targets; see `MapperPreset`.
        classes: the classes of the data set.
        image_format: ``INPUT.FORMAT``.
    """
    pixels = sample["image"].permute(1, 2, 0).numpy()
    if image_format in STORED_TYPES:
        image = as_picture(pixels)
    else:
        image = (pixels[..., ::-1] if image_format == "BGR" else pixels).copy()
    padding = sample["padding_mask"].numpy()
    image[padding] //= 3
    parts = [sample["instances"], *([sample["crowds"]] if "crowds" in sample else [])]
    masks = [mask.numpy() for part in parts for mask in part.gt_masks]
    labels = [label for part in parts for label in part.gt_classes.tolist()]
    crowds = range(len(parts[0]), len(masks))
    if targets == "instance":
        return InstanceScene(masks, labels, crowds=crowds).draw(image, classes)
    numbers = np.zeros(padding.shape, dtype=np.int32)
    for number, mask in enumerate(masks, start=1):
        numbers[mask] = number
    hatch(image, (numbers == 0) & ~padding)
    scene: Scene
    if targets == "semantic":
        scene = SemanticScene(np.array([classes.void_label, *labels])[numbers])
    else:
        segments = [
            {
                "id": i + 1,
                "category_id": label,
                "isthing": classes.is_thing(label),
                "iscrowd": int(i in crowds),
            }
            for i, label in enumerate(labels)
        ]
        scene = PanopticScene(numbers, segments)
    return scene.draw(image, classes)


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
        if "crowds" in sample:
            parts.append(counted(len(sample["crowds"]), "crowd"))
    padding = sample["padding_mask"]
    if targets != "instance":
        taken = padding.clone()
        for mask in sample["instances"].gt_masks:
            taken |= mask
        for mask in sample["crowds"].gt_masks if "crowds" in sample else ():
            taken |= mask
        parts.append(f"{1 - taken.float().mean():.0%} unlabelled")
    parts.append(f"{padding.float().mean():.0%} padding")
    height, width = padding.shape
    return f"{width}x{height}: {'; '.join(parts)}"
