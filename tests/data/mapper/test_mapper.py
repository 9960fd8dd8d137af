# ruff: noqa: NPY002  Detectron2 draws from NumPy's global generator.
import copy

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.datasets import load_coco_json
from detectron2.data.detection_utils import read_image
from PIL import Image

from mask2former.config import add_maskformer2_config
from mask2former.data import MAPPER_PRESETS, DatasetError, SegmentationMapper, build_mapper

HEIGHT, WIDTH = 90, 120
SIZE = 96
SEEDS = range(12)


def make_cfg(size=SIZE, flip="horizontal", low=0.1, high=2.0):
    cfg = get_cfg()
    add_maskformer2_config(cfg)
    cfg.INPUT.DATASET_MAPPER_NAME = "coco_instance_lsj"
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.RANDOM_FLIP = flip
    cfg.INPUT.IMAGE_SIZE = size
    cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE = low, high
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 91  # ids of COCO have gaps
    return cfg


def plain_augmentations(size=SIZE):
    """The same recipe, with nothing but Detectron2."""
    return T.AugmentationList(
        [T.RandomFlip(), T.ResizeScale(0.1, 2.0, size, size), T.FixedSizeCrop((size, size))]
    )


def compressed(mask):
    return mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))


def outline_of(x, y, w, h):
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def rasterised(*outlines):
    return mask_util.decode(
        mask_util.merge(mask_util.frPyObjects(list(outlines), HEIGHT, WIDTH))
    ).astype(bool)


BIG = outline_of(20, 15, 70, 50)
OUTLINES = {"big": [BIG], "two parts": [outline_of(5, 5, 30, 70), outline_of(70, 20, 40, 60)]}


@pytest.fixture
def sample(tmp_path):
    path = tmp_path / "image.png"
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    record = {"file_name": str(path), "image_id": 5, "height": HEIGHT, "width": WIDTH}
    return {**record, "annotations": [annotate([BIG])]}


def annotate(segmentation, **kwargs):
    return {"id": 77, "category_id": 3, "iscrowd": 0, "segmentation": segmentation, **kwargs}


def run(mapper, sample, seed):
    np.random.seed(seed)
    return mapper(sample)


@pytest.mark.parametrize("seed", SEEDS)
def test_images_equal_a_plain_augmentation_list(sample, seed):
    result = run(build_mapper(make_cfg()), sample, seed)

    np.random.seed(seed)
    expected = T.AugInput(read_image(sample["file_name"], "RGB"))
    plain_augmentations()(expected)
    assert result["image"].dtype == torch.uint8
    assert torch.equal(result["image"], torch.from_numpy(expected.image.copy()).permute(2, 0, 1))


@pytest.mark.parametrize("name", OUTLINES)
@pytest.mark.parametrize("seed", SEEDS)
def test_polygons_and_all_forms_of_masks_agree(sample, seed, name):
    mask = rasterised(*OUTLINES[name])
    counts = mask.T.reshape(-1).astype(int)
    edges = [0, *np.flatnonzero(np.diff(counts, prepend=0)).tolist(), counts.size]
    forms = [
        compressed(mask),
        {"size": [HEIGHT, WIDTH], "counts": compressed(mask)["counts"].decode()},
        {"size": [HEIGHT, WIDTH], "counts": np.diff(edges).tolist()},
        mask,
        mask.astype(np.uint8) * 255,
        OUTLINES[name],
    ]
    sample["annotations"] = [annotate(form) for form in forms]
    result = run(build_mapper(make_cfg()), sample, seed)

    # Oracle: Detectron2's own transform of the mask, without what it puts into the padding.
    np.random.seed(seed)
    transforms = plain_augmentations()(T.AugInput(read_image(sample["file_name"], "RGB")))
    padded = transforms.apply_segmentation(np.zeros((HEIGHT, WIDTH), dtype=np.uint8)) != 0
    expected = transforms.apply_segmentation(mask.astype(np.uint8)).astype(bool) & ~padded
    masks = result["instances"].gt_masks.tensor.numpy()
    assert (result["padding_mask"].numpy() == padded).all()
    assert masks.dtype == bool
    if not expected.any():  # the crop lies beside the object
        assert len(masks) == 0 or masks.sum(axis=(1, 2)).max() < 10
        return
    assert len(masks) == len(forms)
    for mask in masks[:-1]:
        assert (mask == expected).all()
    border = 4 * np.sqrt(expected.sum()) + 8  # pixels that half lie in the polygon
    assert (masks[-1] != expected).sum() <= border


def test_padding_is_never_part_of_a_mask(sample):
    full = np.ones((HEIGHT, WIDTH), dtype=bool)
    beyond = outline_of(-50, -50, 400, 400)
    sample["annotations"] = [annotate(compressed(full)), annotate(full), annotate([beyond])]
    mapper = build_mapper(make_cfg())
    padded = 0
    for seed in SEEDS:
        result = run(mapper, sample, seed)
        padding = result["padding_mask"]
        padded += padding.any().item()
        assert (result["image"][:, padding] == 128).all()
        masks = result["instances"].gt_masks.tensor
        assert not masks[:2, padding].any()
        assert masks[:2, ~padding].all()
    assert padded >= 5


@pytest.mark.parametrize("seed", SEEDS)
def test_boxes_are_tight_and_classes_stay_with_their_masks(sample, seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform((0, 0), (WIDTH - 20, HEIGHT - 20), size=(8, 2))
    sample["annotations"] = [
        annotate([outline_of(x, y, 15, 15)], category_id=int(number))
        for number, (x, y) in enumerate(corners)
    ]
    result = run(build_mapper(make_cfg()), sample, seed)
    instances = result["instances"]
    assert instances.image_size == (SIZE, SIZE)
    assert instances.gt_classes.dtype == torch.int64
    np.random.seed(seed)
    transforms = plain_augmentations()(T.AugInput(read_image(sample["file_name"], "RGB")))
    for label, mask, box in zip(
        instances.gt_classes, instances.gt_masks, instances.gt_boxes.tensor, strict=True
    ):
        ys, xs = torch.nonzero(mask, as_tuple=True)
        tight = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert box.tolist() == [float(side) for side in tight]
        # The class tells which square it is: its centre, transformed, is the mask's, if all of
        # it is in the crop.
        center = transforms.apply_coords(corners[label : label + 1] + 7.5)[0]
        if min(tight[0], tight[1]) > 0 and max(tight[2], tight[3]) < SIZE:
            middle = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
            assert np.abs(np.array(middle) - center).max() < 1.01


def test_crowd_and_cropped_objects_go_and_empty_images_stay(sample):
    corner = annotate([outline_of(0, 0, 3, 3)])
    crowd = annotate(compressed(rasterised(BIG)), iscrowd=1)
    sample["annotations"] = [corner, crowd]
    mapper = build_mapper(make_cfg(flip="none", low=4.0, high=4.0))
    counts = []
    for seed in SEEDS:
        instances = run(mapper, sample, seed)["instances"]
        counts.append(len(instances))
        assert instances.gt_masks.tensor.shape == (len(instances), SIZE, SIZE)
        assert len(instances.gt_boxes) == len(instances.gt_classes) == len(instances)
    assert 0 in counts and max(counts) <= 1

    sample["annotations"] = []
    instances = run(mapper, sample, 0)["instances"]
    assert instances.gt_masks.tensor.shape == (0, SIZE, SIZE)
    assert instances.gt_boxes.tensor.shape == (0, 4)
    assert instances.gt_classes.dtype == torch.int64


def test_the_dataset_dict_is_not_modified(sample):
    sample["annotations"] += [annotate([np.array(BIG, dtype=np.float64)])]
    before = copy.deepcopy(sample)
    run(build_mapper(make_cfg()), sample, 0)
    assert str(before) == str(sample)


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([[1, 2, 3, 4]], "4 coordinates"),
        ([[1, 2, 9, 2, 9, 9, 1]], "odd number"),
        ([[1, 2, float("nan"), 2, 9, 9]], "NaN"),
        ([1, 2, 9, 2, 9, 9], "list of lists"),
        ([], "no segmentation"),
        (None, "no segmentation"),
        ({"size": [WIDTH, HEIGHT], "counts": b"x"}, "look swapped"),
        ({"size": [HEIGHT, WIDTH], "counts": b"\xff"}, "does not use"),
        ({"size": [HEIGHT, WIDTH], "counts": [5, 5]}, "cover 10 pixels"),
        (np.zeros((3, 4), dtype=bool), r"\(3, 4\)"),
        ("a path", "a str"),
    ],
)
def test_a_wrong_annotation_is_named(sample, segmentation, reason):
    sample["annotations"].append(annotate(segmentation, id=4711))
    with pytest.raises(DatasetError, match=reason) as error:
        run(build_mapper(make_cfg()), sample, 0)
    assert isinstance(error.value, ValueError)
    for part in (sample["file_name"], "image id 5", "annotation id 4711"):
        assert part in str(error.value)

    del sample["annotations"][1]["id"]
    with pytest.raises(DatasetError, match="annotation number 1 of the image"):
        run(build_mapper(make_cfg()), sample, 0)


def test_a_wrong_image_is_named(sample, tmp_path):
    mapper = build_mapper(make_cfg())
    with pytest.raises(DatasetError, match=r"image\.png.*image id 5.*\(120, 90\)"):
        run(mapper, {**sample, "height": HEIGHT + 1}, 0)
    with pytest.raises(DatasetError, match=r"gone\.png.*cannot read"):
        run(mapper, {**sample, "file_name": str(tmp_path / "gone.png")}, 0)
    whole = (tmp_path / "image.png").read_bytes()
    for content in (b"no picture", whole[: len(whole) // 2]):
        (tmp_path / "bad.png").write_bytes(content)
        with pytest.raises(DatasetError, match=r"bad\.png.*cannot read"):
            run(mapper, {**sample, "file_name": str(tmp_path / "bad.png")}, 0)
    with pytest.raises(DatasetError, match="no annotations to train on"):
        run(mapper, {k: v for k, v in sample.items() if k != "annotations"}, 0)


@pytest.mark.parametrize("with_annotations", [True, False])
def test_inference_equals_detectron2s_own_mapper(sample, with_annotations):
    if not with_annotations:
        del sample["annotations"]
    cfg = make_cfg()
    # A published panoptic config evaluates images just the same.
    cfg.INPUT.DATASET_MAPPER_NAME = "coco_panoptic_lsj"
    cfg.INPUT.MIN_SIZE_TEST = 133
    result = build_mapper(cfg, is_train=False)(sample)
    expected = DatasetMapper(cfg, is_train=False)(sample)
    assert torch.equal(result.pop("image"), expected.pop("image"))
    assert result == expected


@pytest.mark.parametrize("direction", ["horizontal", "vertical", "none"])
def test_flip_follows_the_config(sample, direction):
    mapper = build_mapper(make_cfg(size=WIDTH, flip=direction, low=1.0, high=1.0))
    pixels = read_image(sample["file_name"], "RGB")
    flipped = {"horizontal": pixels[:, ::-1], "vertical": pixels[::-1], "none": pixels}[direction]
    seen = set()
    for seed in SEEDS:
        image = run(mapper, sample, seed)["image"].permute(1, 2, 0).numpy()[:HEIGHT]
        assert (image == pixels).all() or (image == flipped).all()
        seen.add(image.tobytes())
    assert len(seen) == (1 if direction == "none" else 2)


def test_names_are_checked():
    cfg = make_cfg()
    cfg.INPUT.DATASET_MAPPER_NAME = "coco_instance_lsi"
    with pytest.raises(ValueError, match=r"coco_instance_lsi.*known.*coco_instance_lsj"):
        build_mapper(cfg)
    with pytest.raises(ValueError, match=r"RANDOM_FLIP.*sideways"):
        build_mapper(make_cfg(flip="sideways"))
    assert "coco_instance_lsj" in MAPPER_PRESETS


def test_no_config_is_needed(sample):
    mapper = SegmentationMapper(True, augmentations=[], image_format="BGR")
    result = mapper(sample)
    pixels = read_image(sample["file_name"], "BGR")
    assert (result["image"].permute(1, 2, 0).numpy() == pixels).all()
    assert (result["instances"].gt_masks.tensor[0].numpy() == rasterised(BIG)).all()
    assert not result["padding_mask"].any()


def test_real_coco_images_with_crowd(shared):
    folder = shared / "data" / "coco_permissive"
    dicts = load_coco_json(
        str(folder / "annotations" / "instances_train2017.json"), str(folder / "train2017")
    )
    crowded = [d for d in dicts if any(a["iscrowd"] for a in d["annotations"])]
    assert crowded
    unpadded = build_mapper(make_cfg(size=640, flip="none", low=1.0, high=1.0))
    for record in crowded[:4] + dicts[:8]:
        result = run(unpadded, record, 0)
        objects = [a for a in record["annotations"] if not a["iscrowd"]]
        assert len(result["instances"]) == len(objects)
        # COCO's longer side is 640, so nothing is resized and masks must equal COCO's own.
        assert max(record["height"], record["width"]) == 640
        for annotation, mask in zip(objects, result["instances"].gt_masks, strict=True):
            rle = mask_util.merge(
                mask_util.frPyObjects(annotation["segmentation"], record["height"], record["width"])
            )
            inside = mask[: record["height"], : record["width"]].numpy()
            assert (inside == mask_util.decode(rle).astype(bool)).all()
