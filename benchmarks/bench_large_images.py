#!/usr/bin/env python
"""Memory and time of tiled inference against the size of the image.

Images are tiled TIFF files with one object per 200 x 200 pixels. A segmenter that reads the objects
from their colours stands for a network, which would add the same memory for each size. Each size
and task runs in a process of its own.

    python benchmarks/bench_large_images.py [--sizes 4000 20000] [--tile 1024] [--overlap 0.2]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import rasterio
from machine import memory
from rasterio.windows import Window

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/helpers"))

PITCH = 200


def write_image(path: Path, side: int) -> int:
    """Write discs, no two of one number within 50 x 50 of them, and return how many there are."""
    count = side // PITCH
    y, x = np.mgrid[:PITCH, :PITCH] - PITCH / 2
    options = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"}
    with rasterio.open(
        path, "w", driver="GTiff", height=side, width=side, count=3, dtype="uint8",
        photometric="RGB", **options,
    ) as file:  # fmt: skip
        for row in range(count):
            line = np.zeros((3, PITCH, side), np.uint8)
            for column in range(count):
                number = row % 50 * 50 + column % 50 + 1
                disc = np.hypot(y, x) < 20 + number * 7 % 70
                place = line[:, :, column * PITCH : (column + 1) * PITCH]
                place[:, disc] = np.array([[1 + number % 3], [number >> 8], [number & 255]])
            file.write(line, window=Window(0, row * PITCH, side, PITCH))
    return count * count


def run(path: Path, task: str, tile: int, overlap: float) -> dict[str, float]:
    """Segment the image in this process."""
    from mosaics import Oracle

    from mask2former.inference.tiling.grid import Tiling
    from mask2former.inference.tiling.large_image import segment_to_files
    from mask2former.inference.tiling.tiled import TiledSegmenter

    segmenter = TiledSegmenter(Oracle(task), Tiling(tile, overlap))
    before = memory()["peak"]
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        found = segment_to_files(segmenter, path, Path(folder, "picture.png"), quiet=True)
    seconds = time.monotonic() - start
    return {"found": found, "seconds": seconds, "before": before, **memory()}


def main() -> None:
    """Print the figures."""
    warnings.filterwarnings("ignore", "Dataset has no geotransform")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[4000, 20000])
    parser.add_argument(
        "--tasks", nargs="+", default=["instance", "panoptic", "semantic"], metavar="TASK"
    )
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--overlap", type=float, default=0.2)
    parser.add_argument("--image", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.image is not None:
        print(json.dumps(run(args.image, args.tasks[0], args.tile, args.overlap)))
        return
    with tempfile.TemporaryDirectory() as folder:
        for side in args.sizes:
            path = Path(folder, f"{side}.tif")
            count = write_image(path, side)
            for task in args.tasks:
                flags = ["--tile", args.tile, "--overlap", args.overlap, "--tasks", task]
                command = [sys.executable, __file__, "--image", path, *flags]
                done = subprocess.run(
                    [str(part) for part in command], check=True, capture_output=True, text=True
                )
                figures = json.loads(done.stdout.splitlines()[-1])
                print(
                    f"{side} x {side}, {count} objects, {task}: {figures['found']}, "
                    f"{figures['peak'] / 1e6:.0f} MB ({figures['before'] / 1e6:.0f} MB before), "
                    f"{figures['seconds']:.0f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
