"""Augmented inference against plain inference, and against each view alone."""

import itertools
import weakref

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, build_model
from detectron2.modeling.test_time_augmentation import DatasetMapperTTA
from torch import nn
from torch.nn import functional as F

from mask2former.data import build_mapper
from mask2former.inference.test_time_augmentation import InferenceWithTTA
from mask2former.modeling import MaskFormer

TASKS = ("semantic_on", "panoptic_on", "instance_on")
COMBINATIONS = [c for n in (1, 2, 3) for c in itertools.combinations(TASKS, n)]


def augment(cfg, model, sizes, flip=False, max_size=4000):
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE, cfg.TEST.AUG.FLIP = sizes, max_size, flip
    return InferenceWithTTA(cfg, model)


@pytest.fixture
def model(tiny_cfg):
    """A model with random weights that finds something in every image."""
    model = build_model(tiny_cfg).eval()
    model.object_mask_threshold = model.overlap_threshold = 0.0
    model.thing_classes = [1, 3]
    return model


def switch_on(model, tasks):
    for task in TASKS:
        setattr(model, task, task in tasks)
    return model


def photo(height=50, width=76, seed=0):
    """Make a smooth image: random pixels do not survive a resize."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 5, 7, generator=generator) * 255
    image = F.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 255)
    return image[0].to(torch.uint8)


def assert_same(got, wanted, atol=0.0, pixels=0.0):
    """Assert equal results, up to a difference of scores and a share of pixels."""
    close = {"rtol": 0, "atol": atol}
    assert list(got) == list(wanted)
    if "sem_seg" in got:
        torch.testing.assert_close(got["sem_seg"], wanted["sem_seg"], **close)
    if "panoptic_seg" in got:
        (a, a_segments), (b, b_segments) = got["panoptic_seg"], wanted["panoptic_seg"]
        assert (a != b).float().mean() <= pixels
        assert [s["category_id"] for s in a_segments] == [s["category_id"] for s in b_segments]
    if "instances" in got:
        a, b = got["instances"], wanted["instances"]
        assert torch.equal(a.pred_classes, b.pred_classes)
        torch.testing.assert_close(a.scores, b.scores, **close)
        assert (a.pred_masks != b.pred_masks).float().mean() <= pixels


@pytest.mark.parametrize("tasks", COMBINATIONS, ids="+".join)
def test_the_plain_view_alone_equals_plain_inference_bit_for_bit(tiny_cfg, model, tasks):
    switch_on(model, tasks)
    tiny_cfg.INPUT.MIN_SIZE_TEST, tiny_cfg.INPUT.MAX_SIZE_TEST = 48, 200
    entry = DatasetCatalog.get("synthetic_shapes_instance_val")[0]
    with torch.no_grad():
        (wanted,) = model([build_mapper(tiny_cfg, is_train=False)(entry)])
    augmented = augment(tiny_cfg, model, [48], max_size=200)
    (from_file,) = augmented([entry])
    assert_same(from_file, wanted)
    tiny_cfg.INPUT.MIN_SIZE_TEST = 0
    (from_image,) = augmented([build_mapper(tiny_cfg, is_train=False)(entry)])
    assert_same(from_image, wanted)


@pytest.mark.parametrize("tasks", COMBINATIONS, ids="+".join)
def test_equal_views_give_the_result_of_one(tiny_cfg, model, tasks):
    switch_on(model, tasks)
    x = {"image": photo(), "height": 100, "width": 152}
    (wanted,) = augment(tiny_cfg, model, [60])([x])
    (got,) = augment(tiny_cfg, model, [60, 60, 60])([x])
    assert_same(got, wanted, atol=1e-4, pixels=1e-3)
    assert all(key in got for key in model.result_keys) and len(got) == len(tasks)


class Averages(Backbone):
    """Means of 4 x 4 pixels: a flipped image gives flipped means."""

    size_divisibility = 32

    def output_shape(self):
        return {"mean": ShapeSpec(channels=3, stride=4)}

    def forward(self, image):
        return {"mean": F.avg_pool2d(image, 4)}


class Colours(nn.Module):
    """Queries that look for colours; the classes follow from the masks."""

    def __init__(self, queries=8, classes=5):
        super().__init__()
        self.masks = nn.Conv2d(3, queries, 1)
        self.classes = nn.Parameter(torch.randn(queries, classes + 1))
        nn.init.normal_(self.masks.weight, std=3.0)

    def forward(self, features):
        masks = self.masks(features["mean"])
        found = masks.sigmoid().square().sum((2, 3)) / masks.sigmoid().sum((2, 3))
        return {"pred_logits": 4 * found[..., None] * self.classes, "pred_masks": masks}


def symmetric_model():
    torch.manual_seed(0)
    return MaskFormer(
        backbone=Averages(),
        sem_seg_head=Colours(),
        criterion=nn.Identity(),
        size_divisibility=32,
        pixel_mean=[110.0] * 3,
        pixel_std=[60.0] * 3,
        max_detections=20,
        semantic_on=True,
        panoptic_on=True,
        semantic_resize_first=True,
        object_mask_threshold=0.3,
        overlap_threshold=0.5,
        thing_classes=[0, 1, 2],
    ).eval()


# The second width is padded, and the resize sees the padding beside one border.
@pytest.mark.parametrize(("width", "atol"), [(96, 1e-4), (76, 2e-3)])
def test_a_flip_changes_nothing_for_a_symmetric_model(tiny_cfg, width, atol):
    model = symmetric_model()
    x = {"image": photo(48, width), "height": 60, "width": 95}
    (wanted,) = augment(tiny_cfg, model, [48])([x])
    assert len(wanted["panoptic_seg"][1]) > 1 and len(wanted["instances"]) > 9
    (got,) = augment(tiny_cfg, model, [48], flip=True)([x])
    assert (got.pop("sem_seg") - wanted.pop("sem_seg"))[..., 4:-4].abs().max() < 2 * atol
    assert_same(got, wanted, atol=atol, pixels=2e-3)


def test_sizes_change_little_if_the_model_sees_only_colours(tiny_cfg):
    model = symmetric_model()
    x = {"image": photo(96, 128)}
    (wanted,) = augment(tiny_cfg, model, [96])([x])
    (got,) = augment(tiny_cfg, model, [192, 72, 96], flip=True)([x])
    assert len(got["instances"]) == len(wanted["instances"])
    assert (got["panoptic_seg"][0] != wanted["panoptic_seg"][0]).float().mean() < 0.03
    torch.testing.assert_close(
        got["instances"].scores.sort().values,
        wanted["instances"].scores.sort().values,
        rtol=0.03,
        atol=0.02,
    )


def test_views_go_from_large_to_small_each_with_its_mirror_image(tiny_cfg, model):
    augmented = augment(tiny_cfg, model, [32, 128, 70], flip=True, max_size=160)
    image = photo(50, 100)
    views = list(augmented.views(image))
    assert [(tuple(view.shape[1:]), flipped) for view, flipped in views] == [
        ((80, 160), False),  # as large as MAX_SIZE allows
        ((80, 160), True),
        ((70, 140), False),
        ((70, 140), True),
        ((32, 64), False),
        ((32, 64), True),
    ]
    for (view, _), (mirrored, _) in zip(views[::2], views[1::2], strict=True):
        assert torch.equal(mirrored, view.flip(-1)) and not torch.equal(mirrored, view)


class TwoMaps(nn.Module):
    """Fails if it is called while two maps of semantic scores are alive."""

    def __init__(self):
        super().__init__()
        self.maps: list[weakref.ref] = []

    def forward(self, batched_inputs):
        (x,) = batched_inputs
        assert sum(ref() is not None for ref in self.maps) <= 1
        scores = torch.full((4, x["height"], x["width"]), float(len(self.maps)))
        self.maps.append(weakref.ref(scores))
        return [{"sem_seg": scores}]


def by_detectron2(cfg, model, x):
    """Average the scores of the views that Detectron2's mapper makes."""
    scores = []
    for view in DatasetMapperTTA(cfg)(x):
        flipped = len(view["transforms"].transforms) == 3
        (result,) = model([view])
        scores.append(result["sem_seg"].flip(-1) if flipped else result["sem_seg"])
    return torch.stack(scores).mean(0)


@torch.no_grad()
def test_semantic_scores_are_the_mean_of_the_views(tiny_cfg, model):
    switch_on(model, ["semantic_on"])
    x = {"image": photo(50, 76), "height": 40, "width": 61}
    (got,) = augment(tiny_cfg, model, [40, 64, 80], flip=True)([x])
    torch.testing.assert_close(got["sem_seg"], by_detectron2(tiny_cfg, model, x))


def test_never_more_than_two_maps_of_scores(tiny_cfg):
    model = TwoMaps().eval()
    (got,) = augment(tiny_cfg, model, [40, 64, 80], flip=True)([{"image": photo(50, 76)}])
    assert len(model.maps) == 6
    assert got["sem_seg"].shape == (4, 50, 76)
    assert (got["sem_seg"] == sum(range(6)) / 6).all()


def test_a_per_pixel_model(tiny_cfg):
    tiny_cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    tiny_cfg.MODEL.SEM_SEG_HEAD.NAME = "PerPixelBaselineHead"
    tiny_cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME = "BasePixelDecoder"
    model = build_model(tiny_cfg).eval()
    x = {"image": photo(64, 96), "height": 30, "width": 45}
    (got,) = augment(tiny_cfg, model, [64, 96], flip=True)([x])
    with torch.no_grad():
        wanted = by_detectron2(tiny_cfg, model, x)
    torch.testing.assert_close(got["sem_seg"], wanted, rtol=1e-4, atol=1e-4)


class Keypoints(nn.Module):
    def forward(self, batched_inputs):
        return [{"sem_seg": torch.zeros(1, 2, 2), "keypoints": 1} for _ in batched_inputs]


def test_bad_settings_and_models_are_rejected(tiny_cfg, model):
    with pytest.raises(ValueError, match=r"TEST\.AUG\.MIN_SIZES is empty"):
        augment(tiny_cfg, model, [])
    for sizes, max_size, bad in (([64, 0], 100, "0"), ([64, -3], 100, "-3"), ([64], 0, "0")):
        with pytest.raises(ValueError, match=rf"whole numbers from 1, got \[{bad}\]"):
            augment(tiny_cfg, model, sizes, max_size=max_size)
    with pytest.raises(ValueError, match=r"cannot average .*keypoints.* of a Keypoints"):
        augment(tiny_cfg, Keypoints().eval(), [64])([{"image": photo()}])
    with pytest.raises(ValueError, match=r"eval\(\)"):
        augment(tiny_cfg, model.train(), [64])([{"image": photo()}])
