"""Segments of an image as COCO's panoptic format has them.

Shape letters: H, W height and width.
"""

from __future__ import annotations

from typing import Any

import numpy as np


class PanopticMap:
    """Collects the segments of an image: ids that look distinct as colours, area and box.

    Attributes:
        ids: (H, W) int32, the segment of each pixel, 0 where there is none.
    """

    def __init__(self, height: int, width: int):
        self.ids = np.zeros((height, width), dtype=np.int32)
        self._categories: dict[int, int] = {}

    def add(self, mask: np.ndarray, category_id: int) -> None:
        """Add a segment. What `mask`, (H, W) bool, covers of earlier ones is theirs no more."""
        # An odd factor permutes the 24-bit numbers: distinct ids that look distinct as colours.
        segment_id = (len(self._categories) + 1) * 0x5D3B97 % (1 << 24)
        self._categories[segment_id] = category_id
        self.ids[mask] = segment_id

    def rgb(self) -> np.ndarray:
        """Return the pixels of the PNG file, (H, W, 3) uint8: id = R + 256 G + 65536 B."""
        return np.stack([self.ids >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)

    def segments_info(self) -> list[dict[str, Any]]:
        """Return id, category_id, area, bbox (x, y, width, height) and iscrowd, as they were added.

        A segment that later ones cover wholly is left out.
        """
        boxes = boxes_of(self.ids)
        return [
            {"id": i, "category_id": category_id, **boxes[i], "iscrowd": 0}
            for i, category_id in self._categories.items()
            if i in boxes
        ]


def boxes_of(ids: np.ndarray) -> dict[int, dict[str, Any]]:
    """Return area and bbox (x, y, width, height) of each id of a map except 0.

    Args:
        ids: (H, W) whole numbers.
    """
    found, inverse = np.unique(ids, return_inverse=True)
    inverse = inverse.reshape(ids.shape)
    areas = np.bincount(inverse.reshape(-1), minlength=len(found))
    # (ids, H) and (ids, W): which rows and columns have a pixel of it
    rows = np.zeros((len(found), ids.shape[0]), dtype=bool)
    columns = np.zeros((len(found), ids.shape[1]), dtype=bool)
    rows[inverse, np.arange(ids.shape[0])[:, None]] = True
    columns[inverse, np.arange(ids.shape[1])[None, :]] = True
    boxes = {}
    for i, segment_id in enumerate(found.tolist()):
        if segment_id:
            ys, xs = np.flatnonzero(rows[i]), np.flatnonzero(columns[i])
            box = [xs[0], ys[0], xs[-1] - xs[0] + 1, ys[-1] - ys[0] + 1]
            boxes[segment_id] = {"area": int(areas[i]), "bbox": [int(side) for side in box]}
    return boxes
