"""Twenty ways to break each format: the report names the file, and the line or object."""

import base64
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from format_sets import splits_of
from PIL import Image

from mask2former.data import DatasetError
from mask2former.data.own_data import check_own_data


def report(folder, task=None):
    """What the check says of broken data: one message, without a traceback."""
    with pytest.raises(DatasetError) as caught:
        splits = splits_of(folder, task)
        check_own_data(splits.get("train") or splits.get("all"), splits.get("val"))
    text = str(caught.value)
    text.encode()  # can be printed
    assert all(line.isprintable() for line in text.splitlines())
    return text


def named(text, *words):
    """Whether one line of a report has all of these words."""
    return any(all(word in line for word in words) for line in text.splitlines())


# --- YOLO ---

LABELS = "labels/train/train_0.txt"
SOUND_LINE = "0 0.1 0.1 0.2 0.1 0.2 0.2"
LINES = {
    "cup 0.1 0.1 0.2 0.1 0.2 0.2": "'cup'",
    "-1 0.1 0.1 0.2 0.1 0.2 0.2": "'-1'",
    "3 0.1 0.1 0.2 0.1 0.2 0.2": "there is no class 3, only 0 to 2",
    "99999999999999999999 0.1 0.1 0.2 0.1 0.2 0.2": "the number of a class",
    "1.5 0.1 0.1 0.2 0.1 0.2 0.2": "'1.5'",
    "nan 0.1 0.1 0.2 0.1 0.2 0.2": "'nan'",
    "0": "a polygon of 0 numbers",
    "0 0.5 0.5 0.2 0.2": "a box",
    "0 0.1 0.1 0.2 0.1 0.2": "a polygon of 5 numbers",
    "0 0.1 0.1 0.2 0.1 0.2 0.2 0.9": "a polygon of 7 numbers",
    "0 0.1 0.1 x 0.1 0.2 0.2": "'x' is not a number",
    "0 0.1 0.1 0,2 0.1 0.2 0.2": "'0,2' is not a number",
    "0 0.1 0.1 nan 0.1 0.2 0.2": "the coordinate nan",
    "0 0.1 0.1 inf 0.1 0.2 0.2": "the coordinate inf",
    "0 0.1 0.1 1e30 0.1 0.2 0.2": "the coordinate 1e+30",
    "0 -0.2 0.1 0.2 0.1 0.2 0.2": "the coordinate -0.2",
    "0 10 10 40 10 40 40": "the coordinate 10; they are fractions",
    "0 0.1 0.1 0.1 0.1 0.1 0.1": "mask is empty|a line",
    "0 0.1 0.5 0.2 0.5 0.3 0.5": "a line",
    "0;0.1;0.1;0.2;0.1;0.2;0.2": "the number of a class",
}


@pytest.mark.parametrize("line", LINES)
def test_yolo_line(copied, line):
    folder = copied("yolo")
    file = folder / LABELS
    file.write_text(f"{SOUND_LINE}\n{line}\n")
    text = report(folder)
    assert named(text, f"{LABELS}, line 2", LINES[line].rpartition("|")[2])
    assert "line 1:" not in text and "1 error" in text


def test_all_yolo_lines_in_one_report(copied):
    folder = copied("yolo")
    (folder / LABELS).write_text("\n".join(LINES))
    (folder / "labels/val/val_0.txt").write_text("9 0.1 0.1 0.2 0.1 0.2 0.2")
    text = report(folder)
    assert f"{len(LINES) + 1} errors" in text
    assert named(text, "labels/val/val_0.txt, line 1", "there is no class 9")


def yaml_of(**changes):
    def change(folder):
        content = {"path": ".", "train": "images/train", "val": "images/val", "names": ["a", "b"]}
        content |= changes
        lines = [f"{key}: {json.dumps(value)}" for key, value in content.items() if value != ""]
        (folder / "data.yaml").write_text("\n".join(lines))

    return change


def write(name, content):
    def change(folder):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def remove(name):
    return lambda folder: (folder / name).unlink()


ALIASES = (
    "".join(  # nine levels of nine: 400 million texts
        f"l{level}: &l{level} [{', '.join([f'*l{level - 1}' if level else 'x'] * 9)}]\n"
        for level in range(9)
    )
    + "train: *l8\nnames: *l8\n"
)
YOLO_FILES = [
    (yaml_of(names=""), "data.yaml", "'names' must list"),
    (yaml_of(names="cup"), "data.yaml", "'names' must list"),
    (yaml_of(names=[]), "data.yaml", "0 classes"),
    (yaml_of(names=["a", "a"]), "data.yaml", "classes 0 and 1 are both 'a'"),
    (yaml_of(names=["a", None]), "data.yaml", "class 1 has the name None"),
    (yaml_of(names=["a", ["b"]]), "data.yaml", "class 1 has the name"),
    (yaml_of(names={"1": "a", "2": "b"}), "data.yaml", "they must be 0 to 1"),
    (yaml_of(nc=5), "data.yaml", "'nc' is 5, but 'names' has 2"),
    (yaml_of(train="", val=None), "data.yaml", "no folder of images"),
    (yaml_of(train="images/gone"), "data.yaml", "images/gone"),
    (yaml_of(val=7), "data.yaml", "'val' is 7"),
    (yaml_of(train=[["images"]]), "data.yaml", "a folder of images is needed"),
    (write("data.yaml", "names: [a, b\ntrain: x"), "data.yaml, line 2", "not YAML"),
    (write("data.yaml", b"\xff\xfe\x00names"), "data.yaml", "cannot be read"),
    (write("data.yaml", "train: x\nnames: !!python/name:os.system"), "data.yaml", "YAML"),
    (write("data.yaml", "train: " + "[" * 3000), "data.yaml", "YAML"),
    (write("data.yaml", "- 1\n- 2"), "data.yaml", "a mapping"),
    (write("data.yaml", ALIASES), "data.yaml", "its aliases make more than 100000 values"),
    (write("data.yaml", "train: &a [*a]\nnames: [a]"), "data.yaml", "its aliases make more than"),
    (write("data.yaml", "names: [a]\ntrain: x\nnames: [b]"), "data.yaml, line 3", "'names' occurs"),
    (write("data.yaml", "train: x\nnames:\n  0: a\n  0: b"), "data.yaml, line 4", "'0' occurs"),
    (write(LABELS, b"\x89PNG\xff\x00\x01"), LABELS, "cannot be read"),
    (write(LABELS, "0 0.1 0.1 0.2\n".encode("utf-16")), LABELS, "cannot be read"),
    (write("labels/train/misspelled.txt", SOUND_LINE), "misspelled.txt", "has none of this name"),
    (write("images/train/train_0.png", b"junk"), "images/train/train_0.png", "not an image"),
    (write("images/train/train_0.jpg", b"junk"), "train_0", "as train_0"),
]  # fmt: skip


# --- LabelMe ---

SHAPES = "train/train_0.json"
SQUARE = {"label": "cup", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon"}


def png(pixels, mode=None):
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


BROKEN_SHAPES = [
    (7, "it is 7"),
    ({**SQUARE, "label": None}, "its label is None"),
    ({**SQUARE, "label": ["cup"]}, "its label is"),
    ({**SQUARE, "label": "spoon"}, "'spoon' is not in labels.txt"),
    ({**SQUARE, "points": None}, "its points are None"),
    ({**SQUARE, "points": [[1, 1], [2, 2]]}, "a polygon of 2 points; at least 3"),
    ({**SQUARE, "points": [[1, 1], [2, 2], [3]]}, "a list of [x, y]"),
    ({**SQUARE, "points": [1, 1, 2, 2, 3, 3]}, "a list of [x, y]"),
    ({**SQUARE, "points": [[1, 1], [9, 1], [9, "9"]]}, "a list of [x, y]"),
    ({**SQUARE, "points": [[1, 1], [9, 1], [9, float("nan")]]}, "a list of [x, y]"),
    ({**SQUARE, "points": [[1, 1], [9, 1], [9, 1e30]]}, "a list of [x, y]"),
    ({**SQUARE, "points": [[1, 1], [9, 1], [9, 10**400]]}, "a list of [x, y]"),
    ({**SQUARE, "points": [[1, 1], [9, 1], [9, 1e9]]}, "far outside"),
    ({**SQUARE, "points": [[1, 1], [1, 1], [1, 1]]}, "a line"),
    ({**SQUARE, "points": [[91, 91], [99, 91], [99, 99]]}, "lies outside"),
    ({**SQUARE, "shape_type": "cube"}, "its shape_type is 'cube'"),
    ({**SQUARE, "shape_type": ["polygon"]}, "its shape_type is"),
    ({**SQUARE, "shape_type": "circle", "points": [[1, 1]]}, "a circle of 1 points"),
    ({**SQUARE, "group_id": {"a": 1}}, "its group_id is"),
    ({**SQUARE, "shape_type": "mask", "points": [[1, 1], [9, 9]]}, "a mask without 'mask'"),
    (
        {**SQUARE, "shape_type": "mask", "points": [[1, 1], [9, 9]], "mask": "!!"},
        "cannot be decoded",
    ),
    (
        {
            **SQUARE,
            "shape_type": "mask",
            "points": [[75, 1], [9, 9]],
            "mask": png(np.ones((80, 9), bool)),
        },
        "reaches beyond the image",
    ),
]


@pytest.mark.parametrize(("shape", "words"), BROKEN_SHAPES, ids=[b for _, b in BROKEN_SHAPES])
def test_labelme_shape(copied, shape, words):
    folder = copied("labelme")
    content = json.loads((folder / SHAPES).read_text())
    content["shapes"] = [SQUARE, shape]
    (folder / SHAPES).write_text(json.dumps(content))
    text = report(folder)
    assert named(text, f"{SHAPES}, shape 1", words)
    assert "shape 0" not in text and "1 error" in text


def test_all_labelme_shapes_in_one_report(copied):
    folder = copied("labelme")
    content = json.loads((folder / SHAPES).read_text())
    content["shapes"] = [shape for shape, _ in BROKEN_SHAPES]
    (folder / SHAPES).write_text(json.dumps(content))
    assert f"{len(BROKEN_SHAPES)} errors" in report(folder)


def changed(name, **changes):
    def change(folder):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, **changes}))

    return change


LABELME_FILES = [
    (write(SHAPES, "{"), SHAPES, "is not JSON"),
    (write(SHAPES, b"\xff\xfe\x00"), SHAPES, "is not JSON"),
    (write(SHAPES, "[]"), SHAPES, "a list 'shapes' is needed"),
    (write(SHAPES, '{"shapes": ' + "[" * 100000), SHAPES, "nested too deeply"),
    (changed(SHAPES, shapes={}), SHAPES, "a list 'shapes' is needed"),
    (changed(SHAPES, imageWidth=60, imageHeight=80), SHAPES, "swapped"),
    (changed(SHAPES, imageWidth="60"), SHAPES, "'60'"),
    (remove("train/train_0.png"), SHAPES, "'train_0.png' is not there"),
    (write("train/train_0.png", b"x"), "train/train_0.png", "not an image"),
    (changed("train/train_1.json", imagePath="train_0.png"), "train_1.json", SHAPES),
    (write("labels.txt", "cup\ncup"), "labels.txt", "are both 'cup'"),
    (write("labels.txt", b"\xff"), "labels.txt", "cannot be read"),
]


# --- Pascal VOC ---

CLASSES, OBJECTS = "SegmentationClass/train_0.png", "SegmentationObject/train_0.png"


def pixels(name, change, mode="L"):
    """Change the numbers of a map."""

    def apply(folder):
        values = np.array(Image.open(folder / name))
        result = change(values)
        Image.fromarray(values if result is None else result).save(folder / name)

    return apply


def put(value, y=slice(0, 3), x=slice(0, 4)):
    def change(values):
        values[y, x] = value

    return change


def colors(values):
    return np.stack([values] * 3, axis=-1) + np.array([1, 0, 0], dtype=np.uint8)


VOC = [
    (remove(CLASSES), CLASSES, "no such file"),
    (remove(OBJECTS), OBJECTS, "no such file"),
    (write(CLASSES, b"junk"), CLASSES, "not an image"),
    (write(OBJECTS, b"\x89PNG\r\n\x1a\n" + b"0" * 99), OBJECTS, "damaged"),
    (pixels(CLASSES, put(9)), CLASSES, "class 9 at x 0, y 0 does not exist"),
    (pixels(CLASSES, put(254, 5, 7)), CLASSES, "class 254 at x 7, y 5"),
    (pixels(OBJECTS, put(40)), f"{OBJECTS}, object 40", "12 pixels are background"),
    (pixels(CLASSES, put(0, slice(None), slice(None))), f"{OBJECTS}, object 1", "background"),
    (pixels(CLASSES, put(255, slice(None), slice(None))), f"{OBJECTS}, object 1", "void"),
    (pixels(CLASSES, lambda v: v.T.copy()), CLASSES, "swapped"),
    (pixels(OBJECTS, lambda v: v[:-1].copy()), OBJECTS, "80x59"),
    (pixels(CLASSES, colors), CLASSES, "the colour"),
    (pixels(CLASSES, lambda v: v.astype(np.float32)), CLASSES, "its pixels are F"),
    (pixels(OBJECTS, lambda v: v.astype(np.uint16) + 999), f"{OBJECTS}, object 999", "background"),
    (write("ImageSets/Segmentation/train.txt", "gone\ntrain_0"), "train.txt, line 1", "'gone'"),
    (write("ImageSets/Segmentation/train.txt", "train_0\ntrain_0"), "train.txt, line 2", "line 1"),
    (write("ImageSets/Segmentation/train.txt", "train_0\n../x"), "train.txt, line 2", "'../x'"),
    (write("ImageSets/Segmentation/train.txt", b"\xff\xfe"), "train.txt", "cannot be read"),
    (write("ImageSets/Segmentation/train.txt", ""), "no images", "empty"),
    (write("labelmap.txt", "cup:1,2::"), "labelmap.txt, line 1", "'cup:1,2::'"),
    (write("labelmap.txt", "a:0,0,0::\nb:300,0,0::"), "labelmap.txt, line 2", "(300, 0, 0)"),
    (write("labelmap.txt", "a:1,0,0::\nb:1,0,0::"), "labelmap.txt", "the same colour"),
    (remove("JPEGImages/train_0.png"), "train.txt, line 1", "no image 'train_0'"),
    (write("JPEGImages/train_0.png", b"x"), "JPEGImages/train_0.png", "not an image"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "file", "words"), VOC)
def test_voc_file(copied, change, file, words):
    folder = copied("voc")
    if words == "its pixels are F":  # PNG cannot hold these
        Image.fromarray(np.zeros((60, 80), np.float32)).save(folder / "x.tif")
        shutil.move(folder / "x.tif", folder / CLASSES)
    else:
        change(folder)
    text = report(folder, "instance")
    if file == "no images":
        assert named(text, words) and "no images" in text
    else:
        assert named(text, file, words)


@pytest.mark.parametrize(("change", "file", "words"), [c for c in VOC if "object" not in c[1]])
def test_voc_class_maps(copied, change, file, words):
    """Without objects, class maps are checked as label maps, under their own names."""
    folder = copied("voc")
    shutil.rmtree(folder / "SegmentationObject")
    if "SegmentationObject" in file or words == "its pixels are F":
        return
    change(folder)
    text = report(folder)
    assert named(text, Path(file).name, words) or words == "empty"


# --- Mask files ---

MASK = "masks/train/train_0/cup_001.png"
DEEP = Image.fromarray(np.zeros((60, 80), np.float32))


def save(name, picture):
    def change(folder):
        buffer = io.BytesIO()
        picture.save(buffer, format="TIFF" if picture.mode == "F" else "PNG")
        write(name, buffer.getvalue())(folder)

    return change


def blank(height, width, value=0):
    return Image.fromarray(np.full((height, width), value, np.uint8))


MASKS = [
    (write(MASK, b""), MASK, "not an image"),
    (write(MASK, b"junk"), MASK, "not an image"),
    (write(MASK, b"\x89PNG\r\n\x1a\n" + b"0" * 99), MASK, "damaged"),
    (save(MASK, blank(60, 80)), MASK, "the mask is empty"),
    (save(MASK, blank(80, 60, 1)), MASK, "swapped"),
    (save(MASK, blank(30, 40, 1)), MASK, "40x30"),
    (save(MASK, blank(1, 1, 1)), MASK, "1x1"),
    (save(MASK, DEEP), MASK, "its pixels are F"),
    (save(MASK, blank(60, 80).convert("RGB")), MASK, "the mask is empty"),
    (save(MASK, blank(60, 80).convert("RGBA")), MASK, "the mask is empty"),
    (save("masks/train/train_0/spoon_1.png", blank(60, 80, 1)), "spoon_1.png", "'spoon'"),
    (save("masks/train/train_0/1.png", blank(60, 80, 1)), "train_0/1.png", "'object'"),
    (save("masks/train/train_9/cup.png", blank(60, 80, 1)), "masks/train/train_9", "none"),
    (save("masks/train/Train_0/cup.png", blank(60, 80, 1)), "masks/train/Train_0", "none"),
    (save("masks/val/train_0/cup.png", blank(60, 80, 1)), "masks/val/train_0", "none"),
    (remove("images/train/train_0.png"), "masks/train/train_0", "none"),
    (write("images/train/train_0.png", b"x"), "images/train/train_0.png", "not an image"),
    (save("images/train/train_0.png", blank(10, 10)), MASK, "the image 10x10"),
    (write("classes.txt", "cup\ncup"), "classes.txt", "are both 'cup'"),
    (write("classes.txt", b"\xff\xfe"), "classes.txt", "cannot be read"),
    (write("classes.txt", ""), "classes.txt", "no class names"),
    (write("classes.txt", "[1, 2]"), "classes.txt", "a list of texts"),
]  # fmt: skip


FILES = {"yolo": YOLO_FILES, "labelme": LABELME_FILES, "masks": MASKS}


@pytest.mark.parametrize(
    ("name", "change", "file", "words"),
    [(name, *case) for name, cases in FILES.items() for case in cases],
)
def test_file(copied, name, change, file, words):
    folder = copied(name)
    change(folder)
    assert named(report(folder), file, words)


# --- Colour-coded label maps ---

COLORS = "labels/train/train_0.png"


def rgb(height, width, color=(0, 0, 0)):
    return Image.fromarray(np.full((height, width, 3), color, np.uint8))


COLOR_MAPS = [
    (pixels(COLORS, put((1, 2, 3))), COLORS, "12 pixels have 1 colours"),
    (pixels(COLORS, put((1, 2, 3), 5, 7)), COLORS, "(1, 2, 3) at x 7, y 5"),
    (pixels(COLORS, lambda v: v // 2), COLORS, "colours that are not in labelmap.txt"),
    (pixels(COLORS, lambda v: v[:, ::2].copy()), "train_0", "40x60"),
    (pixels(COLORS, lambda v: v.transpose(1, 0, 2).copy()), "train_0", "swapped"),
    (write(COLORS, b"junk"), COLORS, "not an image"),
    (write(COLORS, b""), COLORS, "not an image"),
    (write(COLORS, b"\x89PNG\r\n\x1a\n" + b"0" * 99), COLORS, "damaged"),
    (save(COLORS, DEEP), COLORS, "its pixels are F"),
    (save(COLORS, rgb(60, 80, (9, 9, 9))), COLORS, "4800 pixels"),
    (save(COLORS, blank(60, 80, 7)), COLORS, "(7, 7, 7)"),
    (remove(COLORS), COLORS, "is missing"),
    (remove("images/train/train_0.png"), COLORS, "no image of this name"),
    (write("images/train/train_0.png", b"x"), "train_0.png", "not an image"),
    (write("labelmap.txt", ""), "labelmap.txt", "0 colours"),
    (write("labelmap.txt", "cup"), "labelmap.txt, line 1", "'cup'"),
    (write("labelmap.txt", "a:0,0,0::\nb:1,2"), "labelmap.txt, line 2", "'b:1,2'"),
    (write("labelmap.txt", "a:0,0,0::\nb:-1,2,3::"), "labelmap.txt, line 2", "'b:-1,2,3::'"),
    (write("labelmap.txt", "a:0,0,0::\nb:256,2,3::"), "labelmap.txt, line 2", "0 to 255"),
    (write("labelmap.txt", "a:0,0,0::\nb:0,0,0::"), "labelmap.txt", "'a' and 'b' have the same"),
    (write("labelmap.txt", b"\xff\xfe\x00"), "labelmap.txt", "cannot be read"),
    (write("labelmap.txt", "void:0,0,0::"), "labelmap.txt", "0 classes"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "file", "words"), COLOR_MAPS)
def test_color_map(copied, change, file, words):
    folder = copied("color-maps")
    change(folder)
    text = report(folder)
    assert named(text, file, words)
    assert "/mask2former." not in text  # the folder of converted files


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("colors.json", '{"a": [0, 0, 0], "b": [1, 2]}', "entry 1: the colour of 'b' is [1, 2]"),
        ("colors.json", '{"a": [0, 0, NaN]}', "entry 0"),
        ("colors.json", '[{"name": "a", "color": [0, 0, 1e30]}]', "entry 0"),
        ("colors.json", '[{"color": [0, 0, 0]}]', "entry 0: its name is None"),
        ("colors.json", "[7]", "entry 0"),
        ("colors.json", "[" * 100000, "not JSON"),
        ("class_dict.csv", "name,r,g,b\na,0,0,0\nb,1,2", "line 3"),
        ("class_dict.csv", "name,r,g,b\na,0,0,0\nb,1,2,999", "line 3: the colour of 'b'"),
        ("label_colors.txt", "0 0 0 a\n1 2 b", "line 2"),
    ],
)
def test_table_of_colors(copied, name, content, words):
    folder = copied("color-maps")
    (folder / "labelmap.txt").unlink()
    (folder / name).write_text(content)
    assert named(report(folder), name, words)
