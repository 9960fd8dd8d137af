"""The check of label maps, on a sound data set with one mistake at a time."""

import json
import time

import numpy as np
import pytest
from PIL import Image

from mask2former.data import DatasetError, check_semantic_folders
from mask2former.data.checks.image_files import count_values, map_files
from mask2former.data.checks.semantic_folders import read_class_names

WIDTH, HEIGHT = 40, 30
CLASSES = ("grass", "cat", "dog")
FOOD = "tahu goreng, tahu bacem, tempe goreng, tempe bacem, roti tawar, piring, background"


def labels(dtype=np.uint8, ignore=255):
    array = np.zeros((HEIGHT, WIDTH), dtype=dtype)
    array[5:15, 5:20] = 1
    array[10:20, 25:30] = 2
    array[:, :2] = ignore
    return array


def save(array, path):
    Image.fromarray(array).save(path)


class Data:
    """Folders that tests change before the check."""

    def __init__(self, root, dtype=np.uint8, ignore=255):
        self.images, self.labels = root / "images", root / "labels"
        for name in ("a", "sub/b"):
            for folder in (self.images, self.labels):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 30)).save(self.images / f"{name}.jpg")
            save(labels(dtype, ignore), self.labels / f"{name}.png")

    def check(self, classes=CLASSES, **options):
        return check_semantic_folders(str(self.images), str(self.labels), classes, **options)


@pytest.fixture
def data(tmp_path):
    return Data(tmp_path)


@pytest.mark.parametrize("dtype, ignore", [(np.uint8, 255), (np.uint16, 65535)])
def test_a_sound_set_has_no_problems(tmp_path, dtype, ignore):
    data = Data(tmp_path, dtype, ignore)
    report = data.check()
    assert not report.problems, str(report)
    assert report.classes.ignore_label == ignore
    assert list(report.classes.names) == list(CLASSES)
    assert report.classes.ids == tuple(range(len(CLASSES)))
    assert report.num_per_category == {0: 2 * 940, 1: 2 * 150, 2: 2 * 50}
    assert "2 images (0 without pixels), 3 classes" in report.summary()
    assert "grass 82.5%, cat 13.2%, dog 4.4%" in report.summary()
    headers_only = data.check(pixels=False)
    assert not headers_only.problems and headers_only.classes.ignore_label == ignore
    assert headers_only.summary().endswith("2 images, 3 classes")


@pytest.mark.parametrize("kind", ["palette", "TIFF", "1 bit", "4 bit"])
def test_files_of_other_kinds(data, kind):
    path = data.labels / "a.png"
    array = labels(ignore=255)
    if kind == "palette":
        image = Image.fromarray(array, mode="P")
        image.putpalette(list(range(255, -1, -1)) * 3)  # the colours differ from the indices
        image.save(path)
    elif kind == "TIFF":
        path.unlink()
        save(array, data.labels / "a.TIF")
    elif kind == "1 bit":
        save(array == 1, path)
    else:
        array[array == 255] = 0
        image = Image.fromarray(array, mode="P")
        image.putpalette(list(range(48)))
        image.save(path, bits=4)
    report = data.check()
    assert not report.problems, str(report)
    assert report.num_per_category[1] == 300


def picture(mode, size=(WIDTH, HEIGHT)):
    return lambda data: Image.new(mode, size).save(data.labels / "a.png")


def paint(value, dtype=np.uint8):
    def change(data):
        array = labels(dtype)
        array[18:21, 0] = value
        save(array, data.labels / "a.png")

    return change


def remove(name):
    return lambda data: next(data.images.parent.glob(name)).unlink()


def rename(name, new):
    return lambda data: (data.labels / name).rename(data.labels / new)


# Mistake -> how to make it, kind, whether it is an error, image, part of the text
CASES = {
    "no label map": (
        remove("labels/a.png"),
        "image without label map",
        True,
        "a.jpg",
        "no a.png, a.tif",
    ),
    "no image": (remove("images/a.jpg"), "label map without image", True, None, "labels/a.png"),
    "two images": (
        lambda d: Image.new("RGB", (WIDTH, HEIGHT)).save(d.images / "a.png"),
        "two images of the same name",
        True,
        None,
        "a.",
    ),
    "two maps": (
        lambda d: save(labels(), d.labels / "a.tif"),
        "two label maps of the same name",
        True,
        None,
        "a.tif",
    ),
    "size": (picture("L", (40, 31)), "of another size", True, "a.jpg", "40x31, the image 40x30"),
    "turned": (picture("L", (30, 40)), "of another size", True, "a.jpg", "look swapped"),
    "colours": (picture("RGB"), "label map of colours", True, "a.jpg", "a.png has pixels of mode"),
    "alpha": (picture("LA"), "label map of colours", True, "a.jpg", "LA"),
    "text": (
        lambda d: (d.labels / "a.png").write_text("no picture"),
        "label map cannot be read",
        True,
        "a.jpg",
        "a.png: not an image",
    ),
    "cut off": (
        lambda d: (d.labels / "a.png").write_bytes((d.labels / "a.png").read_bytes()[:70]),
        "label map cannot be read",
        True,
        "a.jpg",
        "a.png: damaged",
    ),
    "bad image": (
        lambda d: (d.images / "a.jpg").write_text("no picture"),
        "image file cannot be read",
        True,
        "a.jpg",
        "not an image",
    ),
    "label": (paint(7), "without a class: there are 3, 0 to 2", True, "a.jpg", "7 (3 pixels)"),
    "bits": (paint(2, np.uint16), "of 8 and of 16 bits", True, None, "--ignore-label"),
    "empty": (
        lambda d: save(np.full((HEIGHT, WIDTH), 255, np.uint8), d.labels / "a.png"),
        "label map without labels",
        False,
        "a.jpg",
        "is 255",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_mistake_is_named(data, case):
    break_it, kind, is_error, file_name, text = CASES[case]
    break_it(data)
    report = data.check()
    if case == "bits":  # the ignored label differs, so pixels would give more problems
        report = data.check(pixels=False)
    assert len(report.problems) == 1, str(report)
    problem = report.problems[0]
    assert kind in problem.kind
    assert problem.is_error == is_error
    assert problem.file_name == file_name
    assert text in problem.detail


def test_exif_turns_the_image_and_not_the_label_map(data):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(data.images / "a.jpg", exif=exif)
    assert "EXIF orientation is 6" in str(data.check())
    save(labels().T, data.labels / "a.png")
    assert not data.check().problems


def test_classes_that_never_occur(data):
    report = data.check((*CLASSES, "bird", "fish"))
    assert [(p.kind, p.detail, p.is_error) for p in report.problems] == [
        ("class without pixels", "bird, fish", False)
    ]
    assert "classes without pixels: 2" in report.summary()


def test_labels_without_class_suggest_what_they_mean(data):
    # One label more than classes: it stands for no class, or classes are numbered from 1.
    text = str(data.check(CLASSES[:2]))
    assert "a.png has 2 (50 pixels)" in text
    assert "if 2 stands for no class, add --ignore-label 2" in text
    assert "numbered from 1" in text
    assert not data.check(CLASSES[:2], ignore_label=2).counts["label without a class"]
    # In 16 bits, 255 is a label like any other.
    for name in ("a", "sub/b"):
        save(labels(np.uint16), data.labels / f"{name}.png")
    text = str(data.check())
    assert "add --ignore-label 255" in text and "numbered from 1" not in text
    report = data.check(ignore_label=255)
    assert not report.problems and report.classes.ignore_label == 255


def test_an_ignored_class_counts_no_pixels(data):
    report = data.check(ignore_label=0)
    assert report.num_per_category[0] == 0
    assert "255 (60 pixels)" in str(report)


@pytest.mark.parametrize(
    "image_end, label_end, hint",
    [
        ("", "_mask", "(remove the end '_mask' from the names of label maps)"),
        ("_photo", "", "(remove the end '_photo' from the names of images)"),
        ("_photo", "_mask", "'_photo' from the names of images and '_mask' from the names of"),
    ],
)
def test_names_that_end_differently(tmp_path, image_end, label_end, hint):
    for folder, end in (("images", image_end), ("labels", label_end)):
        (tmp_path / folder).mkdir()
        for name in ("a1", "b1", "c2"):
            Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / folder / f"{name}{end}.png")
    report = check_semantic_folders(str(tmp_path / "images"), str(tmp_path / "labels"), CLASSES)
    assert report.num_errors == 6
    assert hint in str(report)
    # There is no such hint if it would not pair all files.
    next((tmp_path / "images").glob("c2*")).rename(tmp_path / f"images/d2{image_end}.png")
    report = check_semantic_folders(str(tmp_path / "images"), str(tmp_path / "labels"), CLASSES)
    assert report.num_errors == 6
    assert "remove the end" not in str(report)


def test_folders_that_do_not_fit(data, tmp_path):
    report = check_semantic_folders("no/images", "no/labels", CLASSES)
    assert [p.detail for p in report.errors] == ["no/images", "no/labels"]
    (tmp_path / "empty").mkdir()
    report = check_semantic_folders(str(tmp_path / "empty"), str(data.labels), CLASSES)
    assert list(report.counts) == ["no images"]
    report = check_semantic_folders(str(data.images), str(data.images), CLASSES)
    assert list(report.counts) == ["no label maps"]
    assert "JPEG changes labels" in str(report)


def test_all_problems_come_at_once(data):
    paint(7)(data)
    (data.images / "sub/b.jpg").unlink()
    picture("RGB")(data)
    report = data.check()
    assert report.num_errors == 2
    assert {"a.png", "b.png"} <= set(str(report).replace("/", " ").replace(":", " ").split())


def test_values_are_counted_as_numpy_does():
    rng = np.random.default_rng(0)
    for shape in ((0, 5), (1, 1), (7, 9), (40, 30)):
        for dtype, top in ((np.uint8, 256), (np.uint16, 65536), (np.int32, 3)):
            array = rng.integers(top, size=shape).astype(dtype)
            array[: shape[0] // 2] = 2
            for values in (array, array.T):
                found, counts = count_values(values)
                expected = np.unique(values, return_counts=True)
                np.testing.assert_array_equal(found, expected[0])
                np.testing.assert_array_equal(counts, expected[1])


def test_a_check_that_is_interrupted_stops():
    started = []

    def work(number):
        started.append(number)
        time.sleep(0.01)
        if number == 3:
            raise KeyboardInterrupt
        return number

    with pytest.raises(KeyboardInterrupt):
        list(map_files(work, range(100_000), "test"))
    assert len(started) < 100
    assert list(map_files(str, range(100), "test")) == [str(i) for i in range(100)]


@pytest.mark.parametrize(
    "text, names",
    [
        ("grass\ncat\ndog", ["grass", "cat", "dog"]),
        ("\ufeffgrass\r\n wild cat \r\n\n", ["grass", "wild cat"]),
        ('["grass", "cat"]', ["grass", "cat"]),
        ("Füße", ["Füße"]),
    ],
)
def test_class_names(tmp_path, text, names):
    path = tmp_path / "classes"
    path.write_bytes(text.encode())
    assert read_class_names(str(path)) == names


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no class names"),
        ("[]", "no class names"),
        ("grass\n\ncat", r"class 1 \(counted from 0\) has no name"),
        ("cat\ndog\ncat", "classes 0 and 2 .* are both 'cat'"),
        ("[1]", "list of texts"),
        (json.dumps({"0": "cat"}), "list of texts"),
        ("[", "not JSON"),
        ("\udcff", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_files_that_do_not_name_classes(tmp_path, text, message):
    path = tmp_path / "classes"
    if text is not None:
        path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DatasetError, match=message) as error:
        read_class_names(str(path))
    assert str(path) in str(error.value)


def test_real_files_pass(shared):
    folder = shared / "data" / "food"
    report = check_semantic_folders(
        str(folder / "val"), str(folder / "semantic_val"), FOOD.split(", ")
    )
    assert not report.problems, str(report)
    assert report.num_images == 51
    assert report.num_per_category.total() == 51 * 640 * 640
