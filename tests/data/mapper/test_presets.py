"""The presets of INPUT.AUGMENTATION: image and targets move together, reproducibly."""

# ruff: noqa: NPY002  Detectron2 draws from NumPy's global generator.

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import transforms as T
from label_files import id_colors, save
from mapper_cases import check_that_the_seed_decides
from support import QUICKSTART

from mask2former import load_config
from mask2former.data import build_mapper
from mask2former.data.mapper.geometry import TiltTransform
from mask2former.data.mapper.labelled_input import transform_labels
from mask2former.data.mapper.presets import AUGMENTATION_PRESETS

H, W = 150, 200
OUTLINE = [30, 20, 150, 35, 170, 120, 90, 100, 40, 130]
MAPPERS = {
    "coco_instance_lsj": "instance",
    "coco_panoptic_lsj": "panoptic",
    "mask_former_instance": "instance",
    "mask_former_panoptic": "panoptic",
    "mask_former_semantic": "semantic",
}


def make_cfg(preset, name="coco_instance_lsj", *overrides):
    keys = ["INPUT.DATASET_MAPPER_NAME", name, "INPUT.AUGMENTATION", preset, "DATASETS.TRAIN", ()]
    keys += ["INPUT.IMAGE_SIZE", 128, "INPUT.MIN_SCALE", 0.7, "INPUT.MAX_SCALE", 1.6]
    keys += ["INPUT.MIN_SIZE_TRAIN", (120, 180), "INPUT.CROP.ENABLED", True]
    keys += ["INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [128, 128]]
    keys += ["INPUT.SIZE_DIVISIBILITY", 32, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 2]
    return load_config(str(QUICKSTART), [*keys, *overrides])


@pytest.fixture
def painted(tmp_path):
    """A photograph of a light thing on a dark ground, with its annotation of every kind."""
    rle = mask_util.merge(mask_util.frPyObjects([OUTLINE], H, W))
    mask = mask_util.decode(rle).astype(bool)
    pixels = np.where(mask[..., None], 215, 40).astype(np.uint8).repeat(3, axis=2)
    record = {
        "file_name": save(tmp_path / "image.png", pixels),
        "sem_seg_file_name": save(tmp_path / "labels.png", mask.astype(np.uint8)),
        "pan_seg_file_name": save(tmp_path / "segments.png", id_colors(np.where(mask, 7000, 0))),
        "segments_info": [{"id": 7000, "category_id": 1, "isthing": True, "iscrowd": 0}],
    }
    kinds = {"polygons": [OUTLINE], "RLE": rle, "bitmap": mask.astype(np.uint8)}
    return {
        kind: {**record, "annotations": [{"category_id": 1, "segmentation": segmentation}]}
        for kind, segmentation in kinds.items()
    }


def seen(sample):
    """What is light in the picture, by its own values alone."""
    values = sample["image"].float().mean(0)
    inside = ~sample["padding_mask"]
    low, high = np.quantile(values[inside].numpy(), (0.05, 0.95))
    return (values > (low + high) / 2) & inside, high - low


def iou(a, b):
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("preset", AUGMENTATION_PRESETS)
@pytest.mark.parametrize("name", MAPPERS)
def test_masks_cover_what_is_seen(painted, preset, name):
    mapper = build_mapper(make_cfg(preset, name))
    kinds = painted.values() if MAPPERS[name] == "instance" else [painted["polygons"]]
    found = []
    for record in kinds:
        for seed in range(12):
            np.random.seed(seed)
            sample = mapper(record)
            instances = sample["instances"]
            of_thing = (instances.gt_classes == 1).nonzero().flatten().tolist()
            if not of_thing:
                continue
            mask = instances.gt_masks.tensor[of_thing[0]]
            assert mask.shape == sample["image"].shape[1:]
            assert not (mask & sample["padding_mask"]).any()
            light, contrast = seen(sample)
            if contrast > 40 and mask.sum() > 1000:
                found.append(iou(light, mask))
    assert len(found) >= 8 * len(kinds) and min(found) > 0.95 and np.mean(found) > 0.975


@pytest.mark.parametrize("preset", AUGMENTATION_PRESETS)
def test_padding_is_unlabelled(painted, preset):
    mapper = build_mapper(make_cfg(preset, "mask_former_semantic"))
    tilted = 0
    for seed in range(20):
        np.random.seed(seed)
        sample = mapper(painted["polygons"])
        padding, labels = sample["padding_mask"], sample["sem_seg"]
        assert ((labels == 255) == padding).all() and set(labels.unique().tolist()) <= {0, 1, 255}
        tilted += bool(padding[0, 0])
    assert bool(tilted) == (preset in ("photographs", "documents"))


@pytest.mark.parametrize("degrees", [3.0, -8.0, 40.0])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_a_tilt_takes_the_nearest_label(degrees, dtype):
    labels = np.random.default_rng(0).integers(0, 100_000, (40, 61)).astype(dtype)
    transform = TiltTransform(labels.shape, degrees)
    tilted = transform_labels(labels, transform)
    padding = np.full(dtype().itemsize, 255, np.uint8).view(dtype)[0]
    angle, center = np.radians(degrees), np.array([30.5, 20.0])
    # To the right of the centre and up, with y pointing down, is counter-clockwise.
    right = np.array([np.cos(angle), -np.sin(angle)])
    down = np.array([np.sin(angle), np.cos(angle)])
    equal = 0
    for y in range(40):
        for x in range(61):
            offset = np.array([x + 0.5, y + 0.5]) - center
            column, row = np.floor(center + np.array([offset @ right, offset @ down])).astype(int)
            inside = 0 <= column < 61 and 0 <= row < 40
            equal += tilted[y, x] == (labels[row, column] if inside else padding)
            if inside:
                there = transform.apply_coords(np.array([[column + 0.5, row + 0.5]]))[0]
                assert np.abs(there - (x + 0.5, y + 0.5)).max() < 0.72
    assert equal >= 40 * 61 - 2  # two may be on a border


@pytest.mark.parametrize(("preset", "count"), [("aerial", 8), ("microscopy", 8)])
def test_every_orientation_is_equally_likely(preset, count):
    image = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    steps = T.AugmentationList(AUGMENTATION_PRESETS[preset]("RGB").orientation)
    expected = {
        turned.tobytes() + bytes(turned.shape)
        for flipped in (image, image[:, ::-1])
        for turned in (np.rot90(flipped, k) for k in range(4))
    }
    np.random.seed(0)
    counts: dict[bytes, int] = {}
    for _ in range(1600):
        augmented = T.AugInput(image)
        steps(augmented)
        result = augmented.image
        key = result.tobytes() + bytes(result.shape)
        counts[key] = counts.get(key, 0) + 1
    assert counts.keys() == expected and len(counts) == count
    assert min(counts.values()) > 150 and max(counts.values()) < 250


def test_points_move_like_pixels():
    image = np.zeros((5, 7, 1), np.uint8)
    image[1, 4] = 9
    for preset in AUGMENTATION_PRESETS.values():
        steps = T.AugmentationList(preset("RGB").orientation)
        for seed in range(8):
            np.random.seed(seed)
            augmented = T.AugInput(image.copy())
            transforms = steps(augmented)
            (x, y), *_ = transforms.apply_coords(np.array([[4.5, 1.5]]))
            assert augmented.image[int(y), int(x)] == 9


@pytest.mark.parametrize(
    ("preset", "mirrored"), [("documents", False), ("photographs", True), ("aerial", True)]
)
def test_pages_are_never_mirrored(tmp_path, preset, mirrored):
    pixels = np.full((100, 100, 3), 30, np.uint8)
    pixels[:, :50] = 220
    record = {"file_name": save(tmp_path / "image.png", pixels), "annotations": []}
    keys = ["INPUT.MIN_SCALE", 1.0, "INPUT.MAX_SCALE", 1.0]
    mapper = build_mapper(make_cfg(preset, "coco_instance_lsj", *keys))
    left_is_lighter = set()
    for seed in range(20):
        np.random.seed(seed)
        values = mapper(record)["image"].float().mean(0)
        difference = float(values[:, :64].mean() - values[:, 64:].mean())
        if abs(difference) > 20:
            left_is_lighter.add(difference > 0)
    assert left_is_lighter == ({True, False} if mirrored else {True})


def test_workers_and_resuming_change_nothing(tiny_cfg):
    tiny_cfg.INPUT.AUGMENTATION = "photographs"
    check_that_the_seed_decides(tiny_cfg)
    plain = load_config(str(QUICKSTART))
    assert plain.INPUT.AUGMENTATION == ""


def test_an_unknown_preset_is_named():
    with pytest.raises(ValueError, match=r"INPUT\.AUGMENTATION is 'arial', but must be one of"):
        make_cfg("arial")
    cfg = make_cfg("aerial")
    cfg.INPUT.AUGMENTATION = "arial"
    with pytest.raises(ValueError, match=r"AUGMENTATION is 'arial'; known are 'photographs'"):
        build_mapper(cfg)
