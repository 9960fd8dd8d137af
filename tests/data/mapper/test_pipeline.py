"""Pipelines of Albumentations: masks of every kind move with the image, and files are data."""

# ruff: noqa: NPY002  Detectron2 draws from NumPy's global generator.
import json
import sys
from itertools import pairwise

import albumentations as A
import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import transforms as T
from label_files import id_colors, patches, save
from mapper_cases import check_that_the_seed_decides
from support import QUICKSTART

from mask2former import load_config
from mask2former.data import DatasetError, build_mapper
from mask2former.data.mapper.labelled_input import LabelledInput
from mask2former.data.mapper.pipeline import Albumentations, MovedPixels

H, W = 150, 200
GEOMETRIC = {
    "flip": A.HorizontalFlip(p=1),
    "turns": A.D4(p=1),
    "affine": A.Affine(rotate=(-40, 40), scale=(0.7, 1.3), shear=(-9, 9), p=1),
    "larger": A.SafeRotate(limit=(30, 40), p=1),
    "reflected": A.Affine(rotate=20, border_mode=cv2.BORDER_REFLECT_101, p=1),
    "repeated": A.Affine(translate_percent=0.3, border_mode=cv2.BORDER_WRAP, p=1),
    "perspective": A.Perspective(scale=0.1, p=1),
    "elastic": A.ElasticTransform(alpha=40, sigma=8, p=1),
    "lens": A.OpticalDistortion(distort_limit=0.4, p=1),
    "smaller": A.Resize(73, 92, p=1),
    "crop": A.RandomResizedCrop((128, 96), scale=(0.4, 0.9), p=1),
    "padded": A.PadIfNeeded(170, 230, fill_mask=255, p=1),
    "shuffled": A.RandomGridShuffle((3, 2), p=1),
    "several": A.OneOf([A.VerticalFlip(p=1), A.Sequential([A.Transpose(p=1), A.Rotate(p=1)])], p=1),
}
COLORS = [A.RandomBrightnessContrast(p=1), A.GaussNoise(p=1), A.HueSaturationValue(p=1)]


@pytest.fixture
def pipeline_file(tmp_path):
    def write(*transforms, name="pipeline.yaml", **options):
        A.save(
            A.Compose(list(transforms), **options), tmp_path / name,
            data_format="json" if name.endswith("json") else "yaml",
        )  # fmt: skip
        return str(tmp_path / name)

    return write


def make_cfg(file, name="coco_instance_lsj", *overrides):
    keys = ["INPUT.DATASET_MAPPER_NAME", name, "INPUT.ALBUMENTATIONS", file, "DATASETS.TRAIN", ()]
    keys += ["INPUT.IMAGE_SIZE", 160, "INPUT.MIN_SCALE", 0.8, "INPUT.MAX_SCALE", 1.5]
    keys += ["INPUT.MIN_SIZE_TRAIN", (120, 180), "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 2]
    return load_config(str(QUICKSTART), [*keys, *overrides])


def of_color(image, color):
    return np.abs(image.astype(int) - color).max(axis=-1) < 60


def iou(a, b):
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("kind", GEOMETRIC)
@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_labels_move_with_the_image(pipeline_file, kind, dtype):
    """An image that is painted from its labels, which are then found in it again by colour."""
    colors = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], np.uint8)
    augmentation = Albumentations(pipeline_file(GEOMETRIC[kind]), "RGB")
    scale = 1 if dtype is np.uint8 else 70_001  # of several bytes
    for seed in range(4):
        numbers = patches(np.random.default_rng(seed), 300, 400, np.arange(1, 5), cell=100)
        given = LabelledInput(colors[numbers], segments=(numbers * scale).astype(dtype))
        np.random.seed(seed)
        transforms = T.AugmentationList([augmentation])(given)
        padding = transforms.apply_segmentation(np.zeros((300, 400), np.uint8)) == 255
        assert given.segments.shape == given.image.shape[:2] == padding.shape
        assert given.segments.dtype == dtype
        distances = np.linalg.norm(given.image[:, :, None].astype(int) - colors[1:], axis=-1)
        seen = np.where(padding, 0, distances.argmin(-1) + 1)
        found = [
            iou(seen == n, given.segments == n * scale)
            for n in range(1, 5)
            if (given.segments == n * scale).sum() > 500
        ]
        assert len(found) >= 2 and min(found) >= 0.985 and np.mean(found) >= 0.99
        # Fill is black, which no label is; only its seams are mixed.
        assert of_color(given.image[padding], 0).mean() > 0.97 if padding.sum() > 500 else True
        if kind in ("flip", "turns", "shuffled", "crop", "smaller", "reflected", "repeated"):
            assert not padding.any()


def test_padding_is_where_the_image_is_filled(pipeline_file):
    file = pipeline_file(A.PadIfNeeded(170, 230, position="top_left", fill=77, fill_mask=1, p=1))
    augmented = LabelledInput(np.full((H, W, 3), 9, np.uint8), labels=np.ones((H, W), np.uint8))
    T.AugmentationList([Albumentations(file, "RGB")])(augmented)
    assert (augmented.image[H:] == 77).all() and (augmented.image[:H, :W] == 9).all()
    assert (augmented.labels[H:] == 255).all() and (augmented.labels[:, W:] == 255).all()
    assert (augmented.labels[:H, :W] == 1).all()


@pytest.fixture
def painted(tmp_path):
    outlines = [[30, 20, 150, 35, 170, 120, 90, 100, 40, 130], [110, 60, 190, 70, 150, 140]]
    rles = [mask_util.merge(mask_util.frPyObjects([o], H, W)) for o in outlines]
    masks = mask_util.decode(rles).astype(bool)
    pixels = np.full((H, W, 3), 20, np.uint8)
    pixels[masks[..., 0]], pixels[masks[..., 1]] = (240, 20, 20), (20, 240, 20)
    ids = np.select([masks[..., 1], masks[..., 0]], [9000, 7], 0)
    common = {
        "file_name": save(tmp_path / "image.png", pixels),
        "sem_seg_file_name": save(tmp_path / "labels.png", (ids > 0).astype(np.uint8)),
        "pan_seg_file_name": save(tmp_path / "segments.png", id_colors(ids)),
        "segments_info": [
            {"id": i, "category_id": 1, "isthing": True, "iscrowd": 0} for i in (7, 9000)
        ],
    }
    kinds = {
        "polygons": [[outline] for outline in outlines],
        "RLE": rles,
        "bitmap": list(masks.transpose(2, 0, 1).astype(np.uint8)),
    }
    return {
        kind: {**common, "annotations": [{"category_id": 1, "segmentation": s} for s in found]}
        for kind, found in kinds.items()
    }


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("coco_instance_lsj", "polygons"),
        ("coco_instance_lsj", "RLE"),
        ("mask_former_instance", "bitmap"),
        ("coco_panoptic_lsj", "polygons"),
        ("mask_former_semantic", "polygons"),
    ],
)
def test_targets_of_every_task_move_with_the_image(
    pipeline_file, painted, name, kind, image_format
):
    file = pipeline_file(
        A.Affine(rotate=(-50, 50), p=1), A.ElasticTransform(alpha=30, sigma=7, p=1)
    )
    mapper = build_mapper(make_cfg(file, name, "INPUT.FORMAT", image_format))
    found = []
    for seed in range(6):
        np.random.seed(seed)
        sample = mapper(painted[kind])
        image = sample["image"].permute(1, 2, 0).numpy()
        image = image[..., ::-1] if image_format == "BGR" else image
        red, green = (of_color(image, color) for color in ((240, 20, 20), (20, 240, 20)))
        masks = sample["instances"].gt_masks.tensor.numpy()
        assert not (masks & sample["padding_mask"].numpy()).any()
        if name == "mask_former_semantic":
            things = masks[sample["instances"].gt_classes.tolist().index(1)]
            found.append(iou(red | green, things))
        else:
            assert len(masks) == 2
            found += [iou(red, masks[0] & ~masks[1]), iou(green, masks[1])]
    assert min(found) > 0.93 and np.mean(found) > 0.96  # outlines are of half-covered pixels


def test_colors_leave_polygons_exact(pipeline_file, painted):
    plain, colored = (
        build_mapper(make_cfg(file)) for file in ("", pipeline_file(*COLORS, A.HorizontalFlip(p=0)))
    )
    for seed in range(5):
        samples = []
        for mapper in (plain, colored):
            np.random.seed(seed)
            samples.append(mapper(painted["polygons"]))
        masks = [sample["instances"].gt_masks.tensor for sample in samples]
        assert torch.equal(*masks)
        assert (samples[0]["image"] != samples[1]["image"]).float().mean() > 0.3


def test_the_seed_decides(pipeline_file, tiny_cfg):
    file = pipeline_file(A.Rotate(p=0.7), *COLORS, A.CoarseDropout(p=0.5), name="pipeline.json")
    tiny_cfg.INPUT.ALBUMENTATIONS = file
    whole = check_that_the_seed_decides(tiny_cfg)
    images = [sample["image"] for batch in whole for sample in batch]
    assert not any(torch.equal(a, b) for a, b in pairwise(images))


def test_transforms_draw_independently(pipeline_file):
    augmentation = Albumentations(pipeline_file(A.HorizontalFlip(), A.VerticalFlip()), "RGB")
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.random.seed(0)
    results = [augmentation.get_transform(image).apply_image(image).tobytes() for _ in range(200)]
    counts = [results.count(result) for result in set(results)]
    assert len(counts) == 4 and min(counts) > 25


def test_a_dropped_region_keeps_its_label_or_loses_it(pipeline_file):
    hole = {"num_holes_range": (1, 1), "hole_height_range": (20, 20), "hole_width_range": (30, 30)}
    for fill_mask, lost in ((None, 0), (0, 600), (7, 600)):
        file = pipeline_file(A.CoarseDropout(**hole, fill=0, fill_mask=fill_mask, p=1))
        given = LabelledInput(np.full((H, W, 3), 9, np.uint8), labels=np.ones((H, W), np.uint8))
        T.AugmentationList([Albumentations(file, "RGB")])(given)
        assert (given.image == 0).all(-1).sum() == 600
        assert (given.labels == 255).sum() == lost and (given.labels == 1).sum() == H * W - lost


def test_points_cannot_follow():
    moved = MovedPixels((2, 2), np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.int64))
    with pytest.raises(NotImplementedError):
        moved.apply_coords(np.zeros((1, 2)))


REFUSED = {
    "Normalize": (A.Normalize(), "Normalize is what the model does"),
    "tensors": (A.ToTensorV2(), "ToTensorV2 is what the model does"),
    "boxes": (A.RandomSizedBBoxSafeCrop(64, 64), "needs boxes"),
    "one mask": (A.MaskDropout(), "depends on a single mask"),
    "outlines": (A.Morphological(), "Morphological changes outlines"),
    "volumes": (A.CubicSymmetry(), "CubicSymmetry is not for images"),
    "pixels": (A.PixelDropout(mask_drop_value=3), "set mask_drop_value to null"),
    "nested": (A.OneOf([A.Sequential([A.Normalize()])]), "Normalize is what the model does"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_transforms_that_do_not_suit_masks_are_named(pipeline_file, kind):
    transform, message = REFUSED[kind]
    with pytest.raises(ValueError, match=r"INPUT\.ALBUMENTATIONS .*pipeline\.yaml: .*" + message):
        build_mapper(make_cfg(pipeline_file(transform)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bbox_params": A.BboxParams("coco", label_fields=[])}, "has bbox_params"),
        ({"keypoint_params": A.KeypointParams("xy")}, "has keypoint_params"),
        ({"additional_targets": {"image2": "image"}}, "has additional_targets"),
    ],
)
def test_boxes_and_points_are_refused(pipeline_file, options, message):
    with pytest.raises(ValueError, match=message):
        build_mapper(make_cfg(pipeline_file(A.HorizontalFlip(), **options)))


def flip(**changes):
    return {"transform": {"__class_fullname__": "HorizontalFlip", "p": 0.5, **changes}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "not a pipeline"),
        ([], "not a pipeline"),
        (flip(__class_fullname__="os.system"), "does not have 'os.system'"),
        (flip(__class_fullname__="evil.HorizontalFlip"), "does not have 'evil.HorizontalFlip'"),
        (flip(__class_fullname__="BboxParams"), "does not have 'BboxParams'"),
        (flip(__class_fullname__=3), "is not a transform"),
        (flip(__class_fullname__="Lambda", __name__="x"), "Lambda runs a function"),
        (flip(__class_fullname__="Compose", transforms=3), "are not a list"),
        (flip(__class_fullname__="Compose", transforms=[3]), "3 is not a transform"),
        (flip(__class_fullname__="FDA", metadata_key="a"), "FDA needs more than an image"),
        (flip(p="often"), "cannot use it: .*p"),
        (flip(angle=3), "HorizontalFlip does not have the argument angle"),
        (flip(always_apply=True), "always_apply, which is no more"),
    ],
)
def test_invalid_files_are_explained(tmp_path, content, message):
    file = tmp_path / "pipeline.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as error:
        build_mapper(make_cfg(str(file)))
    assert str(error.value).startswith(f"INPUT.ALBUMENTATIONS {file}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "is not JSON"),
        ("a.json", None, "cannot be read"),
        ("a.yaml", None, "cannot be read"),
        ("a.yaml", "a: [", "is not YAML"),
        ("a.yaml", "a: &a [1]\nb: [*a, *a]", "aliases"),
        ("a.yaml", "!!python/object/apply:os.system [exit 3]", "is not YAML"),
        ("a.yml", "[" * 5000, "nested too deeply"),
        ("a.json", "[" * 50000, "nested too deeply"),
        ("a.py", "import os", "ends with .json, .yaml or .yml"),
    ],
)
def test_other_files_are_refused(tmp_path, name, text, message):
    file = tmp_path / name
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        build_mapper(make_cfg(str(file)))
    assert str(error.value).startswith("INPUT.ALBUMENTATIONS ") and str(file) in str(error.value)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (A.RandomCrop(400, 400), "cannot be applied: .*400"),
        (A.ToGray(num_output_channels=1, p=1), "must stay an image of three channels"),
    ],
)
def test_a_pipeline_that_fails_names_itself_and_the_image(
    pipeline_file, painted, transform, message
):
    file = pipeline_file(A.Sequential([transform], p=1))
    mapper = build_mapper(make_cfg(file))
    np.random.seed(0)
    with pytest.raises(DatasetError, match=r"image\.png .*INPUT\.ALBUMENTATIONS .*" + message):
        for _ in range(9):
            mapper(painted["polygons"])


def test_files_of_earlier_versions_are_read(tmp_path):
    file = tmp_path / "pipeline.json"
    file.write_text(json.dumps({"__version__": "1.4.0", **flip(always_apply=False, p=1.0)}))
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    result = Albumentations(str(file), "RGB").get_transform(image).apply_image(image)
    assert (result == image[:, ::-1]).all()


def test_without_albumentations_the_extra_is_named(monkeypatch, pipeline_file):
    file = pipeline_file(A.HorizontalFlip())
    monkeypatch.setitem(sys.modules, "albumentations", None)
    with pytest.raises(ImportError, match=r'pip install "mask2former\[albumentations\]"'):
        build_mapper(make_cfg(file))


def test_preset_and_pipeline_go_together(pipeline_file, painted):
    file = pipeline_file(A.Rotate(limit=(90, 90), p=1))
    mapper = build_mapper(make_cfg(file, "coco_panoptic_lsj", "INPUT.AUGMENTATION", "aerial"))
    kinds = [type(step).__name__ for step in mapper.augmentations.augs]
    assert kinds[-2:] == ["Albumentations", "FixedSizeCrop"] and "RandomTranspose" in kinds
    assert mapper(painted["polygons"])["image"].shape == (3, 160, 160)
