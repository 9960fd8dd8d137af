"""Training without the pixels that nobody labelled: from files through mapper, model and run."""

# ruff: noqa: NPY002  Detectron2 draws from NumPy's global generator.
import copy
import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.engine import DefaultTrainer
from detectron2.structures import Instances
from PIL import Image
from support import QUICKSTART, TINY

from mask2former import load_config
from mask2former.data import build_mapper, register_coco_json
from mask2former.engine import Trainer
from mask2former.engine.setup import argument_parser, checked_config
from mask2former.engine.validation_loss import ValidationLoss
from mask2former.structures import PackedMasks

KEY = "MODEL.MASK_FORMER.IGNORE_REGIONS"
# images are smaller than the crop
SMALL = ("INPUT.MIN_SCALE", 0.7, "INPUT.MAX_SCALE", 0.9, "INPUT.MIN_SIZE_TRAIN", (110,))
PILOTED = ("MODEL.MASK_FORMER.PILOTED.GROUPS", 2)
TASKS = ["instance", "panoptic", "semantic"]


def make_cfg(task, tmp_path, *overrides):
    head = [*TINY, *SMALL, "OUTPUT_DIR", str(tmp_path / "run"), *overrides]
    return load_config(str(QUICKSTART.with_stem(task)), head)


def make_model(cfg):
    torch.manual_seed(0)
    return Trainer.build_model(cfg).train()


def records(cfg, tmp_path, task):
    """Two images whose largest object is a crowd, or has no class."""
    found = []
    for number, record in enumerate(DatasetCatalog.get(cfg.DATASETS.TRAIN[0])[:2]):
        record = copy.deepcopy(record)
        if task == "instance":
            largest = max(record["annotations"], key=lambda a: a["bbox"][2] * a["bbox"][3])
            largest["iscrowd"] = 1
        elif task == "panoptic":
            max(record["segments_info"], key=lambda s: s.get("area", 0))["iscrowd"] = 1
        else:
            labels = np.array(Image.open(record["sem_seg_file_name"]))
            labels[labels == labels.max(initial=0, where=labels < 255)] = 255
            record["sem_seg_file_name"] = str(tmp_path / f"labels{number}.png")
            Image.fromarray(labels).save(record["sem_seg_file_name"])
        found.append(record)
    return found


def samples(cfg, tmp_path, task):
    np.random.seed(5)
    mapper = build_mapper(cfg)
    return [
        {**mapper(r), "seed": n} for n, r in enumerate(records(cfg, tmp_path, task))
    ]  # fmt: skip


def relabelled(sample, seed):
    """Other labels, as many as there is room for, where no label counts."""
    generator = torch.Generator().manual_seed(seed)
    hidden = sample["ignored_mask"]
    instances = sample["instances"]
    masks = instances.gt_masks.tensor
    noise = torch.rand(masks.shape, generator=generator) < 0.5
    masks = torch.where(hidden, noise, masks)
    more = hidden & (torch.rand(3, *hidden.shape, generator=generator) < 0.3)
    masks = torch.cat((more[:2], masks, more[2:]))
    classes = torch.cat((torch.tensor([0, 1]), instances.gt_classes, torch.tensor([2])))
    changed = Instances(
        instances.image_size, gt_classes=classes, gt_masks=PackedMasks.from_tensor(masks)
    )
    return {**sample, "instances": changed}


def losses_and_gradients(model, batch):
    model = copy.deepcopy(model)
    torch.manual_seed(1)
    losses = model(batch)
    sum(losses.values()).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {k: v.detach() for k, v in losses.items()}, gradients


def equal(one, other):
    return all(
        set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize(
    ("piloted", "seeds"), [((), True), (PILOTED, False)], ids=["plain", "piloted, draws per batch"]
)
@pytest.mark.parametrize("task", TASKS)
def test_labels_of_ignored_pixels_have_no_effect(shapes, tmp_path, task, piloted, seeds):
    cfg = make_cfg(task, tmp_path, *(KEY, True), *piloted)
    batch = samples(cfg, tmp_path, task)
    assert all(x["ignored_mask"].any() for x in batch)
    assert any(x["padding_mask"].any() for x in batch)
    if not seeds:
        batch = [{k: v for k, v in x.items() if k != "seed"} for x in batch]
    model = make_model(cfg)
    wanted = losses_and_gradients(model, batch)
    assert all(loss.isfinite() for loss in wanted[0].values())
    for seed in range(2):
        changed = [relabelled(x, seed) for x in batch]
        assert equal(losses_and_gradients(model, changed), wanted)
    model.ignore_regions = False  # the labels that were changed matter otherwise
    assert not equal(losses_and_gradients(model, changed), losses_and_gradients(model, batch))


@pytest.mark.parametrize("task", TASKS)
def test_off_is_as_before_and_on_needs_pixels_to_ignore(shapes, tmp_path, task):
    off, on = (make_cfg(task, tmp_path, KEY, value) for value in (False, True))
    model = make_model(off)
    batch = samples(on, tmp_path, task)
    plain = [{k: v for k, v in x.items() if k != "ignored_mask"} for x in batch]
    wanted = losses_and_gradients(model, plain)
    assert equal(losses_and_gradients(model, batch), wanted)
    assert not equal(losses_and_gradients(make_model(on), batch), wanted)
    # an image of which all pixels are labelled
    whole = [{**x, "ignored_mask": torch.zeros_like(x["ignored_mask"])} for x in batch]
    assert equal(losses_and_gradients(make_model(on), whole), wanted)


def test_in_sixteen_bits(shapes, tmp_path):
    cfg = make_cfg("panoptic", tmp_path, KEY, True)
    batch = samples(cfg, tmp_path, "panoptic")
    model = make_model(cfg)
    found = []
    for inputs in (batch, [relabelled(x, 0) for x in batch]):
        with torch.autocast("cpu", torch.bfloat16):
            found.append(losses_and_gradients(model, inputs))
    assert equal(*found)
    assert all(loss.isfinite() for loss in found[0][0].values())


def test_an_image_without_any_label_among_others(shapes, tmp_path):
    cfg = make_cfg("instance", tmp_path, KEY, True, *PILOTED)
    batch = samples(cfg, tmp_path, "instance")
    batch[1]["ignored_mask"] = torch.ones_like(batch[1]["ignored_mask"])
    model = make_model(cfg)
    wanted = losses_and_gradients(model, batch)
    assert all(loss.isfinite() for loss in wanted[0].values())
    nothing = batch[1]["instances"][:0]
    assert equal(
        losses_and_gradients(model, [batch[0], {**batch[1], "instances": nothing}]), wanted
    )
    # and no image with one
    batch[0]["ignored_mask"] = torch.ones_like(batch[0]["ignored_mask"])
    losses, gradients = losses_and_gradients(model, batch)
    assert all(loss.isfinite() for loss in losses.values())
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert set(gradients) == set(wanted[1])  # which training in several processes waits for


def train(cfg, name, tmp_path, iterations=4, resume=False):
    cfg = cfg.clone()
    cfg.OUTPUT_DIR = str(tmp_path / name)
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.max_iter = iterations
    trainer.train()
    state = {f"model.{k}": v.clone() for k, v in trainer.model.state_dict().items()}
    average = {f"ema.{k}": v.clone() for k, v in trainer._average.state_dict()["values"].items()}
    return state | average


def test_runs_repeat_and_resume(shapes, tmp_path):
    cfg = make_cfg("instance", tmp_path, KEY, True, *PILOTED)
    cfg.DATASETS.TRAIN = (crowd_set(shapes, tmp_path),)
    cfg.SOLVER.EMA_DECAY, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.DATASETS.TEST = 0.5, 2, ()
    whole = train(cfg, "whole", tmp_path)
    again = train(cfg, "again", tmp_path)
    assert all(torch.equal(again[name], value) for name, value in whole.items())
    train(cfg, "parts", tmp_path, 2)
    parts = train(cfg, "parts", tmp_path, 4, resume=True)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-5, atol=1e-6, msg=name)
    cfg.MODEL.MASK_FORMER.IGNORE_REGIONS = False
    off = train(cfg, "off", tmp_path)
    assert any(not torch.equal(off[name], value) for name, value in whole.items())


def test_validation_losses_ignore_them_too(shapes, tmp_path):
    cfg = make_cfg("instance", tmp_path, "TEST.VALIDATION_LOSS", True)
    cfg.DATASETS.TEST = (crowd_set(shapes, tmp_path),)
    found = []
    for value in (False, True):
        cfg.MODEL.MASK_FORMER.IGNORE_REGIONS = value
        found.append(ValidationLoss(cfg).compute(make_model(cfg)))
    assert found[0]["loss_mask"] != found[1]["loss_mask"]


def test_detectron2s_own_trainer(tiny_cfg):
    """Its mapper knows no ignored pixels."""
    tiny_cfg.MODEL.MASK_FORMER.IGNORE_REGIONS = True
    tiny_cfg.INPUT.MIN_SIZE_TRAIN = (70, 90)
    tiny_cfg.MODEL.MASK_ON = True
    tiny_cfg.SOLVER.MAX_ITER = 2
    tiny_cfg.DATASETS.TEST = ()
    trainer = DefaultTrainer(tiny_cfg)
    trainer.train()
    assert trainer.iter == 2


def test_per_pixel_baselines_are_not_affected(shapes, tmp_path):
    cfg = make_cfg(
        "semantic", tmp_path, "MODEL.META_ARCHITECTURE", "SemanticSegmentor",
        "MODEL.SEM_SEG_HEAD.NAME", "PerPixelBaselineHead", "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME",
        "BasePixelDecoder", "MODEL.SEM_SEG_HEAD.IGNORE_VALUE", 255,
    )  # fmt: skip
    found = []
    for value in (False, True):
        cfg.MODEL.MASK_FORMER.IGNORE_REGIONS = value
        batch = samples(cfg, tmp_path, "semantic")
        found.append(losses_and_gradients(make_model(cfg), batch))
    assert equal(*found)


def write_crowds(source, target):
    """Write COCO instances whose first object of each image is a crowd, as RLE."""
    content = json.loads(source.read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    seen = set()
    for annotation in content["annotations"]:
        image_id = annotation["image_id"]
        if image_id not in seen:
            seen.add(image_id)
            x, y, w, h = map(int, annotation["bbox"])
            mask = np.zeros(sizes[image_id], np.uint8, order="F")
            mask[y : y + h, x : x + w] = 1
            rle = mask_util.encode(mask)
            annotation["segmentation"] = {**rle, "counts": rle["counts"].decode()}
            annotation["iscrowd"] = 1
    target.write_text(json.dumps(content))


def crowd_set(shapes, tmp_path):
    """Register the set of `write_crowds`, and return its name."""
    write_crowds(shapes / "annotations/instances_train.json", tmp_path / "crowds.json")
    name = f"crowds {tmp_path}"
    register_coco_json(name, str(tmp_path / "crowds.json"), str(shapes / "train"))
    return name


def test_a_run_on_labelled_pixels_only_is_the_run_without_the_key(shapes, tmp_path):
    cfg = make_cfg("panoptic", tmp_path, "DATASETS.TEST", (), "SOLVER.EMA_DECAY", 0.5)
    off = train(cfg, "off", tmp_path, 2)
    cfg.MODEL.MASK_FORMER.IGNORE_REGIONS = True
    on = train(cfg, "on", tmp_path, 2)
    assert all(torch.equal(on[name], value) for name, value in off.items())


def test_crowds_in_a_users_file(shapes, tmp_path):
    """The key is on for own data, unless the user says otherwise."""
    write_crowds(shapes / "annotations/instances_train.json", tmp_path / "crowds.json")
    words = ["--config-file", QUICKSTART, "--train-json", tmp_path / "crowds.json"]
    words += ["--train-images", shapes / "train", "OUTPUT_DIR", tmp_path, "TEST.EVAL_PERIOD", 0]
    args = argument_parser().parse_args([*map(str, words)])
    cfg, _, settings = checked_config(args)
    assert cfg.MODEL.MASK_FORMER.IGNORE_REGIONS
    (line,) = [text for text in str(settings).splitlines() if KEY in text]
    assert line.endswith("crowd regions are unknown, not background")
    mapper, found = build_mapper(cfg), 0
    for record in DatasetCatalog.get(cfg.DATASETS.TRAIN[0]):
        found += int(mapper(record)["ignored_mask"].any())
    assert found > 6  # of 12; the others are covered by objects, or cropped away
    args = argument_parser().parse_args([*map(str, words), KEY, "False"])
    assert not checked_config(args)[0].MODEL.MASK_FORMER.IGNORE_REGIONS
