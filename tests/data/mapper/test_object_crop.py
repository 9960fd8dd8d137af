"""Windows around objects: what they hold, how they are drawn, and that targets follow them."""

from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

from mask2former.data import SegmentationMapper, build_mapper, build_train_loader
from mask2former.data.loader import seeded
from mask2former.data.mapper.labelled_input import LabelledInput
from mask2former.data.mapper.object_crop import ObjectCrop
from mask2former.data.segment_labels import number_segments

LEAST = 16


def mapper(targets: str, object_crop: ObjectCrop | None) -> SegmentationMapper:
    return SegmentationMapper(
        augmentations=[], image_format="RGB", targets=targets, object_crop=object_crop
    )


def window_of(seed: int, targets: str, record: dict) -> T.CropTransform | None:
    """The window that a mapper draws under a seed."""
    drawn = []

    class Recording(ObjectCrop):
        def transform(self, *arguments):
            drawn.append(super().transform(*arguments))
            return drawn[-1]

    with seeded(seed):
        mapper(targets, Recording(1.0, LEAST))(record)
    return drawn[0]


def with_bitmaps(record: dict) -> dict:
    annotations = [a for a in record["annotations"] if not a.get("iscrowd")]
    masks = mapper("instance", None)({**record, "annotations": annotations})["instances"].gt_masks
    assert len(masks) == len(annotations)
    return {
        **record,
        "annotations": [
            {**a, "segmentation": mask.numpy()} for a, mask in zip(annotations, masks, strict=True)
        ],
    }


def by_class(instances, part=(slice(None), slice(None))) -> list[tuple[int, bytes]]:
    masks = instances.gt_masks.tensor[(slice(None), *part)]
    return sorted(
        (category, mask.numpy().tobytes())
        for mask, category in zip(masks, instances.gt_classes.tolist(), strict=True)
        if mask.any()
    )


@pytest.mark.parametrize("targets", ["instance", "panoptic", "semantic"])
def test_image_and_targets_are_those_of_the_window(shapes, targets):
    records = DatasetCatalog.get(f"synthetic_shapes_{targets}_train")
    cropped = 0
    for seed, record in enumerate(records):
        if targets == "instance":  # polygons are drawn anew in the window, and bitmaps are cut
            record = with_bitmaps(record)
        whole = mapper(targets, None)(record)
        with seeded(seed):
            part = mapper(targets, ObjectCrop(1.0, LEAST))(record)
        window = window_of(seed, targets, record)
        x, y, w, h = window.x0, window.y0, window.w, window.h
        rows, columns = slice(y, y + h), slice(x, x + w)
        assert min(w, h) >= LEAST and (part["height"], part["width"]) == (64, 64)
        assert torch.equal(part["image"], whole["image"][:, rows, columns])
        assert by_class(part["instances"]) == by_class(whole["instances"], (rows, columns))
        cropped += h * w < 64 * 64
    assert cropped > len(records) / 2


def made_up(boxes: list[tuple[int, list[int]]]) -> dict:
    """A record with objects of classes, whose boxes are given as (left, top, right, bottom)."""
    return {
        "annotations": [
            {"category_id": c, "bbox": box, "bbox_mode": BoxMode.XYXY_ABS} for c, box in boxes
        ]
    }


def windows(record, size, count=600, least=LEAST, **maps):
    crop = ObjectCrop(1.0, least)
    image = np.zeros((*size, 3), np.uint8)
    found = []
    for seed in range(count):
        with seeded(seed):
            found.append(crop.transform(LabelledInput(image, **maps), record, 255))
    return found


def test_windows_hold_an_object_of_a_class_that_is_drawn_first():
    """20 objects of class 0 lie on the left, one of class 1 on the right."""
    left = [(0, [10 * i % 60, 4 * i, 10 * i % 60 + 6, 4 * i + 5]) for i in range(20)]
    found = windows(made_up([*left, (1, [180, 30, 190, 44])]), (100, 200))
    holds_rare = 0
    for w in found:
        assert w.x0 >= 0 and w.x0 + w.w <= 200 and w.y0 >= 0 and w.y0 + w.h <= 100
        boxes = [box for _, box in left if w.x0 <= box[0] and box[2] <= w.x0 + w.w
                 and w.y0 <= box[1] and box[3] <= w.y0 + w.h]  # fmt: skip
        rare = w.x0 <= 180 and w.x0 + w.w >= 190 and w.y0 <= 30 and w.y0 + w.h >= 44
        assert boxes or rare
        holds_rare += rare
    assert holds_rare > 0.45 * len(found)


def test_every_scale_is_as_likely():
    found = windows(made_up([(0, [50, 50, 52, 52])]), (400, 400), count=1500, least=25)
    scale = np.log(np.array([w.w for w in found]) / 25) / np.log(400 / 25)
    counts, _ = np.histogram(scale, bins=4, range=(0, 1))
    np.testing.assert_allclose(counts / len(found), 0.25, atol=0.05)
    assert all(w.w == w.h for w in found)
    # The object is anywhere in the window.
    place = [(50 - w.x0) / (w.w - 2) for w in found if 0 < w.x0 < 400 - w.w and w.w < 50]
    assert len(place) > 100 and np.mean(place) == pytest.approx(0.5, abs=0.08)


def test_objects_larger_than_the_window_fill_it():
    for w in windows(made_up([(0, [0, 40, 200, 60])]), (100, 200)):
        assert (w.y0 <= 40 and w.y0 + w.h >= 60) or w.h <= 20
        assert 0 <= w.x0 <= 200 - w.w


def test_boxes_come_from_what_there_is():
    """Without a box, from polygons, run lengths or bitmaps; crowds without a place do not count."""
    mask = np.zeros((100, 200), np.uint8)
    mask[30:44, 180:190] = 1
    runs = [180 * 100 + 30, *[14, 86] * 9, 14, 10 * 100 + 56]
    polygon = [[180, 30, 190, 30, 190, 44, 180, 44]]
    for segmentation in (polygon, {"size": [100, 200], "counts": runs}, mask):
        record = {"annotations": [{"category_id": 0, "segmentation": segmentation}]}
        for w in windows(record, (100, 200), count=50):
            assert w.x0 <= 180 and w.x0 + w.w >= 190 and w.y0 <= 30 and w.y0 + w.h >= 44
    nowhere = {"annotations": [{"category_id": 0, "iscrowd": 1}]}
    assert set(windows(nowhere, (100, 200), count=20)) == {None}
    assert set(windows({"annotations": []}, (100, 200), count=20)) == {None}
    assert set(windows(made_up([(0, [1, 1, 5, 5])]), (LEAST, 9), count=20)) == {None}


def test_maps_of_labels_and_segments():
    labels = np.full((100, 200), 255, np.uint8)
    labels[:, :100] = 4
    labels[70, 150] = 9
    found = windows({}, (100, 200), labels=labels)
    rare = [w for w in found if w.x0 <= 150 < w.x0 + w.w and w.y0 <= 70 < w.y0 + w.h]
    assert len(rare) > 0.45 * len(found)
    info = [{"id": 3, "category_id": 1, "isthing": False}, {"id": 8, "category_id": 2}]
    ids = np.where(labels == 9, 8, np.where(labels == 4, 3, 0))
    segments = number_segments(ids, info)
    for w in windows({"segments_info": info}, (100, 200), segments=segments, count=60):
        assert w.x0 <= 150 < w.x0 + w.w and w.y0 <= 70 < w.y0 + w.h
    empty = np.full((100, 200), 255, np.uint8)
    assert set(windows({}, (100, 200), labels=empty, count=9)) == {None}


def test_a_share_of_the_images_stays_whole():
    crop, record = ObjectCrop(0.3, LEAST), made_up([(0, [1, 1, 5, 5])])
    image = LabelledInput(np.zeros((90, 90, 3), np.uint8))
    whole = 0
    for seed in range(1000):
        with seeded(seed):
            whole += crop.transform(image, record, 255) is None
    assert whole == pytest.approx(700, abs=60)


def test_the_stream_resumes(tiny_cfg):
    tiny_cfg.DATALOADER.NUM_WORKERS = 0
    tiny_cfg.SOLVER.IMS_PER_BATCH = 1
    tiny_cfg.INPUT.IMAGE_SIZE = 32

    def stream(start, count):
        loader = build_train_loader(tiny_cfg, seed=3, start_iter=start)
        return [batch[0] for batch in islice(loader, count)]

    plain = stream(0, 6)
    assert build_mapper(tiny_cfg).object_crop is None
    tiny_cfg.INPUT.OBJECT_CROP = 1.0
    whole, resumed = stream(0, 6), stream(2, 4)
    for one, other in zip(whole[2:], resumed, strict=True):
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["instances"].gt_masks.tensor, other["instances"].gt_masks.tensor)
    assert not all(
        torch.equal(one["image"], other["image"]) for one, other in zip(whole, plain, strict=True)
    )
