import numpy as np
import pytest

from mask2former.data.segment_labels import (
    NUM_SEGMENT_IDS,
    number_segments,
    segment_classes,
    semantic_labels,
)


@pytest.mark.parametrize("ignore_label", [-1, 0, 255, 65535])
@pytest.mark.parametrize("count", [0, 1, 254, 255, 400])
def test_pixels_get_the_classes_of_their_segments(count, ignore_label):
    rng = np.random.default_rng(count)
    ids = rng.choice(NUM_SEGMENT_IDS, 500, replace=False)
    ids[:2] = 0, NUM_SEGMENT_IDS - 1
    pixels = rng.choice(ids, (90, 110)).astype(np.uint32)
    # Neither pixels without segment, nor segments without pixels or with impossible ids matter.
    listed = [int(i) for i in ids[1 : 1 + count]]
    segments = [{"id": i, "category_id": int(rng.integers(300))} for i in listed]
    segments[count // 2 : count // 2 + 1] = [{"id": 1 << 30, "category_id": 5}]
    labels = semantic_labels(pixels, segments, ignore_label)
    assert labels.dtype == np.int32
    classes = {s["id"]: s["category_id"] for s in segments}
    assert labels.tolist() == [
        [classes.get(i, ignore_label) for i in row] for row in pixels.tolist()
    ]

    numbers = number_segments(pixels, segments)
    assert numbers.dtype == (np.uint8 if len(segments) <= 254 else np.uint16)
    table = segment_classes(segments, ignore_label)
    assert len(table) == np.iinfo(numbers.dtype).max + 1
    assert (table[numbers] == labels).all()
