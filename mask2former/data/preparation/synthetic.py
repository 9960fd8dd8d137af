"""A small synthetic data set in COCO formats, for the quickstart and for tests.

``python -m mask2former.data.preparation.synthetic --output datasets/synthetic_shapes`` writes::

    {train,val}/000001.jpg                        RGB images
    annotations/instances_{train,val}.json        COCO instances; polygons and compressed RLE
    annotations/panoptic_{train,val}.json         COCO panoptic
    panoptic_{train,val}/000001.png               segment id = R + 256 G + 65536 B; 0 is void
    semantic_{train,val}/000001.png               contiguous ids: the five things in the order of
                                                  `THING_CLASSES`, then `STUFF_CLASSES`; 255 is void
    synthetic_shapes.json                         the parameters; written last

All three kinds of ground truth show the same scene. A scene depends only on the seed, the split and
its position, so a larger set begins with the images of a smaller one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

from mask2former_runtime.files import read_json
from mask2former_runtime.maps import ids_to_rgb

from ...utils.progress import with_progress
from ..datasets.synthetic_shapes import (
    FOLDER,
    SPLITS,
    STUFF_CLASSES,
    STUFF_IDS,
    THING_CLASSES,
    THING_IDS,
)
from .segments import distinct_id, regions_of
from .synthetic_scenes import VOID, Scene, draw_scene

SEMANTIC_IGNORE = 255

_META_FILE = "synthetic_shapes.json"
_FORMAT_VERSION = 1


def generate(
    output_dir: str | os.PathLike[str],
    *,
    train: int = 800,
    val: int = 80,
    size: int = 128,
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Write the data set, unless it is already there with the same parameters.

    The files are written beside `output_dir` and moved there when complete, so an interrupted run
    leaves no half-written set under that name.

    Args:
        output_dir: folder of the data set. It must be missing, be empty, or hold this very set.
        train: number of training images, at least 1.
        val: number of validation images, at least 1.
        size: side of the square images in pixels, at least 64.
        seed: non-negative seed of all randomness.
        progress: show a progress bar with the time left.

    Returns:
        The folder of the data set.

    Raises:
        ValueError: a parameter is out of range, or `output_dir` holds something else.
    """
    for name, value, least in (("train", train, 1), ("val", val, 1), ("size", size, 64)):
        if value < least:
            raise ValueError(f"{name}={value}: must be at least {least}.")
    if seed < 0:
        raise ValueError(f"seed={seed}: must not be negative.")
    output = Path(output_dir)
    parameters = {
        "format_version": _FORMAT_VERSION,
        "train": train,
        "val": val,
        "size": size,
        "seed": seed,
    }
    if _is_complete(output, parameters):
        print(f"{output} already holds this data set ({train} train, {val} val images).")
        return output

    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.parent / f".{output.name}.partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for split_index, (split, count) in enumerate(zip(SPLITS, (train, val), strict=True)):
            indices: Iterable[int] = range(count)
            if progress:
                indices = with_progress(indices, f"Drawing {split}", unit="images")
            _write_split(partial, split, indices, size=size, seed=(seed, split_index))
        (partial / _META_FILE).write_text(json.dumps(parameters, indent=1) + "\n")
        partial.replace(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return output


def _is_complete(output: Path, parameters: dict[str, int]) -> bool:
    """Return whether `output` holds this set (True) or nothing (False); raise for other content."""
    if not output.exists():
        return False
    if not output.is_dir():
        raise ValueError(f"{output} is not a folder. Give another output folder.")
    meta_file = output / _META_FILE
    if not meta_file.is_file():
        if any(output.iterdir()):
            raise ValueError(
                f"{output} holds files but no {_META_FILE}, so it is not a synthetic data set. "
                "Give another output folder; nothing was written."
            )
        return False
    found = read_json(meta_file)
    if found != parameters:
        differences = ", ".join(
            f"{key} is {found.get(key)}, asked for {value}"
            for key, value in parameters.items()
            if found.get(key) != value
        )
        raise ValueError(
            f"{output} holds a synthetic data set with other parameters ({differences}). "
            "Remove it or give another output folder; nothing was written."
        )
    return True


def _write_split(
    root: Path, split: str, indices: Iterable[int], *, size: int, seed: tuple[int, int]
) -> None:
    folders = {kind: root / f"{kind}{split}" for kind in ("", "panoptic_", "semantic_")}
    for folder in (*folders.values(), root / "annotations"):
        folder.mkdir(parents=True, exist_ok=True)

    images: list[dict[str, Any]] = []
    instance_annotations: list[dict[str, Any]] = []
    panoptic_annotations: list[dict[str, Any]] = []
    for index in indices:
        scene = draw_scene(np.random.default_rng((*seed, index)), size)
        image_id = index + 1
        stem = f"{image_id:06d}"
        # Full chroma resolution keeps the edges of the shapes where the masks are.
        Image.fromarray(scene.image).save(folders[""] / f"{stem}.jpg", quality=95, subsampling=0)
        images.append({"id": image_id, "file_name": f"{stem}.jpg", "width": size, "height": size})
        instance_annotations.extend(
            _instance_annotations(scene, image_id, len(instance_annotations) + 1)
        )
        panoptic, segments = _panoptic(scene)
        _save_png(panoptic, folders["panoptic_"] / f"{stem}.png")
        panoptic_annotations.append(
            {"image_id": image_id, "file_name": f"{stem}.png", "segments_info": segments}
        )
        _save_png(_semantic(scene), folders["semantic_"] / f"{stem}.png")

    things = [
        {"id": i, "name": name, "supercategory": "shape", "isthing": 1}
        for i, name in zip(THING_IDS, THING_CLASSES, strict=True)
    ]
    stuff = [
        {"id": i, "name": name, "supercategory": "ground", "isthing": 0}
        for i, name in zip(STUFF_IDS, STUFF_CLASSES, strict=True)
    ]
    info = {"description": "Synthetic overlapping shapes", "version": str(_FORMAT_VERSION)}
    for kind, records, categories in (
        ("instances", instance_annotations, things),
        ("panoptic", panoptic_annotations, things + stuff),
    ):
        content = {
            "info": info,
            "images": images,
            "annotations": records,
            "categories": categories,
        }
        (root / "annotations" / f"{kind}_{split}.json").write_text(json.dumps(content))


def _save_png(array: np.ndarray, path: Path) -> None:
    Image.fromarray(array).save(path, compress_level=6)


def _instance_annotations(scene: Scene, image_id: int, first_id: int) -> list[dict[str, Any]]:
    annotations = []
    for offset, instance in enumerate(scene.instances):
        (region,) = regions_of(instance.mask.astype(np.uint8)).values()
        segmentation: Any
        if instance.polygon is not None:
            segmentation = [[round(float(c), 2) for c in instance.polygon.reshape(-1)]]
        else:
            rle = mask_util.encode(np.asfortranarray(instance.mask.astype(np.uint8)))
            segmentation = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
        annotations.append(
            {
                "id": first_id + offset,
                "image_id": image_id,
                "category_id": THING_IDS[instance.class_index],
                "segmentation": segmentation,
                **region,
                "iscrowd": 0,
            }
        )
    return annotations


def _panoptic(scene: Scene) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return the (S, S, 3) uint8 picture of segment ids and the COCO list of segments."""
    masks = [(THING_IDS[i.class_index], i.mask) for i in scene.instances]
    masks += [(STUFF_IDS[k], scene.stuff == k) for k in range(len(STUFF_CLASSES))]
    numbers = np.zeros(scene.stuff.shape, dtype=np.int32)
    for number, (_, mask) in enumerate(masks, start=1):
        numbers[mask] = number
    ids = np.array([0, *(distinct_id(number) for number in range(1, len(masks) + 1))])
    segments = [
        {"id": int(ids[number]), "category_id": masks[number - 1][0], **region, "iscrowd": 0}
        for number, region in regions_of(numbers).items()
    ]
    return ids_to_rgb(ids[numbers]), segments


def _semantic(scene: Scene) -> np.ndarray:
    """Return the (S, S) uint8 map of contiguous class ids."""
    stuff = scene.stuff.astype(int)  # from int8, which cannot hold SEMANTIC_IGNORE
    labels = np.where(stuff == VOID, SEMANTIC_IGNORE, stuff + len(THING_CLASSES))
    for instance in scene.instances:
        labels[instance.mask] = instance.class_index
    return labels.astype(np.uint8)


def main(args: list[str] | None = None) -> None:
    """Run the command line of the generator."""
    parser = argparse.ArgumentParser(
        prog="python -m mask2former.data.preparation.synthetic",
        description="Write a synthetic data set in COCO instance, panoptic and semantic formats.",
    )
    default = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / FOLDER
    parser.add_argument("--output", default=str(default), help="folder to write (%(default)s)")
    parser.add_argument("--train", type=int, default=800, help="training images (%(default)s)")
    parser.add_argument("--val", type=int, default=80, help="validation images (%(default)s)")
    parser.add_argument("--size", type=int, default=128, help="image side, pixels (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (%(default)s)")
    options = parser.parse_args(args)
    try:
        output = generate(
            options.output,
            train=options.train,
            val=options.val,
            size=options.size,
            seed=options.seed,
        )
    except ValueError as error:
        parser.error(str(error))
    print(f"Synthetic data set: {output}")


if __name__ == "__main__":
    main()
