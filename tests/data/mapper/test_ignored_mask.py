"""The pixels that the mapper reports as labelled by nobody."""

import copy

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BoxMode
from mapper_cases import HEIGHT, NAMES, WIDTH, make_cfg, run
from support import QUICKSTART

from mask2former import load_config
from mask2former.data import DatasetError, build_mapper

ON = ("MODEL.MASK_FORMER.IGNORE_REGIONS", True)
INSTANCE = ["coco_instance_lsj", "mask_former_instance"]
SEEDS = range(8)
OBJECT = [[20, 15, 60, 15, 60, 50, 20, 50]]
REGION = [40, 30, 50, 40]  # x, y, width, height


def rectangle():
    """The mask of `REGION`."""
    x, y, w, h = REGION
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y : y + h, x : x + w] = 1
    return mask


def crowd(segmentation, **fields):
    return {"id": 9, "category_id": 2, "iscrowd": 1, "segmentation": segmentation, **fields}


@pytest.fixture
def annotated(record):
    """The record with an object and a crowd region that it overlaps."""
    rle = mask_util.encode(np.asfortranarray(rectangle()))
    plain = {k: v for k, v in record.items() if "seg" not in k}
    objects = [{"id": 1, "category_id": 3, "iscrowd": 0, "segmentation": OBJECT}]
    return {**plain, "annotations": [*objects, crowd(rle)]}


@pytest.mark.parametrize("name", NAMES + INSTANCE)
def test_without_the_key_samples_stay_as_they_are(record, annotated, name):
    source = annotated if name in INSTANCE else record
    off = run(build_mapper(make_cfg(name)), source, 0)
    on = run(build_mapper(make_cfg(name, *ON)), source, 0)
    assert set(on) - set(off) == {"ignored_mask"} and not set(off) - set(on)
    for key in ("image", "padding_mask"):
        assert torch.equal(on[key], off[key])
    assert torch.equal(on["instances"].gt_masks.planes, off["instances"].gt_masks.planes)
    assert torch.equal(on["instances"].gt_classes, off["instances"].gt_classes)
    inference = build_mapper(make_cfg(name, *ON), is_train=False)
    assert "ignored_mask" not in inference(source)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_label_maps_and_segments(record, name, seed):
    """Every pixel is padding, ignored or in exactly one target, and 255 is what is ignored."""
    sample = run(build_mapper(make_cfg(name, *ON)), record, seed)
    ignored, padding = sample["ignored_mask"], sample["padding_mask"]
    cover = sample["instances"].gt_masks.tensor.sum(0) + padding.int() + ignored.int()
    assert (cover == 1).all()
    if name == "mask_former_semantic":
        assert torch.equal(ignored, (sample["sem_seg"] == 255) & ~padding)
    else:  # the crowd segment has a class in the label map
        assert torch.equal(
            ignored & (sample["sem_seg"] == 255), (sample["sem_seg"] == 255) & ~padding
        )
        crowds = [{**s, "iscrowd": int(not s["iscrowd"])} for s in record["segments_info"]]
        only = run(build_mapper(make_cfg(name)), {**record, "segments_info": crowds}, seed)
        region = only["instances"].gt_masks.union()
        assert torch.equal(ignored, region | ((sample["sem_seg"] == 255) & ~padding))


def forms():
    mask = rectangle()
    x, y, w, h = REGION
    box = {"bbox": REGION, "bbox_mode": BoxMode.XYWH_ABS}
    return {
        "RLE": crowd(mask_util.encode(np.asfortranarray(mask))),
        "bitmap": crowd(mask),
        "polygons": crowd([[x, y, x + w, y, x + w, y + h, x, y + h]]),
        "box": crowd(None, **box),
        "box and no polygon": crowd([], **box),
        "other box": crowd(None, bbox=[x, y, x + w, y + h], bbox_mode=BoxMode.XYXY_ABS),
    }


@pytest.mark.parametrize("form", forms())
@pytest.mark.parametrize("name", INSTANCE)
def test_crowds_are_ignored_where_there_is_no_object(annotated, name, form):
    mapper = build_mapper(make_cfg(name, *ON))
    annotated["annotations"][1] = region = forms()[form]
    drawn = {**region, "iscrowd": 0}
    if "box" in form:
        drawn["segmentation"] = forms()["polygons"]["segmentation"]
    seen = 0
    for seed in SEEDS:
        sample = run(mapper, annotated, seed)
        objects, padding = sample["instances"].gt_masks.union(), sample["padding_mask"]
        alone = run(mapper, {**annotated, "annotations": [drawn]}, seed)
        where = alone["instances"].gt_masks.union()
        assert torch.equal(sample["ignored_mask"], where & ~objects & ~padding)
        seen += int((where & objects).any())
    assert seen  # the object was in the region


def test_several_crowds_are_ignored_and_their_classes_do_not_matter(annotated):
    mapper = build_mapper(make_cfg("coco_instance_lsj", *ON))
    whole = run(mapper, annotated, 3)
    left, right = rectangle(), rectangle()
    left[:, WIDTH // 2 :] = right[:, : WIDTH // 2] = 0
    annotated["annotations"][1:] = [
        crowd(left, category_id=7), crowd(right, category_id=999), crowd(left)
    ]  # fmt: skip
    parts = run(mapper, annotated, 3)
    assert torch.equal(whole["ignored_mask"], parts["ignored_mask"])
    assert torch.equal(whole["instances"].gt_masks.planes, parts["instances"].gt_masks.planes)


def test_a_crowd_without_a_place_ignores_nothing(annotated):
    annotated["annotations"][1] = crowd(None)
    sample = run(build_mapper(make_cfg("coco_instance_lsj", *ON)), annotated, 0)
    assert not sample["ignored_mask"].any()


def test_an_unusable_crowd_is_named(annotated):
    annotated["annotations"][1] = crowd({"size": [3, 4], "counts": [12]})
    record = copy.deepcopy(annotated)
    run(build_mapper(make_cfg("coco_instance_lsj")), record, 0)  # is not looked at
    with pytest.raises(DatasetError, match=r"image\.png.*annotation id 9: RLE size"):
        run(build_mapper(make_cfg("coco_instance_lsj", *ON)), record, 0)


def test_no_pixel_of_real_crowds_is_both_ignored_and_labelled(shared):
    folder = shared / "data" / "coco_permissive"
    records = load_coco_json(
        str(folder / "annotations" / "instances_train2017.json"), str(folder / "train2017")
    )
    cfg = load_config(
        str(QUICKSTART),
        [
            *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 91, "INPUT.IMAGE_SIZE", 640, *ON),
            *("INPUT.RANDOM_FLIP", "none", "INPUT.MIN_SCALE", 1.0, "INPUT.MAX_SCALE", 1.0),
        ],
    )
    mapper = build_mapper(cfg)
    crowded = [r for r in records if any(a["iscrowd"] for a in r["annotations"])]
    assert crowded
    for record in crowded:
        height, width = record["height"], record["width"]
        if max(height, width) != 640:  # others are resized
            continue
        sample = run(mapper, record, 0)
        regions = [a["segmentation"] for a in record["annotations"] if a["iscrowd"]]
        wanted = np.zeros((640, 640), bool)
        for rle in regions:
            wanted[:height, :width] |= mask_util.decode(
                mask_util.frPyObjects(rle, height, width)
                if isinstance(rle["counts"], list)
                else rle
            ).astype(bool)
        objects = sample["instances"].gt_masks.union().numpy()
        assert (sample["ignored_mask"].numpy() == wanted & ~objects).all()
