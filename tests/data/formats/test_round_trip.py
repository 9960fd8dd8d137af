"""Every format, written and read back, against pycocotools and supervision."""

import itertools
import json
import resource
from pathlib import Path

import numpy as np
import pytest
from format_sets import (
    NAMES,
    convert,
    lowest_iou,
    read_objects,
    splits_of,
    visible,
    write_coco,
)
from PIL import Image

from mask2former.data import DatasetError
from mask2former.data.formats.convert import convert_data
from mask2former.data.own_data import register_own_data
from mask2former.data.own_folder import recognise_folder
from mask2former.formats import FORMATS

OF_OBJECTS = ["coco", "yolo", "labelme", "voc", "masks"]
WITHOUT_OVERLAPS = ("voc", "coco-panoptic")
WITHOUT_CROWDS = ("yolo", "masks")
FILES = {
    "yolo": "data.yaml",
    "labelme": "train/train_0.json",
    "voc": "SegmentationObject/train_0.png",
    "masks": "masks/train/train_0/cup_001.png",
    "coco": "annotations/instances_train.json",
}


def things(found):
    return {stem: [o for o in objects if not o[1]] for stem, objects in found.items()}


def truth_of(folder, split, to):
    found = read_objects(splits_of(folder, "instance")[split])
    if to in WITHOUT_OVERLAPS:
        found = {stem: visible(objects) for stem, objects in found.items()}
    return things(found) if to in WITHOUT_CROWDS else found


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("small") / "data")


@pytest.mark.parametrize("to", OF_OBJECTS)
def test_small_set(small, to, tmp_path):
    """Holes, parts, an empty image, names of several words; crowds where the format has them."""
    lost = convert(small, tmp_path / "new", to, "instance")
    assert lost == (["left out: 1 crowd region"] if to in WITHOUT_CROWDS else [])
    assert (tmp_path / "new" / FILES[to]).is_file()
    found = recognise_folder(tmp_path / "new", "instance")
    assert found.has_splits and found.task == "instance"
    for split, data in splits_of(tmp_path / "new", "instance").items():
        if to == "labelme" and split == "train":
            continue  # see below
        assert lowest_iou(truth_of(small, split, to), crowds_once(read_objects(data), to)) >= 0.99
        report = data.check(evaluated=True, pixels=True, classes=None)
        assert list(report.classes.names) == NAMES


def crowds_once(found, to):
    """A void region is a crowd region of each class; the small set has one for class 0 only."""
    if to not in ("voc", "labelme"):
        return found
    return {s: [o for o in objs if not o[1] or o[0] == NAMES[0]] for s, objs in found.items()}


def test_ignored_regions_of_labelme(small, tmp_path):
    convert(small, tmp_path / "new", "labelme")
    found = read_objects(splits_of(tmp_path / "new")["train"])
    assert lowest_iou(truth_of(small, "train", "labelme"), crowds_once(found, "labelme")) >= 0.99
    crowds = [o for o in found["train_2"] if o[1]]
    assert [o[0] for o in crowds] == NAMES  # of each class that the image shows
    shapes = json.loads((tmp_path / "new/train/train_2.json").read_text())["shapes"]
    assert [s["label"] for s in shapes].count("__ignore__") == 1


@pytest.mark.parametrize("to", OF_OBJECTS)
def test_food(shared, to, tmp_path):
    food = shared / "data/food"
    assert convert(food, tmp_path / "new", to, "instance") == []
    counts = {}
    for split, data in splits_of(tmp_path / "new", "instance").items():
        found = read_objects(data)
        assert lowest_iou(truth_of(food, split, to), found) >= 0.99
        counts[split] = sum(map(len, found.values()))
    assert counts == {"train": 468, "val": 290}


@pytest.mark.parametrize("to", ["yolo", "labelme", "masks"])
def test_real_coco(shared, to, tmp_path):
    """Objects of several parts, crowd regions and 80 classes; not a pixel changes."""
    coco = shared / "data/coco_permissive"
    (tmp_path / "coco/annotations").mkdir(parents=True)
    (tmp_path / "coco/train").symlink_to(coco / "val2017")
    file = tmp_path / "coco/annotations/instances_train.json"
    file.symlink_to(coco / "annotations/instances_val2017.json")
    convert(tmp_path / "coco", tmp_path / "new", to)
    truth, found = (
        things(read_objects(splits_of(folder)["train"], warnings=True))
        for folder in (tmp_path / "coco", tmp_path / "new")
    )
    assert sum(map(len, found.values())) > 500
    assert lowest_iou(truth, found) == 1


@pytest.mark.parametrize("first", OF_OBJECTS)
def test_from_each_to_each(small, first, tmp_path):
    convert(small, tmp_path / "first", first, "instance")
    truth = things(read_objects(splits_of(small, "instance")["val"]))
    for to in OF_OBJECTS:
        convert(tmp_path / "first", tmp_path / to, to, "instance")
        data = splits_of(tmp_path / to, "instance")["val"]
        assert lowest_iou(truth, things(read_objects(data))) >= 0.99


@pytest.mark.parametrize("to", ["label-maps", "color-maps", "coco-panoptic"])
def test_maps(small, to, tmp_path):
    """The pixels of each class, and back to objects where they are apart."""
    convert(small, tmp_path / "new", to, "instance")
    task = "panoptic" if to == "coco-panoptic" else "semantic"
    data = splits_of(tmp_path / "new", task)
    registered = register_own_data(data["train"], data["val"])
    names = list(registered.classes.names)
    assert names == (NAMES if task == "panoptic" else ["background", *NAMES])
    convert(tmp_path / "new", tmp_path / "objects", "coco", task)
    truth = read_objects(splits_of(small, "instance")["val"])
    found = things(read_objects(splits_of(tmp_path / "objects")["val"]))
    if task == "panoptic":
        assert lowest_iou(truth, found) >= 0.99
    for stem, objects in truth.items():
        for name in NAMES:
            a, b = (
                np.any([o[2] for o in found if o[0] == name] or [np.zeros((60, 80))], axis=0)
                for found in (objects, found[stem])
            )
            assert (a != b).sum() == 0


def test_maps_from_voc_and_panoptic(small, tmp_path):
    """Class maps of VOC, label maps and colours show the same pixels."""
    convert(small, tmp_path / "voc", "voc", "instance")
    convert(small, tmp_path / "panoptic", "coco-panoptic", "instance")
    convert(tmp_path / "voc", tmp_path / "a", "label-maps", "semantic")
    convert(tmp_path / "voc", tmp_path / "b", "color-maps", "semantic")
    convert(tmp_path / "b", tmp_path / "c", "label-maps")
    convert(small, tmp_path / "d", "label-maps", "instance")
    paths = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a/labels").rglob("*.png"))
    assert len(paths) == 6
    for path in paths:
        a, c, d = (np.array(Image.open(tmp_path / folder / path)) for folder in "acd")
        assert np.array_equal(a, c) and np.array_equal(a, d)
    convert(tmp_path / "panoptic", tmp_path / "e", "label-maps", "panoptic")
    e = np.array(Image.open(tmp_path / "e" / paths[0])).astype(int)
    d = np.array(Image.open(tmp_path / "d" / paths[0])).astype(int)
    assert np.array_equal(np.where(e == 255, 0, e + 1), d)  # no segment is no class


def test_supervision_reads_what_is_written(small, tmp_path):
    sv = pytest.importorskip("supervision")
    convert(small, tmp_path / "new", "yolo")
    data = sv.DetectionDataset.from_yolo(
        images_directory_path=str(tmp_path / "new/images/train"),
        annotations_directory_path=str(tmp_path / "new/labels/train"),
        data_yaml_path=str(tmp_path / "new/data.yaml"),
        force_masks=True,
    )
    truth = things(read_objects(splits_of(small)["train"]))
    found = {}
    for path, _, detections in data:
        masks = detections.mask if len(detections) else []
        stem = path.rpartition("/")[2].removesuffix(".png")
        found[stem] = [
            (data.classes[label], 0, np.asarray(mask, dtype=bool))
            for label, mask in zip(detections.class_id, masks, strict=True)
        ]
    assert lowest_iou(truth, found) > 0.8  # OpenCV draws the outline too
    names = [o[0] for o in found["train_0"]]
    assert sorted(names) == sorted(NAMES)


def test_what_supervision_writes_is_read(shared, tmp_path):
    sv = pytest.importorskip("supervision")
    food = shared / "data/food"
    data = sv.DetectionDataset.from_coco(
        images_directory_path=str(food / "val"),
        annotations_path=str(food / "annotations/instances_val.json"),
        force_masks=True,
    )
    data.as_yolo(
        images_directory_path=str(tmp_path / "images"),
        annotations_directory_path=str(tmp_path / "labels"),
        data_yaml_path=str(tmp_path / "data.yaml"),
    )
    (tmp_path / "data.yaml").write_text((tmp_path / "data.yaml").read_text() + "train: images\n")
    found = read_objects(splits_of(tmp_path)["train"])
    assert lowest_iou(read_objects(splits_of(food, "instance")["val"]), found) > 0.9


def test_polygons_beyond_the_image(tmp_path):
    """YOLO's coordinates are 0 to 1."""
    folder = write_coco(tmp_path / "data", [("train", 8)])
    truth = things(read_objects(splits_of(folder)["train"]))
    for to in ("yolo", "labelme"):
        convert(folder, tmp_path / to, to)
        assert lowest_iou(truth, things(read_objects(splits_of(tmp_path / to)["train"]))) >= 0.99


@pytest.mark.parametrize("to", FORMATS)
def test_a_relative_folder(small, to, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    convert(small, Path("relative"), to, "instance")
    convert(small, tmp_path / "absolute", to, "instance")
    relative, absolute = (
        sorted(path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*"))
        for name in ("relative", "absolute")
    )
    assert relative == absolute


def test_nothing_is_overwritten(small, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new/precious.txt").write_text("x")
    with pytest.raises(DatasetError, match="exists already"):
        convert(small, tmp_path / "new", "yolo")


@pytest.fixture(params=["new folder", "empty folder"])
def unfinished(request, tmp_path):
    """An output folder; checks that a conversion that failed leaves nothing."""
    (tmp_path / "out").mkdir()
    folder = tmp_path / "out/new"
    if request.param == "empty folder":
        folder.mkdir()
    before = list((tmp_path / "out").rglob("*"))
    yield folder
    assert list((tmp_path / "out").rglob("*")) == before


@pytest.mark.parametrize("to", FORMATS)
def test_a_full_disk(small, to, unfinished):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    splits = splits_of(small, "instance")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # less than an image
    try:
        with pytest.raises(OSError, match="too large"):
            convert_data(splits, unfinished, to)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_interrupted(tmp_path, unfinished, monkeypatch):
    """Control-C while a mask is written."""
    source = write_coco(tmp_path / "data", [("train", 10)])
    save, calls = Image.Image.save, itertools.count(1)

    def save_or_interrupt(image, *arguments, **options):
        if next(calls) == 5:
            raise KeyboardInterrupt
        save(image, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", save_or_interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert(source, unfinished, "masks")


def test_two_images_of_one_name(small, tmp_path):
    folder = write_coco(tmp_path / "data", [("train", 3)])
    file = folder / "annotations/instances_train.json"
    content = json.loads(file.read_text())
    (folder / "train/train_0.png").rename(folder / "train/train_1.jpg")
    content["images"][0]["file_name"] = "train_1.jpg"
    file.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"train_1\.jpg and .*train_1\.png would both be"):
        convert(folder, tmp_path / "new", "yolo")
    assert not (tmp_path / "new").exists()
