"""The mapper on label maps that are unusual or wrong."""

# ruff: noqa: NPY002  Detectron2 draws from NumPy's global generator.
import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import read_image
from label_files import id_colors, patches, save
from mapper_cases import HEIGHT, WIDTH, make_cfg, run

from mask2former.data import DatasetError, build_mapper
from mask2former.data.mapper.labelled_input import LabelledInput


@pytest.mark.parametrize("ignore_label", [255, 65535, 19])
def test_labels_of_16_bits(record, tmp_path, ignore_label):
    """800 classes; the labels are made of bytes that Detectron2 alone would move."""
    name = f"test_mapper_16_bits_{ignore_label}"
    MetadataCatalog.get(name).set(ignore_label=ignore_label)
    classes = [0, 19, 255, 256, 300, 799]
    labels = patches(np.random.default_rng(0), HEIGHT, WIDTH, [*classes, ignore_label])
    sixteen = {**record, "sem_seg_file_name": save(tmp_path / "x.png", labels.astype(np.uint16))}
    cfg = make_cfg("mask_former_semantic", sets=(name,), classes=800)
    mapper = build_mapper(cfg)
    assert MetadataCatalog.pop(name)
    seen = set()
    for seed in range(6):
        result = run(mapper, sixteen, seed)
        image = read_image(record["file_name"], "RGB")
        np.random.seed(seed)
        transforms = mapper.augmentations(LabelledInput(image, labels=labels.astype(np.uint16)))
        low = transforms.apply_segmentation((labels % 256).astype(np.uint8)).astype(int)
        high = transforms.apply_segmentation((labels // 256).astype(np.uint8)).astype(int)
        expected = np.where(result["padding_mask"], ignore_label, low + 256 * high)
        assert (result["sem_seg"].numpy() == expected).all()
        present = sorted(set(expected.reshape(-1).tolist()) - {ignore_label})
        instances = result["instances"]
        assert instances.gt_classes.tolist() == present
        for label, mask in zip(present, instances.gt_masks.tensor, strict=True):
            assert (mask.numpy() == (expected == label)).all()
        seen.update(present)
    assert seen == {*classes} - {ignore_label}


def test_an_ignore_label_that_the_file_cannot_hold(record):
    """Nothing in a map of 8 bits is 65535, but padding is."""
    name = "test_mapper_8_bits"
    MetadataCatalog.get(name).set(ignore_label=65535)
    scale = ["INPUT.MIN_SIZE_TRAIN", (60,), "INPUT.CROP.ENABLED", False]
    cfg = make_cfg("mask_former_semantic", *scale, sets=(name,), classes=256)
    mapper = build_mapper(cfg)
    assert MetadataCatalog.pop(name)
    result = run(mapper, record, 0)
    padding = result["padding_mask"]
    assert padding.any() and (result["sem_seg"][padding] == 65535).all()
    assert 255 in result["instances"].gt_classes and result["sem_seg"][~padding].max() == 255


def test_the_crop_follows_the_labels_of_the_data_set(record):
    name = "test_mapper_crop"
    MetadataCatalog.get(name).set(ignore_label=9)
    for task in ("semantic", "panoptic"):
        mapper = build_mapper(make_cfg(f"mask_former_{task}", sets=(name,)))
        assert mapper.augmentations.augs[1].ignored_category == 9
    MetadataCatalog.pop(name)
    # Instances have no labels: the crop is free, whatever the config says about classes.
    share = "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA"
    record["annotations"] = []
    images = [
        run(build_mapper(make_cfg("mask_former_instance", share, value)), record, 5)["image"]
        for value in (0.1, 1.0)
    ]
    assert torch.equal(*images)


def test_the_ignore_label_comes_from_the_data_set(record, tmp_path):
    names = [f"test_mapper_ignore_{i}" for i in range(3)]
    for name, value in zip(names, (65, 65, 0), strict=True):
        MetadataCatalog.get(name).set(ignore_label=value)
    try:
        mapper = build_mapper(make_cfg("mask_former_semantic", sets=tuple(names[:2])))
        assert mapper.ignore_label == 65
        labels = patches(np.random.default_rng(0), HEIGHT, WIDTH, np.array([1, 65], dtype=np.uint8))
        result = run(mapper, {**record, "sem_seg_file_name": save(tmp_path / "x.png", labels)}, 0)
        assert result["instances"].gt_classes.tolist() == [1]
        assert result["sem_seg"].unique().tolist() == [1, 65]
        with pytest.raises(ValueError, match=r"65 in test_mapper_ignore_1, 0 in test_mapper_ign"):
            build_mapper(make_cfg("mask_former_panoptic", sets=tuple(names)))
        # Instances have no such label; elsewhere Detectron2's key stands in for it.
        build_mapper(make_cfg("mask_former_instance", sets=tuple(names)))
        plain = make_cfg("mask_former_semantic", "MODEL.SEM_SEG_HEAD.IGNORE_VALUE", 9)
        assert build_mapper(plain).ignore_label == 9
    finally:
        for name in names:
            MetadataCatalog.pop(name)


ERRORS = [
    # preset, what is changed, message
    ("semantic", {"sem_seg_file_name": None}, "no 'sem_seg_file_name'.*another INPUT.DATASET_MAPP"),
    ("panoptic", {"pan_seg_file_name": None}, "no 'pan_seg_file_name'.*panoptic segments"),
    ("panoptic", {"segments_info": None}, "no 'segments_info'"),
    ("semantic", {"sem_seg_file_name": "gone.png"}, r"gone\.png: no such file"),
    ("panoptic", {"pan_seg_file_name": "gone.png"}, r"gone\.png: no such file"),
    (
        "semantic",
        {"labels": (HEIGHT, WIDTH - 1)},
        r"x\.png is 119 x 90 .*image\.png is 120 x 90\.$",
    ),
    ("semantic", {"labels": (WIDTH, HEIGHT)}, r"x\.png is 90 x 120 .*is 120 x 90\. .*EXIF"),
    ("panoptic", {"labels": (HEIGHT + 2, WIDTH)}, r"x\.png is 120 x 92 .*image\.png is 120 x 90"),
    ("panoptic", {"ids": (HEIGHT, WIDTH // 2)}, r"y\.png is 60 x 90 .*image\.png is 120 x 90"),
    ("panoptic", {"segment": {"id": 1, "category_id": 20}}, "segment id 1 of .*class 20.*0 to 19"),
    ("panoptic", {"segment": {"id": 1, "category_id": -1}}, "segment id 1 of .*class -1"),
    ("panoptic", {"segment": {"id": 0, "category_id": 2}}, "segment id 0 of .*pixels of no segm"),
    ("panoptic", {"segment": {"id": 1 << 24, "category_id": 2}}, "segment id 16777216 of"),
    (
        "panoptic",
        {"segments_info": [{"id": 5, "category_id": 2}, {"id": 6, "category_id": 2}]},
        r"none of the 2 segments.*listed are 5, 6, there are 0, 77, 130, 240, 38400, 64000, "
        r"9000000, 11796480 and 1 more",
    ),
]


@pytest.mark.parametrize(("task", "change", "message"), ERRORS)
def test_wrong_ground_truth_is_named(record, tmp_path, task, change, message):
    if "labels" in change:
        record["sem_seg_file_name"] = save(tmp_path / "x.png", np.zeros(change["labels"], np.uint8))
    elif "ids" in change:
        record["pan_seg_file_name"] = save(tmp_path / "y.png", id_colors(np.ones(change["ids"])))
    elif "segment" in change:
        record["segments_info"] = [*record["segments_info"], change["segment"]]
    else:
        record.update(change)
    record = {key: value for key, value in record.items() if value is not None}
    with pytest.raises(DatasetError, match=message) as error:
        run(build_mapper(make_cfg(f"mask_former_{task}")), record, 0)
    assert str(error.value).startswith(f"{record['file_name']} (image id 5)")


@pytest.mark.parametrize("task", ["semantic", "panoptic"])
def test_labels_that_are_not_classes_are_listed(record, task):
    # 12 is in the map.
    mapper = build_mapper(make_cfg(f"mask_former_{task}", "INPUT.CROP.ENABLED", False, classes=10))
    record["segments_info"] = [s for s in record["segments_info"] if s["category_id"] < 10]
    with pytest.raises(
        DatasetError, match=r"labels\.png: it has labels 12, but classes are 0 to 9"
    ):
        run(mapper, record, 0)
    many = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) % 300
    many = save(record["file_name"].replace("image", "many"), many)
    with pytest.raises(DatasetError, match="labels 10, 11, 12, 13, 14, 15, 16, 17 and 281 more"):
        run(
            build_mapper(
                make_cfg(
                    f"mask_former_{task}",
                    "INPUT.CROP.ENABLED",
                    False,
                    "INPUT.MIN_SIZE_TRAIN",
                    (HEIGHT,),
                    classes=10,
                )
            ),
            {**record, "sem_seg_file_name": many},
            0,
        )
