"""Recognising a user's folder: each layout, and what is said where nothing or too much fits."""

import json
import shutil

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from mask2former.data import DatasetError
from mask2former.data.own_data import InstanceData, PanopticData, SemanticData, register_own_data
from mask2former.data.own_folder import png_folder, recognise_folder

CLASSES = ["disk", "ring", "rectangle", "triangle", "star", "paper", "gravel"]


def copy(shapes, folder, files):
    """Copy parts of the synthetic data set to new places."""
    for source, target in files.items():
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        if (shapes / source).is_dir():
            shutil.copytree(shapes / source, folder / target, dirs_exist_ok=True)
        else:
            shutil.copy(shapes / source, folder / target)
    return folder


def instances(json_file, images):
    return InstanceData(str(json_file), str(images))


def test_images_in_which_nothing_is_annotated(shapes, tmp_path):
    copy(shapes, tmp_path, {"annotations/instances_train.json": "train.json", "train": "train"})
    content = json.loads((tmp_path / "train.json").read_text())
    (tmp_path / "train.json").write_text(json.dumps({**content, "annotations": []}))
    found = recognise_folder(tmp_path)
    assert found.train == instances(tmp_path / "train.json", tmp_path / "train")


@pytest.mark.parametrize("second", ["val", "valid", "test"])
def test_a_folder_that_roboflow_exports(shapes, tmp_path, second):
    files = {"train": "train", "val": second}
    for split, place in files.items():
        copy(
            shapes,
            tmp_path,
            {f"annotations/instances_{split}.json": f"{place}/_annotations.coco.json"},
        )
    found = recognise_folder(copy(shapes, tmp_path, files))
    assert found.task == "instance" and found.has_splits and not found.others
    for data, place in ((found.train, "train"), (found.val, second)):
        folder = tmp_path / place
        assert data == instances(folder / "_annotations.coco.json", folder)
    assert "train: train/_annotations.coco.json, train" in found.summary()
    registered = register_own_data(found.train, found.val)
    assert len(DatasetCatalog.get(registered.train)) == 12
    assert len(DatasetCatalog.get(registered.val)) == 4


@pytest.mark.parametrize(
    ("names", "images"),
    [
        (("train2017", "val2017"), ("images/train2017", "images/val2017")),
        (("train", "val"), ("images", "images")),
        (("training", "validation"), ("training", "validation")),
    ],
)
def test_json_files_beside_folders_of_images(shapes, tmp_path, names, images):
    for split, name, folder in zip(("train", "val"), names, images, strict=True):
        json_file = f"annotations/instances_{name}.json"
        files = {f"annotations/instances_{split}.json": json_file, split: folder}
        copy(shapes, tmp_path, files)
    # COCO has files of other annotations too
    (tmp_path / f"annotations/captions_{names[0]}.json").write_text("{}")
    found = recognise_folder(tmp_path)
    json_files = [tmp_path / f"annotations/instances_{name}.json" for name in names]
    assert found.train == instances(json_files[0], tmp_path / images[0])
    assert found.val == instances(json_files[1], tmp_path / images[1])


def test_a_folder_with_everything(shapes):
    """The synthetic data set has annotations for all tasks."""
    found = recognise_folder(shapes)
    assert (found.task, found.others) == ("panoptic", ("instance", "semantic"))
    assert found.val == PanopticData(
        str(shapes / "annotations/panoptic_val.json"),
        str(shapes / "val"),
        str(shapes / "panoptic_val"),
    )
    assert "also found: instance, semantic; choose with --task" in found.summary()
    found = recognise_folder(shapes, "instance")
    json_file = shapes / "annotations/instances_train.json"
    assert found.train == instances(json_file, shapes / "train")
    found = recognise_folder(str(shapes), "semantic")
    assert found.train == SemanticData(str(shapes / "train"), str(shapes / "semantic_train"))


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images/{}", "labels/{}"),
        ("{}/images", "{}/masks"),
        ("{}", "{}_labels"),
        ("images/{}", "annotations/{}"),
    ],
)
def test_label_maps(shapes, tmp_path, images, labels):
    for split, name in (("train", "training"), ("val", "validation")):
        files = {split: images.format(name), f"semantic_{split}": labels.format(name)}
        copy(shapes, tmp_path, files)
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    found = recognise_folder(tmp_path)
    assert found.task == "semantic" and found.has_splits
    for data, name in ((found.train, "training"), (found.val, "validation")):
        folders = (str(tmp_path / part.format(name)) for part in (images, labels))
        assert data == SemanticData(*folders, str(tmp_path / "classes.txt"))
    registered = register_own_data(found.train, found.val)
    assert MetadataCatalog.get(registered.train).stuff_classes == CLASSES


def test_data_without_splits(shapes, tmp_path):
    files = {"annotations/instances_train.json": "result.json", "train": "images"}
    found = recognise_folder(copy(shapes, tmp_path, files))
    assert not found.has_splits and found.val is None
    assert found.train == instances(tmp_path / "result.json", tmp_path / "images")
    assert "all: result.json, images" in found.summary()
    registered = register_own_data(found.train, None)
    assert registered.val is None
    assert len(DatasetCatalog.get(registered.train)) == 12


def message(folder, task=None):
    with pytest.raises(DatasetError) as caught:
        recognise_folder(folder, task)
    return str(caught.value)


def test_folders_in_which_nothing_is_recognised(shapes, tmp_path):
    assert "there is no such folder" in message(tmp_path / "missing")
    assert message(tmp_path).endswith("The folder holds nothing")
    (tmp_path / "notes.txt").write_text("0 0.5 0.5 0.1 0.1")
    assert message(tmp_path).endswith("The folder holds notes.txt")
    files = {"annotations/instances_train.json": "train.json", "train": "train"}
    copy(shapes, tmp_path, files)
    expected = "no annotations for semantic segmentation (label maps), only for instance"
    assert expected in message(tmp_path, "semantic")


def test_several_files_for_one_split_are_ambiguous(shapes, tmp_path):
    files = {"annotations/instances_train.json": "annotations/instances_train2014.json"}
    copy(shapes, tmp_path, files)
    files = {"annotations/instances_train.json": "annotations/instances_train2017.json"}
    copy(shapes, tmp_path, files)
    text = message(tmp_path)
    assert "several files annotate 'train'" in text
    assert "instances_train2014.json" in text and "instances_train2017.json" in text


def test_panoptic_annotations_without_their_png_files(shapes, tmp_path):
    files = {"annotations/panoptic_train.json": "annotations/panoptic_train.json"}
    copy(shapes, tmp_path, files)
    assert "panoptic_train, is missing" in message(tmp_path)
    json_file = tmp_path / "annotations/panoptic_train.json"
    assert png_folder(json_file) is None
    (tmp_path / "panoptic_train").mkdir()
    assert png_folder(json_file) == str(tmp_path / "panoptic_train")
    assert json.loads(json_file.read_text())["images"]
