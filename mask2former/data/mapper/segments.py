"""Read the panoptic segments of one image.

Shapes:
    H, W: height and width of the image.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mask2former_runtime.text import some_of

from ...utils.size import Size
from ..errors import DatasetError
from ..label_maps import check_size, read_panoptic_png
from ..segment_labels import NUM_SEGMENT_IDS, number_segments
from .classes import check_class

_LISTED = 8  # ids in a message


def read_segments(
    dataset_dict: dict[str, Any], image_size: Size, num_classes: int | None
) -> np.ndarray:
    """Read the panoptic PNG of one image and check its segments.

    Args:
        dataset_dict: with ``pan_seg_file_name`` and ``segments_info``.
        image_size: (height, width) of the upright image in the file.
        num_classes: classes are below this; None does not check.

    Returns:
        See `number_segments`.

    Raises:
        DatasetError: something is missing or unusable; the message names it.
    """
    for key in ("pan_seg_file_name", "segments_info"):
        if key not in dataset_dict:
            raise DatasetError(
                f"there is no {key!r}, so there are no panoptic segments to train on. Is this a "
                "test set, or one for another INPUT.DATASET_MAPPER_NAME?"
            )
    path, segments = dataset_dict["pan_seg_file_name"], dataset_dict["segments_info"]
    ids = read_panoptic_png(path)
    check_size(path, ids.shape, dataset_dict["file_name"], image_size)
    for segment in segments:
        segment_id = segment["id"]
        try:
            check_class(segment["category_id"], num_classes)
            if not 0 < segment_id < NUM_SEGMENT_IDS:
                raise ValueError(
                    f"ids are 1 to {NUM_SEGMENT_IDS - 1}; 0 is for pixels of no segment"
                )
        except ValueError as error:
            raise DatasetError(f"segment id {segment_id} of {path}: {error}.") from error
    numbers = number_segments(ids, segments)
    if len(segments) and not numbers.any():
        found = np.unique(ids)
        raise DatasetError(
            f"none of the {len(segments)} segments of segments_info is in {path}; listed are "
            f"{some_of([s['id'] for s in segments], _LISTED)}, "
            f"there are {some_of(found, _LISTED)}. "
            "A pixel's id is R + 256 G + 65536 B."
        )
    return numbers
