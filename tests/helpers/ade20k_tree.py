"""A miniature of ADE20K: small images and random annotations in the folders of the real one."""

from pathlib import Path

import numpy as np
from PIL import Image

THINGS = 100
SPLITS = {"train": "training", "val": "validation"}


def blocks(rng, shape, choices):
    """Random rectangles of random values."""
    pixels = np.full(shape, rng.choice(choices))
    for _ in range(8):
        y, x = (rng.integers(side) for side in shape)
        h, w = (rng.integers(1, side) for side in shape)
        pixels[y : y + h, x : x + w] = rng.choice(choices)
    return pixels


def save(path: Path, pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels).astype(np.uint8)).save(path)


def write_ade20k(root: Path, train: int = 9, val: int = 3, seed: int = 0) -> Path:
    """Write the tree below ``root`` and return its folder."""
    folder = root / "ADEChallengeData2016"
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        for number in rng.choice(np.arange(1, 300), count, replace=False):
            name, part = f"ADE_{split}_{number:08d}", SPLITS[split]
            shape = tuple(rng.integers(12, 30, 2))
            save(folder / f"images/{part}/{name}.jpg", rng.integers(256, size=(*shape, 3)))
            labels = blocks(rng, shape, [0, *rng.integers(3, 151, 6), 150])
            # Objects are unique in an image; those without a number are none.
            numbers = blocks(rng, shape, [0, 0, 3, 7, 200, 255])
            # Stuff that an object covers wholly
            labels[5, 5], numbers[5, 5] = 2, 7
            of_number = rng.integers(1, THINGS + 1, 256)
            classes = np.where(numbers > 0, of_number[numbers], 0)
            objects = np.stack([classes, numbers, np.full(shape, 9)], axis=-1)
            objects[0, 0] = (5, 0, 0)
            save(folder / f"annotations/{part}/{name}.png", labels)
            save(folder / f"annotations_instance/{part}/{name}.png", objects)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    """Relative path -> content of all files."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
