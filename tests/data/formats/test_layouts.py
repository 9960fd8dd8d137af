"""The layouts of each format that programs write, and what is said where several fit."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from format_sets import (
    NAMES,
    SIZE,
    disk,
    lowest_iou,
    polygon,
    read_objects,
    splits_of,
)
from PIL import Image, ImageDraw

from mask2former.data import DatasetError
from mask2former.data.formats.color_tables import read_table
from mask2former.data.formats.voc import VOC_NAMES, voc_color
from mask2former.data.own_data import register_own_data
from mask2former.data.own_folder import recognise_folder


def truth(sound, split="train"):
    found = read_objects(splits_of(sound / "coco")[split])
    return {stem: [o for o in objects if not o[1]] for stem, objects in found.items()}


def things(data):
    return {s: [o for o in objects if not o[1]] for s, objects in read_objects(data).items()}


# --- YOLO ---


def reordered(folder):
    """images/train becomes train/images."""
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / split).mkdir(exist_ok=True)
            (folder / kind / split).rename(folder / split / kind)
    shutil.rmtree(folder / "images")
    shutil.rmtree(folder / "labels")


def config(folder, text):
    names = json.dumps(NAMES)
    (folder / "data.yaml").write_text(f"{text}\nnames: {names}\nnc: {len(NAMES)}\n")


def lists(folder):
    for split in ("train", "val"):
        names = sorted(os.listdir(folder / "images" / split))
        lines = "".join(f"./images/{split}/{name}\n" for name in names)
        (folder / f"{split}.txt").write_text(lines)
    config(folder, "train: train.txt\nval: [val.txt]")


def beside(folder):
    """Text files beside the images."""
    for split in ("train", "val"):
        shutil.copytree(folder / "images" / split, folder / split)
        shutil.copytree(folder / "labels" / split, folder / split, dirs_exist_ok=True)
    shutil.rmtree(folder / "images")
    shutil.rmtree(folder / "labels")
    config(folder, "train: train\nval: val")


def roboflow(folder):
    reordered(folder)
    (folder / "val").rename(folder / "valid")
    config(folder, "train: ../train/images\nval: ../valid/images\ntest: ../test/images")


def without_config(folder):
    (folder / "data.yaml").unlink()
    (folder / "classes.txt").write_text("\n".join(NAMES))
    (folder / "notes.json").write_text("{}")


def from_elsewhere(folder):
    config(folder, "path: /nowhere/datasets/x\ntrain: images/train\nval: images/val")


@pytest.mark.parametrize(
    "change",
    [
        reordered,
        lists,
        beside,
        roboflow,
        without_config,
        from_elsewhere,
        lambda f: (reordered(f), without_config(f)),
        lambda f: (reordered(f), config(f, "train: train\nval: val")),
    ],
)
def test_yolo(sound, copied, change):
    folder = copied("yolo")
    if change is not without_config:
        (folder / "labels/train/train_1.txt").unlink()  # no objects, as an empty file says
    if change is reordered:
        config(folder, "train: train/images\nval: val/images")
    change(folder)
    found = recognise_folder(folder)
    assert found.has_splits
    for split, data in splits_of(folder).items():
        assert lowest_iou(truth(sound, split), read_objects(data)) >= 0.99
    registered = register_own_data(found.train, found.val)
    assert list(registered.classes.names) == NAMES


def test_label_studio_yolo(sound, copied):
    """Without splits, and names of classes as the only description."""
    folder = copied("yolo")
    for kind in ("images", "labels"):
        for name in os.listdir(folder / kind / "train"):
            (folder / kind / "train" / name).rename(folder / kind / name)
        shutil.rmtree(folder / kind / "train")
        shutil.rmtree(folder / kind / "val")
    without_config(folder)
    data = splits_of(folder)
    assert data.keys() == {"all"}
    assert lowest_iou(truth(sound), read_objects(data["all"])) >= 0.99
    (folder / "classes.txt").unlink()
    with pytest.raises(DatasetError, match="YOLO labels without names of classes"):
        recognise_folder(folder)


def test_lines_listed_twice_are_one_object(copied):
    folder = copied("yolo")
    file = folder / "labels/train/train_0.txt"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, "", lines[0]]))
    report = splits_of(folder)["train"].check(evaluated=True, pixels=True, classes=None)
    assert not report.num_errors and len(report.warnings) == 1
    assert "labels/train/train_0.txt, line 5: as in line 1" in str(report)


# --- LabelMe ---


def test_shapes_of_labelme(tmp_path):
    """Without splits; rectangle, circle, group and mask, against Pillow's drawing."""
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / "a.jpg")
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / "b.jpg")
    square = [[60, 40], [70, 40], [70, 50], [60, 50]]
    shapes = [
        {"label": "box", "shape_type": "rectangle", "points": [[30, 20], [10, 5]]},
        {"label": "disk", "shape_type": "circle", "points": [[60, 20], [60, 30]]},
        {"label": "pair", "points": square, "group_id": 3},
        {"label": "pair", "points": [[x - 40, y] for x, y in square], "group_id": 3},
        {"label": "box", "points": [[x - 20, y] for x, y in square], "group_id": 3},
        {"label": "way", "shape_type": "linestrip", "points": [[1, 1], [5, 5]]},
    ]
    # imagePath of another computer
    content = {"shapes": shapes, "imagePath": "C:\\photos\\a.jpg", "imageData": None}
    (tmp_path / "a.json").write_text(json.dumps(content))
    data = splits_of(tmp_path)["all"]
    report = data.check(evaluated=True, pixels=True, classes=None)
    assert not report.num_errors
    assert "a.json, shape 5: it is a linestrip" in str(report)
    assert report.num_empty_images == 1

    def drawn(*calls):
        picture = Image.new("1", SIZE[::-1])
        for kind, *arguments in calls:
            getattr(ImageDraw.Draw(picture), kind)(*arguments, fill=1)
        return np.array(picture)

    expected = {
        "a": [
            ("box", 0, drawn(("rectangle", (10, 5, 29, 19)))),
            ("disk", 0, disk(19.5, 59.5, 10)),
            ("pair", 0, drawn(("rectangle", (60, 40, 69, 49)), ("rectangle", (20, 40, 29, 49)))),
            ("box", 0, drawn(("rectangle", (40, 40, 49, 49)))),
        ],
        "b": [],
    }
    content = json.loads(Path(data.json_file).read_text())
    assert [c["name"] for c in content["categories"]] == ["box", "disk", "pair", "way"]
    report.problems.clear()
    (tmp_path / "a.json").write_text(
        json.dumps({"shapes": shapes[:5], "imagePath": "a.jpg", "imageData": None})
    )
    assert lowest_iou(expected, read_objects(splits_of(tmp_path)["all"])) > 0.97


def test_labelme_in_folders_of_their_own(sound, copied):
    folder = copied("labelme")
    for split in ("train", "val"):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        for path in (folder / split).iterdir():
            place = "labels" if path.suffix == ".json" else "images"
            path.rename(folder / place / split / path.name)
    (folder / "labels.txt").unlink()  # then classes are in the order of their names
    data = splits_of(folder)
    for split in data:
        assert lowest_iou(truth(sound, split), things(data[split])) >= 0.99
    report = data["val"].check(evaluated=True, pixels=True, classes=None)
    assert list(report.classes.names) == sorted(NAMES)


# --- Pascal VOC ---


def test_voc_of_the_challenge(sound, copied, tmp_path):
    """Its own classes, palette files, void outlines, and images without maps."""
    folder = copied("voc")
    (folder / "labelmap.txt").unlink()
    root = tmp_path / "download/VOCdevkit/VOC2012"
    root.parent.mkdir(parents=True)
    folder.rename(root)
    shutil.copy(root / "JPEGImages/train_0.png", root / "JPEGImages/unlabelled.png")
    found = recognise_folder(tmp_path / "download")
    assert found.task == "instance" and found.others == ("semantic",)
    registered = register_own_data(found.train, found.val)
    assert registered.classes.names == VOC_NAMES[1:]
    assert len(registered.images) == 4
    semantic = recognise_folder(tmp_path / "download", "semantic")
    registered = register_own_data(semantic.train, semantic.val)
    assert registered.classes.names == VOC_NAMES and registered.num_val == 2
    masks = [o[2] for o in read_objects(found.train)["train_0"]]
    expected = [o[2] for o in truth(sound)["train_0"]]
    assert sorted(m.sum() for m in masks) == sorted(m.sum() for m in expected)


def test_pixels_without_an_object_are_void(copied):
    folder = copied("voc")
    path = folder / "SegmentationClass/train_0.png"
    numbers = np.array(Image.open(path))
    numbers[:3, :4] = 1
    Image.fromarray(numbers).save(path)
    data = splits_of(folder)["train"]
    report = data.check(evaluated=True, pixels=True, classes=None)
    assert not report.num_errors
    assert "SegmentationClass/train_0.png: 12 pixels, such as x 0, y 0" in str(report)
    content = json.loads(Path(data.json_file).read_text())
    of_image = [a for a in content["annotations"] if a["image_id"] == 1]
    assert [a["area"] for a in of_image if a["iscrowd"]] == [12, 12, 12]


def test_palette_of_voc():
    """The first colours of the development kit."""
    assert [voc_color(i) for i in (0, 1, 2, 3, 4, 15, 20)] == [
        (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (192, 128, 128),
        (0, 64, 128),
    ]  # fmt: skip


def test_voc_of_cvat(sound, copied):
    """RGB maps, colours of its own, and default.txt for everything."""
    folder = copied("voc")
    lists = folder / "ImageSets/Segmentation"
    names = (lists / "train.txt").read_text() + (lists / "val.txt").read_text()
    shutil.rmtree(lists)
    lists.mkdir()
    (lists / "default.txt").write_text(names)
    colors = [(0, 0, 0), (250, 50, 83), (52, 209, 183), (61, 61, 245)]
    own = dict(zip(["background", *NAMES], colors, strict=True))
    lines = [f"{n}:{r},{g},{b}::" for n, (r, g, b) in own.items()]
    (folder / "labelmap.txt").write_text("\n".join(["# label:color_rgb:parts:actions", *lines]))
    for place in ("SegmentationClass", "SegmentationObject"):
        for path in (folder / place).iterdir():
            numbers = np.array(Image.open(path))
            if place == "SegmentationClass":
                table = np.array([*own.values(), *[(224, 224, 192)] * 252], dtype=np.uint8)
                Image.fromarray(table[numbers]).save(path)
            else:
                Image.open(path).convert("RGB").save(path)
    data = splits_of(folder)
    assert data.keys() == {"all"}
    both = {**truth(sound), **truth(sound, "val")}
    found = things(data["all"])
    assert lowest_iou(both, found) >= 0.99


# --- Mask files ---


def test_data_science_bowl(tmp_path):
    ids = ["0a7d30b2", "00ae65c1"]
    expected = {}
    for number, name in enumerate(ids):
        folder = tmp_path / "stage1_train" / name
        (folder / "images").mkdir(parents=True)
        (folder / "masks").mkdir()
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(folder / f"images/{name}.png")
        expected[name] = []
        for i in range(number + 2):
            mask = disk(20 + 20 * (i % 2), 15 + 20 * i, 7)
            Image.fromarray((mask * 255).astype(np.uint8)).save(
                folder / f"masks/{i}f00{i:016x}.png"
            )
            expected[name].append(("object", 0, mask))
    data = splits_of(tmp_path / "stage1_train")
    assert data.keys() == {"all"}
    assert lowest_iou(expected, read_objects(data["all"])) == 1


def test_masks_without_names_of_classes(sound, copied):
    folder = copied("masks")
    (folder / "classes.txt").unlink()
    assert lowest_iou(truth(sound), read_objects(splits_of(folder)["train"])) >= 0.99


# --- Colours ---


def test_colors_found_by_themselves(copied):
    folder = copied("color-maps")
    (folder / "labelmap.txt").unlink()
    for path in (folder / "labels").rglob("*.png"):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    data = splits_of(folder)
    registered = register_own_data(data["train"], data["val"])
    names = ["background", "#008000", "#800000", "#808000", "#e0e0c0"]
    assert list(registered.classes.names) == names


def test_colors_have_no_label_to_ignore(sound):
    with pytest.raises(DatasetError, match="--ignore-label is for label maps of numbers"):
        recognise_folder(sound / "color-maps", ignore_label=3)


def test_too_many_colors(copied):
    """JPEG changes colours at borders."""
    folder = copied("color-maps")
    (folder / "labelmap.txt").unlink()
    noise = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "labels/train/train_0.png")
    with pytest.raises(DatasetError, match=r"train_0\.png: the label maps up to this one have"):
        recognise_folder(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labelmap.txt", "# label:color_rgb:parts:actions\nsky:1,2,3::\nroad:4,5,6::\n"),
        ("class_dict.csv", "name,r,g,b\nsky,1,2,3\nroad,4,5,6\n"),
        ("class_dict.csv", "sky, 1, 2, 3\nroad, 4, 5, 6\n"),
        ("label_colors.txt", "1 2 3\tsky\n4 5 6\troad\n"),
        ("colors.json", '{"sky": [1, 2, 3], "road": [4, 5, 6]}'),
        (
            "classes.json",
            '[{"name": "sky", "color": [1, 2, 3]}, {"name": "road", "color": [4, 5, 6]}]',
        ),
    ],
)  # fmt: skip
def test_tables_of_colors(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    table = read_table(tmp_path / name)
    assert table.names == ("sky", "road") and table.colors == ((1, 2, 3), (4, 5, 6))
    codes = np.array([[0x010203, 0x040506, 0]])
    assert table.look_up(codes).tolist() == [[0, 1, -2]]


# --- COCO of annotation tools ---


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"images/{name}",
        lambda name: f"images\\{name}",
        lambda name: f"images\\1/{name}",
        lambda name: f"..\\..\\label-studio\\media\\upload\\4\\{name}",
    ],
)
def test_label_studio_coco(sound, tmp_path, rename):
    shutil.copytree(sound / "coco/train", tmp_path / "images")
    content = json.loads((sound / "coco/annotations/instances_train.json").read_text())
    for image in content["images"]:
        image["file_name"] = rename(image["file_name"])
    (tmp_path / "result.json").write_text(json.dumps(content))
    data = splits_of(tmp_path)["all"]
    assert data.check(evaluated=True, pixels=True, classes=None).num_errors == 0
    registered = register_own_data(data, None)
    assert len(registered.images) == 4
    content["annotations"][0]["category_id"] = 77
    (tmp_path / "result.json").write_text(json.dumps(content))
    report = splits_of(tmp_path)["all"].check(evaluated=True, pixels=True, classes=None)
    assert "annotation id 1" in str(report)  # as in the file


def test_cvat_coco(sound, tmp_path):
    for split, subset in (("train", "Train"), ("val", "Validation")):
        shutil.copytree(sound / "coco" / split, tmp_path / "images" / subset)
        (tmp_path / "annotations").mkdir(exist_ok=True)
        file = sound / f"coco/annotations/instances_{split}.json"
        shutil.copy(file, tmp_path / f"annotations/instances_{subset}.json")
    data = splits_of(tmp_path)
    assert data.keys() == {"train", "val"}
    register_own_data(data["train"], data["val"])


# --- Several formats ---


def test_several_formats_in_a_folder(sound, copied):
    folder = copied("yolo")
    shutil.copytree(sound / "coco/annotations", folder / "annotations")
    with pytest.raises(DatasetError, match=r"in several formats: coco, yolo\. Choose one"):
        recognise_folder(folder)
    assert recognise_folder(folder, format="yolo").files == "YOLO segmentation"
    found = recognise_folder(folder, format="coco")
    assert found.train.json_file.endswith("instances_train.json")
    with pytest.raises(DatasetError, match="no annotations of the format 'voc'"):
        recognise_folder(folder, format="voc")


def test_label_maps_of_numbers_stay_what_they_are(sound):
    found = recognise_folder(sound / "label-maps")
    assert found.train.label_root == str(sound / "label-maps/labels/train")
    assert recognise_folder(sound / "masks").others == ()


def test_polygons_stay_polygons(sound):
    """What is not rasterised cannot change."""
    data = splits_of(sound / "yolo")["train"]
    data.check(evaluated=True, pixels=True, classes=None)
    content = json.loads(Path(data.json_file).read_text())
    first = content["annotations"][0]["segmentation"][0]
    assert np.allclose(first, polygon(15, 55, 10), atol=1e-6)
