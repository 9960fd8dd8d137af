import itertools

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from mask2former.modeling.postprocessing import semantic_inference
from mask2former.modeling.query_prediction import QueryPrediction
from mask2former.structures import PackedMasks


def image(height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)


@pytest.fixture
def model(tiny_cfg):
    return build_model(tiny_cfg).eval()


@torch.no_grad()
def test_a_batch_equals_its_images_one_by_one(model):
    same = [{"image": image(64, 96, seed)} for seed in range(3)]
    together = model(same)
    for x, got in zip(same, together, strict=True):
        assert_same_instances(got["instances"], model([x])[0]["instances"])


@torch.no_grad()
def test_different_sizes_in_a_batch_differ_from_single_images_by_padding_only(model):
    inputs = [{"image": image(64, 96, 0)}, {"image": image(96, 32, 1)}]
    together = model(inputs)
    model.size_divisibility = 96  # now each alone is padded to what the batch was padded to
    for x, got in zip(inputs, together, strict=True):
        assert got["instances"].image_size == tuple(x["image"].shape[1:])
        assert_same_instances(got["instances"], model([x])[0]["instances"])


def assert_same_instances(a, b):
    # a pixel may fall to the other side of 0 by rounding, and so out of the mean that scores are of
    torch.testing.assert_close(a.scores, b.scores, rtol=1e-3, atol=1e-4)
    assert torch.equal(a.pred_classes, b.pred_classes)
    assert (a.pred_masks != b.pred_masks).float().mean() < 1e-3


@torch.no_grad()
def test_output_has_the_requested_size(model):
    ((result),) = model([{"image": image(64, 64, 0), "height": 30, "width": 47}])
    assert result["instances"].image_size == (30, 47)
    assert result["instances"].pred_masks.shape[1:] == (30, 47)


def training_inputs():
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, 8:24, 8:24] = masks[1, 32:60, 20:50] = True
    polygons = [[[8.0, 8, 24, 8, 24, 24, 8, 24]], [[20.0, 32, 50, 32, 50, 60, 20, 60]]]
    kinds = {
        "tensor": masks,
        "numbers": masks.to(torch.uint8) * 255,
        "bitmasks": BitMasks(masks),
        "packed": PackedMasks.from_tensor(masks),
        "polygons": PolygonMasks(polygons),
    }
    for kind, gt_masks in kinds.items():
        instances = Instances((64, 64), gt_classes=torch.tensor([1, 3]))
        instances.gt_masks = gt_masks
        instances.gt_boxes = Boxes(torch.tensor([[8.0, 8, 24, 24], [20, 32, 50, 60]]))
        yield kind, {"image": image(64, 64, 0), "instances": instances}


def test_every_kind_of_mask_gives_the_same_losses(model):
    model.train()
    losses = {}
    for kind, x in training_inputs():
        torch.manual_seed(0)
        losses[kind] = {k: v.item() for k, v in model([x]).items()}
    for kind in ("numbers", "bitmasks", "packed"):
        assert losses[kind] == losses["tensor"]
    assert losses["polygons"] == pytest.approx(losses["tensor"], rel=1e-4)


def test_masks_of_different_sizes_are_padded_to_the_batch(model):
    model.train()
    inputs = [x for _, x in training_inputs()][:1]
    instances = Instances((32, 96), gt_classes=torch.tensor([0]))
    instances.gt_masks = torch.ones(1, 32, 96, dtype=torch.bool)
    inputs.append({"image": image(32, 96, 1), "instances": instances})
    losses = model(inputs)
    assert set(losses) == {f"loss_{k}{s}" for k in ("ce", "mask", "dice") for s in ("", "_0", "_1")}
    assert all(loss.isfinite() for loss in losses.values())


def test_images_without_instances_train(model):
    model.train()
    empty = Instances((64, 64), gt_classes=torch.zeros(0, dtype=torch.long))
    sum(model([{"image": image(64, 64, 0), "instances": empty}]).values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_missing_annotations_are_named(model):
    model.train()
    with pytest.raises(ValueError, match=r"'instances'.*a\.jpg"):
        model([{"image": image(64, 64, 0), "file_name": "a.jpg"}])
    boxes_only = Instances((64, 64), gt_classes=torch.tensor([0]))
    with pytest.raises(ValueError, match="MASK_ON"):
        model([{"image": image(64, 64, 0), "instances": boxes_only}])


@pytest.mark.parametrize("label", [7, -1])
def test_classes_that_the_model_does_not_have_are_named(model, label):
    (_, x), *_ = training_inputs()
    x["instances"].gt_classes[0] = label
    with pytest.raises(ValueError, match=rf"b\.jpg: class {label} .*NUM_CLASSES is 5"):
        model.train()([{**x, "file_name": "b.jpg"}])


def test_masks_that_do_not_fit_are_named(model):
    (_, x), *_ = training_inputs()
    with pytest.raises(ValueError, match=r"b\.jpg: the masks have the size \(64, 64\)"):
        model.train()([{**x, "image": image(64, 60, 0), "file_name": "b.jpg"}])
    x["instances"].gt_masks = [[[1, 2, 3, 4, 5, 6]]] * 2
    with pytest.raises(ValueError, match="gt_masks are list; known are PackedMasks"):
        model([x])


TASKS = ("SEMANTIC_ON", "PANOPTIC_ON", "INSTANCE_ON")
KEYS = {"SEMANTIC_ON": "sem_seg", "PANOPTIC_ON": "panoptic_seg", "INSTANCE_ON": "instances"}


def switch_on(cfg, tasks):
    """Switch on these tasks; with panoptic segmentation, classes 1 and 3 of 5 are things."""
    for task in TASKS:
        cfg.MODEL.MASK_FORMER.TEST[task] = task in tasks
    if "PANOPTIC_ON" in tasks:
        things = {7: 1, 9: 3}
        MetadataCatalog.get("two_things").thing_dataset_id_to_contiguous_id = things
        cfg.DATASETS.TRAIN = ("two_things",)
    return cfg


@torch.no_grad()
@pytest.mark.parametrize(
    "tasks", [c for n in (1, 2, 3) for c in itertools.combinations(TASKS, n)], ids="+".join
)
def test_any_combination_of_tasks(tiny_cfg, tasks):
    model = build_model(switch_on(tiny_cfg, tasks)).eval()
    # no query is confident with random weights
    model.object_mask_threshold = model.overlap_threshold = 0.0
    inputs = [
        {"image": image(64, 96, 0), "height": 50, "width": 70},
        {"image": image(96, 32, 1)},
    ]
    for result, size in zip(model(inputs), [(50, 70), (96, 32)], strict=True):
        assert set(result) == {KEYS[task] for task in tasks}
        if "sem_seg" in result:
            assert result["sem_seg"].shape == (5, *size)
        if "panoptic_seg" in result:
            segmentation, segments = result["panoptic_seg"]
            assert segmentation.shape == size and segmentation.dtype == torch.int32
            assert set(segmentation.unique().tolist()) - {0} == {s["id"] for s in segments} != set()
            assert all(s["isthing"] == (s["category_id"] in {1, 3}) for s in segments)
        if "instances" in result:
            assert result["instances"].image_size == size
            classes = set(result["instances"].pred_classes.tolist())
            assert classes == ({1, 3} if "PANOPTIC_ON" in tasks else {0, 1, 2, 3, 4})


def test_thresholds_and_things_come_from_the_config(tiny_cfg):
    test = switch_on(tiny_cfg, TASKS).MODEL.MASK_FORMER.TEST
    test.OBJECT_MASK_THRESHOLD, test.OVERLAP_THRESHOLD = 0.7, 0.6
    model = build_model(tiny_cfg)
    assert (model.object_mask_threshold, model.overlap_threshold) == (0.7, 0.6)
    assert list(model.thing_classes) == [1, 3]
    # an evaluation may have no training set
    tiny_cfg.DATASETS.TRAIN, tiny_cfg.DATASETS.TEST = (), tiny_cfg.DATASETS.TRAIN
    assert list(build_model(tiny_cfg).thing_classes) == [1, 3]


@pytest.mark.parametrize("tasks", [("SEMANTIC_ON",), ("SEMANTIC_ON", "INSTANCE_ON"), TASKS])
@pytest.mark.parametrize("before", [False, True])
@torch.no_grad()
def test_masks_are_resized_first_on_request_and_with_other_tasks(tiny_cfg, tasks, before):
    switch_on(tiny_cfg, tasks)
    tiny_cfg.MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE = before
    model = build_model(tiny_cfg).eval()
    x = {"image": image(64, 96, 0), "height": 50, "width": 70}
    pixels = (x["image"] - model.pixel_mean) / model.pixel_std
    outputs = model.sem_seg_head(model.backbone(pixels[None]))
    logits = outputs["pred_logits"][0], outputs["pred_masks"][0]
    prediction = QueryPrediction(*logits, padded_size=(64, 96), image_size=(64, 96))
    first, last = (
        semantic_inference(prediction, (50, 70), resize_first=resize_first)
        for resize_first in (True, False)
    )
    assert (first - last).abs().max() > 1e-4
    wanted = first if before or len(tasks) > 1 else last
    torch.testing.assert_close(model([x])[0]["sem_seg"], wanted, rtol=1e-5, atol=1e-6)


def test_a_model_that_predicts_nothing_is_refused(tiny_cfg):
    with pytest.raises(ValueError, match=r"at least one of INSTANCE_ON, SEMANTIC_ON and PANOPTIC"):
        build_model(switch_on(tiny_cfg, ()))


def test_panoptic_segmentation_needs_to_know_the_things(tiny_cfg):
    switch_on(tiny_cfg, ("PANOPTIC_ON",))
    tiny_cfg.DATASETS.TRAIN = ("never_registered",)
    with pytest.raises(ValueError, match=r"'never_registered' does not say.*DATASETS\.TRAIN"):
        build_model(tiny_cfg)
    tiny_cfg.DATASETS.TRAIN = tiny_cfg.DATASETS.TEST = ()
    with pytest.raises(ValueError, match=r"DATASETS\.TRAIN, which is empty"):
        build_model(tiny_cfg)
    # instances and semantic segmentation do without
    assert build_model(switch_on(tiny_cfg, ("INSTANCE_ON", "SEMANTIC_ON"))).thing_classes is None


def test_instances_of_a_panoptic_data_set_are_things(tiny_cfg):
    """Also where the model is asked for instances alone."""
    switch_on(tiny_cfg, TASKS)
    metadata = MetadataCatalog.get("two_things")
    switch_on(tiny_cfg, ("INSTANCE_ON",))
    for classes, wanted in ((list("abcde"), [1, 3]), (list("abcdefg"), None)):
        metadata.stuff_classes = classes  # of another number than the model's: not its data set
        assert build_model(tiny_cfg).thing_classes == wanted
        del metadata.stuff_classes


def test_things_are_among_the_classes_of_the_model(tiny_cfg):
    switch_on(tiny_cfg, TASKS)
    tiny_cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    with pytest.raises(ValueError, match=r"class 3 .*'two_things'.*NUM_CLASSES is 3"):
        build_model(tiny_cfg)


def test_more_instances_than_queries(model):
    model.train()
    torch.manual_seed(0)
    instances = Instances((64, 64), gt_classes=torch.randint(5, (25,)))  # 10 queries
    instances.gt_masks = torch.rand(25, 64, 64) < 0.3
    losses = model([{"image": image(64, 64, 0), "instances": instances}])
    assert all(loss.isfinite() for loss in losses.values())


@torch.no_grad()
def test_bfloat16_autocast_stays_close(model):
    x = [{"image": image(64, 64, 0)}]
    full = model.sem_seg_head(model.backbone(torch.randn(1, 3, 64, 64)))
    with torch.autocast("cpu", torch.bfloat16):
        result = model(x)[0]["instances"]
        torch.manual_seed(0)
    assert result.scores.dtype == torch.float32 and result.scores.isfinite().all()
    assert full["pred_masks"].isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["backbone.stem.conv1.weight", "sem_seg_head.predictor.class_embed.bias"]
)
def test_weights_that_compute_nan_are_told(model, name):
    """They are finite; no instance has a score of NaN, so that images would seem to be empty."""
    parameter = model.get_parameter(name)
    parameter.fill_(torch.finfo(torch.float32).max)
    if parameter.ndim == 1:
        parameter.neg_()
        model.sem_seg_head.predictor.class_embed.weight.fill_(-torch.finfo(torch.float32).max)
    with pytest.raises(
        FloatingPointError, match=r"NaN or infinity for images of \(64, 96\) pixels"
    ):
        model([{"image": image(64, 96, 0)}])
