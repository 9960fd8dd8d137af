"""Labels are counted as by hand."""

import numpy as np
import pytest
from detectron2.structures import BoxMode
from PIL import Image

from mask2former.data import DatasetError
from mask2former.report.label_statistics import MOST_MAPS, count_labels


def thing(category: int, box=(0, 0, 4, 9), crowd: int = 0) -> dict:
    return {
        "category_id": category,
        "bbox": list(box),
        "bbox_mode": BoxMode.XYWH_ABS,
        "iscrowd": crowd,
    }


def test_objects():
    records = [
        {"annotations": [thing(0), thing(0, (5, 5, 10, 10)), thing(2), thing(2, crowd=1)]},
        {"annotations": []},
        {"annotations": [thing(0, (1, 1, 100, 100))]},
    ]
    found = count_labels(records, "instance", 4)
    assert found.unit == "objects" and found.images == found.examined == 3
    assert found.counts.tolist() == [3, 0, 1, 0]
    assert found.in_images.tolist() == [2, 0, 1, 0]
    assert found.sides[[0, 2]].tolist() == [10, 6] and np.isnan(found.sides[[1, 3]]).all()
    assert found.crowds == 1


def test_segments_need_no_boxes():
    segments = [{"category_id": 1, "iscrowd": 0}, {"category_id": 0}, {"category_id": 1}]
    found = count_labels([{"segments_info": segments}], "panoptic", 2)
    assert found.unit == "segments"
    assert found.counts.tolist() == [1, 2] and found.in_images.tolist() == [1, 1]
    assert np.isnan(found.sides).all()


def test_pixels_of_maps_spread_over_the_data(tmp_path):
    label_map = np.array([[0, 0, 1], [255, 255, 1]], dtype=np.uint8)
    Image.fromarray(label_map).save(tmp_path / "a.png")
    record = {"sem_seg_file_name": str(tmp_path / "a.png")}
    found = count_labels([record] * 3, "semantic", 3)
    assert found.counts.tolist() == [6, 6, 0] and found.in_images.tolist() == [3, 3, 0]
    many = count_labels([record] * (3 * MOST_MAPS), "semantic", 3)
    assert many.images == 3 * MOST_MAPS and many.examined == MOST_MAPS
    with pytest.raises(DatasetError, match=r"missing\.png"):
        count_labels([{"sem_seg_file_name": str(tmp_path / "missing.png")}], "semantic", 3)
