"""Pictures of training samples show what the model sees."""

from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from PIL import Image
from support import QUICKSTART

from mask2former import load_config
from mask2former.cli.visualize_data import main
from mask2former.data import SeededMapDataset, SegmentationMapper, build_train_loader
from mask2former.report.training_samples import (
    classes_of,
    draw,
    hatch,
    sample_stream,
    samples,
    summary,
)
from mask2former.structures import Classes, PackedMasks

CONFIGS = QUICKSTART.parent
NAMES = ["disk", "ring", "rectangle", "triangle", "star", "paper", "gravel"]


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_pictures_of_every_task(shapes, tmp_path, capsys, task, raw):
    output = tmp_path / "pictures"
    flags = ["--raw"] if raw else []
    config = str(CONFIGS / f"{task}.yaml")
    assert main(["--config-file", config, "--num", "3", "--output", str(output), *flags]) == 0
    printed, errors = capsys.readouterr()
    assert str(output) in printed and not errors  # a log is not a terminal: no bar
    cfg = load_config(config)
    files = sorted(output.iterdir())
    expected = list(islice(samples(cfg, raw=raw), 3))
    assert len(files) == 3
    for number, (file, sample) in enumerate(zip(files, expected, strict=True), start=1):
        stem = f"{number:05d}_{sample['file_name'][-10:-4]}"
        assert file.name == f"{stem}.jpg"
        [line] = [line for line in printed.splitlines() if line.startswith(stem)]
        assert all(NAMES[label] in line for label in sample["instances"].gt_classes.tolist())
        size = 64 if raw else 128
        assert f"  {size}x{size}: " in line
        expected_picture = draw(sample, task, classes_of(cfg), "RGB")
        loss = np.asarray(Image.open(file), dtype=float) - np.asarray(expected_picture)
        assert abs(loss).mean() < 4  # of JPEG


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_samples_equal_those_of_the_run(shapes, task):
    cfg = load_config(str(CONFIGS / f"{task}.yaml"), ["DATALOADER.NUM_WORKERS", 0])
    cfg.SOLVER.IMS_PER_BATCH = 3
    batches = islice(iter(build_train_loader(cfg, seed=cfg.SEED)), 2)
    trained = [sample for batch in batches for sample in batch]
    for ours, theirs in zip(samples(cfg, raw=False), trained, strict=False):
        assert ours["file_name"] == theirs["file_name"]
        assert torch.equal(ours["image"], theirs["image"])
        masks = [sample["instances"].gt_masks.tensor for sample in (ours, theirs)]
        assert torch.equal(*masks)


def test_raw_samples_equal_the_files(shapes):
    cfg = load_config(str(CONFIGS / "semantic.yaml"))
    records = {r["image_id"]: r for r in DatasetCatalog.get(cfg.DATASETS.TRAIN[0])}
    for sample in islice(samples(cfg, raw=True), 4):
        record = records[sample["image_id"]]
        pixels = np.array(Image.open(record["file_name"]))
        labels = np.array(Image.open(record["sem_seg_file_name"]))
        assert (sample["image"].permute(1, 2, 0).numpy() == pixels).all()
        assert (sample["sem_seg"].numpy() == labels).all()


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
@pytest.mark.parametrize("targets", ["instance", "panoptic", "semantic"])
def test_pixels_without_target_and_padding_are_visible(targets, image_format):
    """A large image, which is not enlarged: a target at the left, nothing, padding at the right."""
    image = np.full((600, 600, 3), (200, 120, 90), dtype=np.uint8)
    masks = np.zeros((1, 600, 600), dtype=bool)
    masks[0, :, :250] = True
    instances = Instances((600, 600))
    instances.gt_masks = PackedMasks.from_masks(masks, (600, 600))
    instances.gt_classes = torch.tensor([1])
    padding = torch.zeros(600, 600, dtype=torch.bool)
    padding[:, 500:] = True
    stored = image if image_format == "RGB" else image[..., ::-1].copy()
    sample = {
        "image": torch.from_numpy(stored).permute(2, 0, 1),
        "padding_mask": padding,
        "instances": instances,
    }
    classes = Classes(["a", "b"], range(2), frozenset({0}))
    picture = np.asarray(draw(sample, targets, classes, image_format)).astype(int)
    assert picture.shape == image.shape
    background, dark = picture[:, 262:488], picture[:, 512:]
    assert (dark == image[:, 512:] // 3).all()
    assert abs(picture[:, :240] - image[:, :240]).mean() > 5
    plain = (background == image[:, 262:488]).all(-1)
    if targets == "instance":
        assert plain.all()
    else:
        light, black = (background == 235).all(-1), (background == 20).all(-1)
        assert (plain | light | black).all()
        assert 0.5 < plain.mean() < 0.9 and light.mean() > 0.08 and black.mean() > 0.08


@pytest.mark.parametrize("task", ["instance", "panoptic"])
def test_crowds_are_seen(shapes, tmp_path, task):
    """The first object of each image becomes a crowd: no target, but in the picture."""
    cfg = load_config(str(CONFIGS / f"{task}.yaml"))
    name = cfg.DATASETS.TRAIN[0]
    records = DatasetCatalog.get(name)
    key = {"instance": "annotations", "panoptic": "segments_info"}[task]
    crowded = [
        {**r, key: [{**item, "iscrowd": int(i == 0)} for i, item in enumerate(r[key])]}
        for r in records
    ]
    DatasetCatalog.register("crowded", lambda: crowded)
    metadata = {k: v for k, v in MetadataCatalog.get(name).as_dict().items() if k != "name"}
    MetadataCatalog.get("crowded").set(**metadata)
    try:
        plain = list(islice(samples(cfg, raw=False), 6))
        cfg.DATASETS.TRAIN = ("crowded",)
        marked = list(islice(samples(cfg, raw=False), 6))
    finally:
        DatasetCatalog.remove("crowded")
        MetadataCatalog.remove("crowded")
    seen = 0
    for before, after in zip(plain, marked, strict=True):
        assert torch.equal(before["image"], after["image"])
        # Objects and crowds together are what were objects before.
        parts = after["crowds"], after["instances"]
        together = torch.cat([p.gt_masks.tensor for p in parts])
        assert torch.equal(together.any(0), before["instances"].gt_masks.tensor.any(0))
        assert sum(map(len, parts)) == len(before["instances"]) and len(parts[0]) <= 1
        if not len(parts[0]):  # outside the crop
            continue
        classes = classes_of(load_config(str(CONFIGS / f"{task}.yaml")))
        assert "; 1 crowd; " in summary(after, task, classes)
        hidden = {**after, "crowds": parts[0][:0]}
        pictures = [np.asarray(draw(s, task, classes, "RGB")).astype(int) for s in (after, hidden)]
        height, width = (min(p.shape[axis] for p in pictures) for axis in (0, 1))
        a, b = (p[:height, :width] for p in pictures)
        mask = parts[0].gt_masks.tensor[0].numpy().repeat(4, 0).repeat(4, 1)
        assert (np.abs(a - b).sum(-1)[mask] > 10).mean() > 0.3
        seen += 1
    assert seen >= 3


def test_crowds_without_a_segmentation_are_their_boxes_or_nowhere(shapes):
    cfg = load_config(str(CONFIGS / "instance.yaml"), ["MODEL.MASK_FORMER.IGNORE_REGIONS", True])
    record = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])[0]
    first, *others = record["annotations"]
    place = {k: v for k, v in first.items() if k != "segmentation"} | {"iscrowd": 1}
    nowhere = {k: v for k, v in place.items() if k != "bbox"}
    mapper = SegmentationMapper(augmentations=[], image_format="RGB", ignore_regions=True)
    dataset = SeededMapDataset([{**record, "annotations": [place, nowhere, *others]}], mapper)
    sample = next(sample_stream(dataset, 0))
    (mask,) = sample["crowds"].gt_masks
    w, h = first["bbox"][2:]
    assert mask.sum().item() == pytest.approx(w * h, abs=w + h + 2)
    objects = sample["instances"].gt_masks.union()
    assert torch.equal(sample["ignored_mask"], mask & ~objects)


def test_hatching_stays_inside():
    rng = np.random.default_rng(0)
    image = rng.integers(40, 200, (90, 70, 3), dtype=np.uint8)
    before, mask = image.copy(), rng.random((90, 70)) < 0.5
    hatch(image, mask)
    assert (image[~mask] == before[~mask]).all() and (image[mask] != before[mask]).any()


def test_names_and_colors_come_from_the_data_set(shapes):
    classes = classes_of(load_config(str(CONFIGS / "panoptic.yaml")))
    assert list(classes.names) == NAMES and set(classes.things) == {0, 1, 2, 3, 4}
    other = load_config(str(CONFIGS / "panoptic.yaml"), ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3])
    unnamed = classes_of(other)
    assert unnamed.names == ("class 0", "class 1", "class 2") and unnamed.colors is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num", "0"], "--num 0"),
        (["DATASETS.TRAIN", "()"], "DATASETS.TRAIN is empty"),
        (["DATASETS.TRAIN", "('synthetic_shapes_panoptc_train',)"], "not registered. Did you mean"),
        (["INPUT.FORMAT", "L"], "INPUT.FORMAT must be RGB or BGR"),
        (["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "5"], "but MODEL.SEM_SEG_HEAD.NUM_CLASSES is 5"),
        (["--train-images", "nowhere"], "needs annotations too"),
    ],
)
def test_errors_name_the_mistake(shapes, tmp_path, capsys, arguments, message):
    output = tmp_path / "pictures"
    with pytest.raises(SystemExit) as exit_:
        main(["--config-file", str(CONFIGS / "panoptic.yaml"), "--output", str(output), *arguments])
    assert exit_.value.code == (1 if "NUM_CLASSES" in message else 2)
    assert message in capsys.readouterr().err
    assert not output.exists()
