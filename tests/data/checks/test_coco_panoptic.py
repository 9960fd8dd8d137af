"""The check of COCO panoptic data, on a sound data set with one mistake at a time."""

import json

import numpy as np
import pytest
from PIL import Image

from mask2former.data import check_panoptic_json

WIDTH, HEIGHT = 40, 30
GRASS, CAT, DOG = 70_001, 300, 5


def id_map(shift=0):
    """Void at the left edge, grass, and two animals."""
    ids = np.full((HEIGHT, WIDTH), GRASS)
    ids[:, :2] = 0
    ids[5 : 15 + shift, 5:20] = CAT
    ids[10:20, 25:30] = DOG
    return ids


def save_ids(ids, path, **options):
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    Image.fromarray(rgb).save(path, **options)


def segments(ids):
    classes = ((GRASS, 9), (CAT, 2), (DOG, 4))
    areas = {i: int((ids == i).sum()) for i, _ in classes}
    return [{"id": i, "category_id": c, "area": areas[i], "iscrowd": 0} for i, c in classes]


class Data:
    """Files and JSON that tests change before the check."""

    def __init__(self, root):
        self.images, self.panoptic = root / "images", root / "panoptic"
        self.json = root / "panoptic.json"
        self.content = {
            "images": [
                {"id": 7, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT},
                {"id": 9, "file_name": "sub/b.jpg", "width": WIDTH, "height": HEIGHT},
            ],
            "categories": [
                {"id": 9, "name": "grass", "isthing": 0},
                {"id": 2, "name": "cat", "isthing": 1, "color": [1, 2, 3]},
                {"id": 4, "name": "dog", "isthing": 1},
            ],
            "annotations": [],
        }
        for number, image in enumerate(self.content["images"]):
            name = image["file_name"]
            for folder in (self.images, self.panoptic):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 30)).save(self.images / name)
            png, ids = name.replace(".jpg", ".png"), id_map(number)
            save_ids(ids, self.panoptic / png)
            self.content["annotations"].append(
                {"image_id": image["id"], "file_name": png, "segments_info": segments(ids)}
            )
        self.content["annotations"][1]["segments_info"][1]["iscrowd"] = 1

    @property
    def segment(self):
        return self.content["annotations"][0]["segments_info"][1]

    def check(self, **options):
        self.json.write_text(json.dumps(self.content))
        return check_panoptic_json(str(self.json), str(self.images), str(self.panoptic), **options)


@pytest.fixture
def data(tmp_path):
    return Data(tmp_path)


def test_a_sound_set_has_no_problems(data):
    for pixels in (True, False):
        report = data.check(pixels=pixels)
        assert not report.problems, str(report)
        classes = report.classes
        named = dict(zip(classes.ids, classes.names, strict=True))
        assert named == {9: "grass", 2: "cat", 4: "dog"}
        assert {classes.ids[i] for i in classes.things} == {2, 4}
        assert classes.colors is None, "not every class has one"
        assert report.num_per_category == {9: 2, 2: 1, 4: 2}, "crowd is not counted"
        assert "2 images (0 without segments), 6 segments, 3 classes" in report.summary()


def segment(**changes):
    return lambda data: data.segment.update(changes)


def category(**changes):
    return lambda data: data.content["categories"][1].update(changes)


def annotation(**changes):
    return lambda data: data.content["annotations"][0].update(changes)


def png(ids, **options):
    return lambda data: save_ids(ids, data.panoptic / "a.png", **options)


def paint(value):
    ids = id_map()
    ids[18:21, 0] = value  # of void, so that areas stay
    return ids


def picture(mode):
    def save(data):
        Image.new(mode, (WIDTH, HEIGHT)).save(data.panoptic / "a.png")

    return save


def rename(data):
    (data.panoptic / "a.png").rename(data.panoptic / "A.PNG")


def jpeg(data):
    save_ids(id_map(), data.panoptic / "a.png", format="JPEG")


def two_uses(data):
    for entry in data.content["annotations"]:
        entry.update(file_name="a.png", segments_info=segments(id_map()))


def swap_red_and_blue(data):
    ids = id_map()
    save_ids(ids & 0xFF00 | ids >> 16 | (ids & 0xFF) << 16, data.panoptic / "a.png")


IMAGE, SEGMENT = ("a.jpg", 7, None), ("a.jpg", 7, CAT)
NOWHERE = (None, None, None)
# Mistake -> how to make it, kind, whether it is an error, (file, image id, segment id), part of
# the text
CASES = {
    "no isthing": (
        lambda d: d.content["categories"][1].pop("isthing"),
        "category without isthing",
        True,
        NOWHERE,
        "category id 2, 'cat'",
    ),
    "isthing": (category(isthing=2), "isthing is neither", True, NOWHERE, "category id 2: 2"),
    "category": (segment(category_id=3), "unknown category", True, SEGMENT, "is 3"),
    "iscrowd": (segment(iscrowd="no"), "iscrowd is neither", True, SEGMENT, "'no'"),
    "area": (segment(area=149), "area differs", False, SEGMENT, "is 149, a.png has 150"),
    "absent": (
        png(np.where(id_map() == CAT, 0, id_map())),
        "segment without pixels",
        True,
        SEGMENT,
        "a.png",
    ),
    "unknown": (png(paint(8)), "unknown segments", True, IMAGE, "8 (3 pixels)"),
    "no file": (
        lambda d: (d.panoptic / "a.png").unlink(),
        "PNG file not found",
        True,
        IMAGE,
        "panoptic/a.png",
    ),
    "case": (rename, "PNG file not found", True, IMAGE, "'A.PNG'"),
    "text": (
        lambda d: (d.panoptic / "a.png").write_text("no picture"),
        "PNG file cannot be read",
        True,
        IMAGE,
        "a.png: not an image",
    ),
    "cut off": (
        lambda d: (d.panoptic / "a.png").write_bytes((d.panoptic / "a.png").read_bytes()[:90]),
        "PNG file cannot be read",
        True,
        IMAGE,
        "a.png: damaged",
    ),
    "size": (png(id_map()[1:]), "PNG size differs", True, IMAGE, "is 40x29, the JSON says 40x30"),
    "turned": (png(id_map().T), "PNG size differs", True, IMAGE, "look swapped"),
    "grey": (picture("L"), "not an RGB PNG", True, IMAGE, "mode L"),
    "jpeg": (jpeg, "not an RGB PNG", True, IMAGE, "JPEG"),
    "16 bit": (picture("I;16"), "PNG file cannot be read", True, IMAGE, "I;16"),
    "two uses": (two_uses, "of several images", True, NOWHERE, "a.png"),
    "no image": (
        lambda d: (d.images / "a.jpg").unlink(),
        "image file not found",
        True,
        IMAGE,
        "images/a.jpg",
    ),
    "image size": (
        lambda d: Image.new("RGB", (50, 30)).save(d.images / "a.jpg"),
        "image size differs",
        True,
        IMAGE,
        "50x30",
    ),
    "no name": (annotation(file_name=None), "without file_name", True, IMAGE, "None"),
    "no segments": (annotation(segments_info={}), "without segments_info", True, IMAGE, "list"),
    "image id": (
        lambda d: d.content["annotations"].append({"image_id": 8, "segments_info": []}),
        "unknown image",
        True,
        (None, 8, None),
        "number 2",
    ),
    "twice": (
        lambda d: d.content["annotations"].append(d.content["annotations"][0]),
        "image annotated twice",
        True,
        IMAGE,
        "",
    ),
    "not annotated": (
        lambda d: d.content["annotations"].pop(0),
        "image without annotation",
        True,
        IMAGE,
        "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_mistake_is_named(data, case):
    break_it, kind, is_error, where, text = CASES[case]
    break_it(data)
    report = data.check()
    found = [p for p in report.problems if kind in p.kind]
    assert len(found) == 1, str(report)
    # Without a list of segments, the ids of the PNG are unknown, which is a second problem.
    assert len(report.problems) == (2 if case == "no segments" else 1), str(report)
    problem = found[0]
    assert problem.is_error == is_error
    assert (problem.file_name, problem.image_id, problem.segment_id) == where
    assert text in problem.detail
    for part in where:
        assert part is None or str(part) in str(report)


@pytest.mark.parametrize("wrong", [None, 0, -1, 1 << 24, "300", 3.5])
def test_ids_that_a_png_cannot_hold(data, wrong):
    data.segment["id"] = wrong
    report = data.check()
    assert [p.kind for p in report.errors] == [
        "segment without a usable id",
        "pixels of unknown segments",
    ]
    assert repr(wrong) in report.errors[0].detail


def test_an_id_used_twice(data):
    data.segment["id"] = DOG
    report = data.check()
    assert "segment id used twice" in report.counts
    assert "300 (150 pixels)" in str(report)


def test_swapped_channels_are_recognised(data):
    swap_red_and_blue(data)
    assert "red and blue look swapped" in str(data.check())
    save_ids(np.where(id_map() == DOG, 8, id_map()), data.panoptic / "a.png")
    report = data.check()
    assert report.num_errors == 2
    assert "look swapped" not in str(report)


@pytest.mark.parametrize("evaluated", [True, False])
def test_segments_without_pixels_do_not_disturb_training(data, evaluated):
    save_ids(np.where(id_map() == CAT, GRASS, id_map()), data.panoptic / "a.png")
    for entry in data.content["annotations"][0]["segments_info"]:
        del entry["area"]
    report = data.check(evaluated=evaluated)
    assert list(report.counts) == ["segment without pixels"]
    assert report.num_errors == evaluated


def test_without_pixels_only_headers_are_read(data):
    save_ids(paint(8), data.panoptic / "a.png")
    save_ids(id_map()[1:], data.panoptic / "sub/b.png")
    assert list(data.check(pixels=False).counts) == ["PNG size differs"]


def test_a_png_with_a_palette_gives_the_same_ids(data):
    with Image.open(data.panoptic / "a.png") as image:
        packed = image.convert("P", palette=Image.Palette.ADAPTIVE)
    packed.save(data.panoptic / "a.png")
    assert not data.check().problems


def test_all_problems_come_at_once(data):
    data.segment["category_id"] = 3
    (data.images / "sub/b.jpg").unlink()
    (data.panoptic / "sub/b.png").unlink()
    report = data.check()
    assert report.num_errors == 3
    assert str(report).count("sub/b") == 4  # each of two problems names an image and a path


@pytest.mark.parametrize(
    "content, text",
    [
        ("{", "not JSON"),
        ("[]", "a list"),
        ('{"images": [], "categories": []}', "'annotations' is missing"),
        (
            '{"images": [], "categories": [], "annotations": [{"bbox": []}]}',
            "this is a COCO instance file",
        ),
    ],
)
def test_files_that_are_not_panoptic(data, content, text):
    data.json.write_text(content)
    report = check_panoptic_json(str(data.json), str(data.images), str(data.panoptic))
    assert report.num_errors == 1
    assert text in str(report)


def test_missing_folders(data):
    report = check_panoptic_json(str(data.json), "no/images", "no/panoptic")
    assert "cannot be read" in str(report)
    data.check()
    report = check_panoptic_json(str(data.json), "no/images", "no/panoptic")
    assert [p.detail for p in report.errors] == ["no/images", "no/panoptic"]


@pytest.mark.parametrize(
    "folder, json_file, images, panoptic, num_classes, num_segments",
    [
        ("food", "annotations/panoptic_val.json", "val", "panoptic_val", 7, 341),
        (
            "coco_panoptic_sample/sample_data",
            *("panoptic_examples.json", "input_images", "panoptic_examples"),
            *(133, 50),
        ),
    ],
)
def test_real_files_pass(shared, folder, json_file, images, panoptic, num_classes, num_segments):
    root = shared / "data" / folder
    report = check_panoptic_json(str(root / json_file), str(root / images), str(root / panoptic))
    assert not report.problems, str(report)
    assert len(report.classes) == num_classes
    assert report.num_annotations == num_segments
