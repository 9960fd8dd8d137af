"""Names of classes: what converts is read back with the same names and counts."""

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from format_sets import NAMES, convert, read_objects, splits_of, write_coco
from PIL import Image

from mask2former.data import DatasetError
from mask2former.formats import FORMATS

TASKS = {"coco-panoptic": "panoptic", "label-maps": "semantic", "color-maps": "semantic"}
ORDINARY = (
    "traffic light", "müsli 2", "door, double", "hot-dog", "a (b)", "cup's", '"cup"', "null", "1",
    "0x1f", "yes", "杯子", "a:b", "car.old", "mask", "object", "labels", "no", "~", "a" * 100,
)  # fmt: skip
OF_LINES = {"labelme", "masks", "label-maps"}  # with a list of names, one per line
OF_COLORS = {"voc", "color-maps"}
REFUSED = {  # by which formats
    "void": OF_COLORS,
    "Void": OF_COLORS,
    "ignore": OF_COLORS,
    "background": {"voc"},
    "__Background__": {"voc", "masks"},
    "_background_": {"voc", "labelme", "masks"},
    "__ignore__": {*OF_COLORS, "labelme", "masks"},
    "a" * 300: {"masks"},
    ".x": {"masks"},
    "..": {"masks"},
    "../x": {"masks"},
    "a/b": {"masks"},
    "cup_": {"masks"},
    "cup_001": {"masks"},  # beside "cup"
    "cup (2)": set(),
    "#x": OF_COLORS,
    "a:1,2,3": OF_COLORS,
    "a,red,green,blue,": OF_COLORS,
    "1 2 3 a": set(),
    " lead": OF_LINES | OF_COLORS,
    "trail\t": OF_LINES | OF_COLORS,
    "a\rb": OF_LINES | OF_COLORS,
    "a\nb": OF_LINES | OF_COLORS,
    "a\x85b": OF_LINES | OF_COLORS | {"yolo"},
    "a\u2028b": OF_LINES | OF_COLORS,
    "\ufeffx": OF_LINES,
    "[x": OF_LINES,
    "{x": OF_LINES,
    '["x"]': OF_LINES,
}


def rename(folder, names):
    """Give the classes of a small set other names."""
    file = folder / "annotations/instances_train.json"
    content = json.loads(file.read_text())
    for category, name in zip(content["categories"], names, strict=True):
        category["name"] = name
    file.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("source") / "data", [("train", 2)])


def read(folder, to):
    """The names of the classes, and how many objects or pixels each has."""
    data = splits_of(folder, TASKS.get(to, "instance"), to)["train"]
    report = data.check(evaluated=True, pixels=True, classes=None)
    assert not report.num_errors, str(report)
    names = list(report.classes.names)
    counts = Counter()
    if TASKS.get(to) == "semantic":
        for path in Path(data.label_root).rglob("*.png"):
            counts.update(names[label] for label in np.array(Image.open(path)).ravel())
        return names, counts
    content = json.loads(Path(data.json_file).read_text())
    own = {category["id"]: category["name"] for category in content["categories"]}
    objects = content["annotations"]
    if to == "coco-panoptic":
        objects = [segment for record in objects for segment in record["segments_info"]]
    return names, Counter(own[o["category_id"]] for o in objects if not o["iscrowd"])


def expected(source, to):
    """The same of the source; label maps also have the pixels of no object."""
    names = list(splits_of(source)["train"].check(
        evaluated=True, pixels=False, classes=None).classes.names)  # fmt: skip
    images = read_objects(splits_of(source)["train"]).values()
    objects = [(name, mask) for found in images for name, _, mask in found]
    if TASKS.get(to) != "semantic":
        return names, Counter(name for name, _ in objects)
    first = "no object" if "background" in names else "background"
    counts = Counter({first: sum(1 for _ in images) * objects[0][1].size})
    for name, mask in objects:
        counts[name] += int(mask.sum())
        counts[first] -= int(mask.sum())
    return [first, *names], counts


def refuses(source, to, names, folder):
    """Whether a format refuses these names; if not, it keeps them."""
    rename(source, names)
    try:
        convert(source, folder, to, "instance")
    except DatasetError as error:
        assert f" cannot be written as {to}, " in str(error) and str(error).isprintable()
        assert not folder.exists()
        return True
    assert read(folder, to) == expected(source, to)
    assert {path.name for path in folder.parent.iterdir()} <= {"data", folder.name}
    return False


@pytest.mark.parametrize("to", FORMATS)
def test_ordinary_names(source, to, tmp_path):
    for number in range(0, len(ORDINARY), len(NAMES)):
        names = [*ORDINARY[number:], "x", "y", "z"][: len(NAMES)]
        assert not refuses(source, to, names, tmp_path / str(number) / "new")


@pytest.mark.parametrize("to", FORMATS)
def test_names_that_a_format_cannot_hold(source, to, tmp_path):
    found = {
        name
        for number, name in enumerate(REFUSED)
        if refuses(source, to, ["cup", name, "bed"], tmp_path / str(number) / "new")
    }
    assert found == {name for name, formats in REFUSED.items() if to in formats}


@pytest.mark.parametrize("to", FORMATS)
def test_names_by_chance(source, to, tmp_path):
    rng = random.Random(0)
    parts = [
        *REFUSED,
        *" _-.:,#/\\\"'[]{}()%&*!|>?\t\r\n\x0b\x1c\x7f\u2029",
        "001",
        "2",
        "r",
        "ü",
        "😀",
    ]
    for number in range(25):
        texts = ("".join(rng.choices(parts, k=rng.randint(1, 3))) for _ in range(50))
        names = list(dict.fromkeys(texts))[: len(NAMES)]
        refuses(source, to, names, tmp_path / str(number) / "new")


def test_the_message_says_why(source, tmp_path):
    rename(source, ["cup", "void", "bed"])
    with pytest.raises(DatasetError) as caught:
        convert(source, tmp_path / "new", "voc", "instance")
    problem = "where it means pixels of no class: rename it"
    assert str(caught.value) == f"class 'void' cannot be written as voc, {problem}"
