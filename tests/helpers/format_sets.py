"""Small sets of objects, in COCO's form, and comparing what two readings of a set found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
from coco_sets import encode
from PIL import Image
from scipy.optimize import linear_sum_assignment

from mask2former.data.formats.convert import convert_data
from mask2former.data.own_folder import recognise_folder

NAMES = ["cup", "müsli 2", "bed"]
SIZE = (60, 80)


def disk(y, x, radius, size=SIZE):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


def polygon(y, x, radius, corners=12):
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    points = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)
    return points.round(2).reshape(-1).tolist()


def objects_of_image(number):
    """(class, crowd, segmentation) of the objects of an image; they do not touch each other."""
    if number == 1:
        return []
    ring = disk(30, 20, 15) & ~disk(30, 20, 7)
    objects = [
        (0, 0, [polygon(15, 55, 10 + number)]),
        (1, 0, [polygon(45, 45, 6), polygon(45, 62, 7)]),  # two parts
        (2, 0, encode(ring)),  # a hole
    ]
    if number == 2:
        objects.append((0, 1, encode(disk(54, 74, 5))))  # crowd
    return objects


def write_coco(folder: Path, splits=(("train", 4), ("val", 2)), only_polygons=False) -> Path:
    """Write a small set with holes, objects of several parts, crowds and an empty image."""
    rng = np.random.default_rng(0)
    (folder / "annotations").mkdir(parents=True)
    for split, count in splits:
        images, annotations = [], []
        (folder / split).mkdir()
        for number in range(count):
            name = f"{split}_{number}.png"
            pixels = rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / split / name)
            image = {"id": number + 1, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
            images.append(image)
            for label, crowd, segmentation in objects_of_image(number):
                if only_polygons and isinstance(segmentation, dict):
                    continue
                rle = segmentation
                if isinstance(segmentation, list):
                    rle = mask_util.merge(mask_util.frPyObjects(segmentation, *SIZE))
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image["id"],
                        "category_id": label + 1,
                        "iscrowd": crowd,
                        "segmentation": segmentation,
                        "area": float(mask_util.area(rle)),
                        "bbox": mask_util.toBbox(rle).tolist(),
                    }
                )
        categories = [{"id": i, "name": name} for i, name in enumerate(NAMES, start=1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        path = folder / f"annotations/instances_{split}.json"
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return folder


def splits_of(folder, task=None, format=None):
    """What `recognise_folder` finds, by split."""
    found = recognise_folder(folder, task, format=format)
    splits = {"train" if found.has_splits else "all": found.train, "val": found.val}
    return {split: data for split, data in splits.items() if data is not None}


def convert(source, target, to, task=None, format=None):
    """Convert a folder; return what was left out."""
    return convert_data(splits_of(source, task, format), target, to)


def read_objects(data, *, warnings=False):
    """File stem -> list of (name of class, crowd, mask), with pycocotools alone.

    Checks the data first.
    """
    report = data.check(evaluated=True, pixels=True, classes=None)
    assert not (report.num_errors if warnings else report.problems), str(report)
    content = json.loads(Path(data.json_file).read_text(encoding="utf-8"))
    names = {c["id"]: c["name"] for c in content["categories"]}
    found = {}
    for image in content["images"]:
        objects = found.setdefault(Path(image["file_name"]).stem, [])
        size = image["height"], image["width"]
        for annotation in content["annotations"]:
            if annotation["image_id"] == image["id"]:
                rle = annotation["segmentation"]
                if isinstance(rle, list):
                    polygons = [p for p in rle if len(p) >= 6]
                    rle = mask_util.merge(mask_util.frPyObjects(polygons, *size))
                elif isinstance(rle["counts"], list):
                    rle = mask_util.frPyObjects(rle, *size)
                name = names[annotation["category_id"]]
                objects.append((name, annotation.get("iscrowd", 0), mask_util.decode(rle) > 0))
    return found


def visible(objects):
    """The parts of objects that no smaller one covers, as formats without overlaps hold them."""
    things = sorted((o for o in objects if not o[1]), key=lambda o: -o[2].sum())
    seen = [o for o in objects if o[1]]
    for i, (name, crowd, mask) in enumerate(things):
        hidden = np.zeros_like(mask)
        for _, _, other in things[i + 1 :]:
            hidden |= other
        seen.append((name, crowd, mask & ~hidden))
    return seen


def lowest_iou(one, other) -> float:
    """The lowest IoU of the objects of two readings, paired within image and class.

    The images, and the numbers of objects of each class, must be equal.
    """
    assert one.keys() == other.keys()
    lowest = 1.0
    for stem in one:
        kinds = sorted({o[:2] for o in one[stem]} | {o[:2] for o in other[stem]})
        for kind in kinds:
            a, b = ([o[2] for o in found[stem] if o[:2] == kind] for found in (one, other))
            assert len(a) == len(b), (stem, kind, len(a), len(b))
            ious = np.array([[(x & y).sum() / (x | y).sum() for y in b] for x in a])
            lowest = min(lowest, ious[linear_sum_assignment(-ious)].min())
    return lowest
