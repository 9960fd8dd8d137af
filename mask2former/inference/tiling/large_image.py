"""A large image file: look at its tiles, write the results, draw a picture of them.

What the tiles show is kept in a folder until everything is written, so that a run that was
interrupted goes on where it stopped, and gives the same files.

Shapes:
    H, W: height and width of the image, h, w: of the picture.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from mask2former_runtime.drawing.regions import draw_panoptic, draw_semantic
from mask2former_runtime.files import sync_folder
from mask2former_runtime.prediction import save_picture

from ...structures import Classes
from ...utils.progress import with_progress
from ...utils.size import Size
from .grid import Grid
from .result_files import LargeImage, write_results
from .store import FolderStore
from .tiled import TiledSegmenter, TileResults
from .windows import open_windows

LARGE_PIXELS = 1 << 24
"""Results of images of more pixels go to files, because memory may not hold the masks of all of
their objects."""
PICTURE_SIDE = 2048
"""The longer side of a picture in pixels, at most."""


def segment_to_files(
    segmenter: TiledSegmenter,
    path: Path,
    picture: Path,
    *,
    image_id: int = 1,
    quiet: bool = False,
) -> str:
    """Segment an image file, and write what is found beside a picture of it.

    Files have the name of the picture: ``.json`` in COCO's format, for segments and classes with a
    map (``.segments`` or ``.labels``) in ``.png`` or, if the image has a place on the earth,
    ``.tif``. Meanwhile, tiles are in a folder there, which may continue an interrupted run.

    Args:
        segmenter: how to look at tiles, and which.
        path: the image.
        picture: the file of the picture, whose folder need not exist.
        image_id: of the image in the files.
        quiet: whether to show no progress.

    Returns:
        What was found, in words.

    Raises:
        ImageReadError: the image cannot be read.
        OtherSettingsError: the folder has tiles of a run with other settings.
        OSError: a file cannot be written.
    """
    with open_windows(path, segmenter.stored) as windows:
        grid = Grid(windows.size, segmenter.tiling)
        folder = picture.with_name(f".{picture.stem}.tiles")
        store = FolderStore(folder, _settings(segmenter, path))
        results = TileResults(segmenter.segmenter, grid, store)
        missing = [tile for tile in range(len(grid)) if not results.has(tile)]
        progress = with_progress(
            missing,
            path.name,
            total=len(grid),
            initial=len(grid) - len(missing),
            unit="tiles",
            quiet=quiet,
        )
        with progress:
            for tile in progress:
                results.add(tile, windows.read(grid.tile(tile)))
        overview = Overview(windows.size)
        # Files that an interrupted run left unfinished go with this folder.
        written = folder / "results"
        written.mkdir(exist_ok=True)
        stem = written / picture.stem
        image = LargeImage(stem, str(path), windows.size, windows.georeference, image_id)
        found = write_results(results, image, overview.paint)
        pixels = windows.overview(overview.step)
    labels, task = image.labels_of_numbers, segmenter.task
    save_picture(overview.draw(pixels, task, labels, segmenter.classes), written / picture.name)
    for file in (*image.files(task), written / picture.name):
        os.replace(file, picture.with_name(file.name))
    sync_folder(picture.parent)
    shutil.rmtree(folder)
    return found


def _settings(segmenter: TiledSegmenter, path: Path) -> dict[str, object]:
    status = path.stat()
    return {
        "image": str(path.resolve()),
        "image_bytes": status.st_size,
        "image_time": status.st_mtime_ns,
        "task": segmenter.task,
        "tile": segmenter.tiling.size,
        "overlap": segmenter.tiling.overlap,
        **segmenter.settings(),
    }


class Overview:
    """Each n-th pixel of each n-th row of a map, painted part by part.

    Args:
        size: (H, W) of the map.
    """

    def __init__(self, size: Size):
        self.step = -(-max(size) // PICTURE_SIDE)
        self._map = np.zeros([-(-length // self.step) for length in size], np.int32)

    def paint(self, top: int, left: int, values: np.ndarray) -> None:
        """Show a part of the map: the place of its first pixel and its values; 0 adds nothing."""
        first_row, first_column = -top % self.step, -left % self.step
        chosen = values[first_row :: self.step, first_column :: self.step]
        row, column = (top + first_row) // self.step, (left + first_column) // self.step
        part = self._map[row : row + chosen.shape[0], column : column + chosen.shape[1]]
        np.copyto(part, chosen, where=chosen != 0)

    def draw(
        self, image: np.ndarray, task: str, labels: list[int], classes: Classes
    ) -> Image.Image:
        """Draw the map.

        Args:
            image: what to draw on, (h, w, 3) uint8, RGB.
            task: "semantic" if values are classes.
            labels: otherwise, the class of each value.
            classes: names and colours.
        """
        if task == "semantic":
            return draw_semantic(image, self._map, classes.names, classes.colors, None)
        segments = [
            {
                "id": number,
                "category_id": labels[number],
                "isthing": task == "instance" or classes.is_thing(labels[number]),
            }
            for number in np.unique(self._map).tolist()
            if number
        ]
        return draw_panoptic(image, self._map, segments, classes.names, None, classes.colors)
