import copy
import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import check_image_size, read_image
from PIL import Image

from mask2former.data import (
    DatasetError,
    InstanceData,
    check_coco_json,
    register_coco_json,
    register_own_data,
)
from mask2former.data.datasets.coco_instances import load_coco_instances
from mask2former.data.segmentation import checked_run_lengths, decode_rle, run_lengths

WIDTH, HEIGHT = 40, 30


def rle_of(mask, compressed=True):
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    if compressed:
        return {"size": list(mask.shape), "counts": rle["counts"].decode()}
    pixels = mask.T.reshape(-1).astype(int)
    changes = np.flatnonzero(np.diff(np.concatenate([[0], pixels]))).tolist()
    counts = np.diff([0, *changes, pixels.size]).tolist()
    return {"size": list(mask.shape), "counts": counts}


def box_mask(x=5, y=6, w=10, h=8):
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[y : y + h, x : x + w] = True
    return mask


def sound_content():
    """Two images; polygons and both kinds of RLE; a gap in the category ids; one crowd."""
    box = {"bbox": [5, 6, 10, 8], "area": 80, "iscrowd": 0}
    polygon = [[5, 6, 15, 6, 15, 14, 5, 14]]
    return {
        "info": {},
        "images": [
            {"id": 7, "file_name": "a.png", "width": WIDTH, "height": HEIGHT},
            {"id": 9, "file_name": "sub/b.png", "width": WIDTH, "height": HEIGHT},
        ],
        "categories": [{"id": 4, "name": "tree"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {"id": 101, "image_id": 7, "category_id": 4, "segmentation": polygon, **box},
            {"id": 102, "image_id": 7, "category_id": 2, "segmentation": rle_of(box_mask()), **box},
            {
                **box,
                "id": 103,
                "image_id": 9,
                "category_id": 2,
                "segmentation": rle_of(box_mask(), compressed=False),
                "iscrowd": 1,
            },
        ],
    }


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 30)).save(folder / name)
    return folder


def write(tmp_path, content, name="instances.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def check(tmp_path, images, content, **kwargs):
    return check_coco_json(write(tmp_path, content), str(images), **kwargs)


def test_a_sound_file_has_no_problems(tmp_path, images):
    report = check(tmp_path, images, sound_content())
    assert not report.problems, str(report)
    assert "no problems" in str(report)
    assert (report.classes.ids, report.classes.names) == ((2, 4), ("cat", "tree"))
    assert report.num_per_category == {2: 1, 4: 1}, "crowd is not counted"
    assert "2 images (0 without objects)" in report.summary()


def annotation(**changes):
    return lambda content: content["annotations"][0].update(changes)


def without(key):
    return lambda content: content["annotations"][0].pop(key)


def polygon(*points):
    return annotation(segmentation=[list(points)])


def rle(**changes):
    return annotation(segmentation={**rle_of(box_mask()), **changes})


IMAGE, OBJECT = ("a.png", 7, None), ("a.png", 7, 101)
NAN = float("nan")
# Mistake -> how to make it, kind, whether it is an error, (file, image id, annotation id), part of
# the text
ANNOTATION_CASES = {
    "duplicate id": (annotation(id=102), "annotation id used twice", True, ("a.png", 7, 102), ""),
    "no id": (without("id"), "without a usable id", True, ("a.png", 7, None), "number 0"),
    "id 0": (annotation(id=0), "annotation id 0", False, ("a.png", 7, 0), "from 1"),
    "image": (annotation(image_id=8), "unknown image", True, (None, 8, 101), ""),
    "category": (annotation(category_id=3), "unknown category", True, OBJECT, "3"),
    "few": (polygon(1, 2, 3, 4), "mask is empty", True, OBJECT, "4 coordinates"),
    "odd": (polygon(1, 2, 9, 2, 9, 9, 1), "malformed", True, OBJECT, "odd"),
    "nan": (polygon(1, 2, NAN, 2, 9, 9), "malformed", True, OBJECT, "NaN"),
    "text": (polygon(1, 2, "x", 2, 9, 9), "malformed", True, OBJECT, "list of numbers"),
    "flat": (annotation(segmentation=[1, 2, 9, 2, 9, 9]), "malformed", True, OBJECT, "flat list"),
    "outside": (polygon(50, 2, 60, 2, 60, 9), "mask is empty", True, OBJECT, "outside the 40x30"),
    "line": (polygon(5, 2, 5, 9, 5, 12), "mask is empty", True, OBJECT, "a line"),
    "one part": (
        annotation(segmentation=[[1, 1, 9, 1, 9, 9], [50, 2, 60, 2, 60, 9]]),
        "polygon is ignored",
        False,
        OBJECT,
        "outside",
    ),
    "swapped": (rle(size=[40, 30]), "RLE does not decode", True, OBJECT, "swapped"),
    "size": (rle(size=[31, 40]), "RLE does not decode", True, OBJECT, "[31, 40]"),
    "short": (rle(counts="U5"), "RLE does not decode", True, OBJECT, "cover"),
    "garbage": (rle(counts="no RLE!"), "RLE does not decode", True, OBJECT, "character"),
    "cut": (rle(counts="U5o"), "RLE does not decode", True, OBJECT, "cut off"),
    "no counts": (annotation(segmentation={"size": [30, 40]}), "RLE", True, OBJECT, "'counts'"),
    "negative": (rle(counts=[-5, 1205]), "RLE does not decode", True, OBJECT, "negative"),
    "empty RLE": (rle(counts=[1200]), "mask is empty", True, OBJECT, "no pixel"),
    "no mask": (without("segmentation"), "without segmentation", True, OBJECT, ""),
    "empty list": (annotation(segmentation=[]), "without segmentation", True, OBJECT, ""),
    "type": (annotation(segmentation="x"), "wrong type", True, OBJECT, "str"),
    "bbox": (annotation(bbox=[1, 2, 3]), "not four numbers", True, OBJECT, "[1, 2, 3]"),
    "bbox nan": (annotation(bbox=[1, 2, 3, NAN]), "not four numbers", True, OBJECT, "nan"),
    "zero box": (annotation(bbox=[5, 6, 0, 8]), "bbox without area", False, OBJECT, ""),
    "xyxy": (annotation(bbox=[25, 16, 35, 24]), "beyond the image", False, OBJECT, "width"),
    "no box": (without("bbox"), "without bbox", False, OBJECT, "without bbox,"),
    "no area": (without("area"), "without bbox, area", False, OBJECT, "without area,"),
    "crowd": (annotation(iscrowd=1), "crowd region with polygons", False, OBJECT, ""),
    "iscrowd": (annotation(iscrowd=2), "neither 0 nor 1", True, OBJECT, "2"),
    "ignore": (annotation(ignore=1), "'ignore'", True, OBJECT, "iscrowd"),
}


@pytest.mark.parametrize("case", ANNOTATION_CASES)
def test_each_bad_annotation_is_named(tmp_path, images, case):
    break_it, kind, is_error, where, text = ANNOTATION_CASES[case]
    content = sound_content()
    break_it(content)
    report = check(tmp_path, images, content)
    found = [p for p in report.problems if kind in p.kind]
    assert len(found) == 1 and len(report.problems) == 1, str(report)
    problem = found[0]
    assert problem.is_error == is_error
    assert (problem.file_name, problem.image_id, problem.annotation_id) == where
    assert text in problem.detail
    for part in where:
        assert part is None or str(part) in str(report)


def test_training_sets_need_no_evaluation_fields(tmp_path, images):
    content = sound_content()
    for record in content["annotations"][:2]:
        for key in ("bbox", "area", "iscrowd"):
            del record[key]
    content["annotations"][0]["id"] = 0
    assert not check(tmp_path, images, content, evaluated=False).problems
    report = check(tmp_path, images, content, evaluated=True)
    assert not report.errors and len(report.problems) == 3


def test_boxes_that_are_missing_are_those_of_the_masks(tmp_path, images):
    content = sound_content()
    for record in content["annotations"]:
        del record["bbox"]
    content["annotations"][0]["segmentation"].append([1, 1, 2, 2])  # no polygon, and left out
    records = load_coco_instances(write(tmp_path, content), str(images))
    boxes = [a["bbox"] for record in records for a in record["annotations"]]
    assert boxes == [[5, 6, 10, 8]] * 3


IMAGE_CASES = {
    "duplicate id": (lambda c: c["images"][1].update(id=7), "image id used twice", "a.png"),
    "no id": (lambda c: c["images"][0].pop("id"), "image without a usable id", "number 0"),
    "no name": (lambda c: c["images"][0].pop("file_name"), "without file_name", "None"),
    "no size": (lambda c: c["images"][0].pop("width"), "without a usable size", "[None, 30]"),
    "no file": (lambda c: c["images"][0].update(file_name="c.png"), "not found", "c.png"),
    "case": (lambda c: c["images"][0].update(file_name="A.PNG"), "not found", "'a.png'"),
    "size": (lambda c: c["images"][0].update(width=41), "size differs", "40x30, the JSON says 41x"),
    "category id": (lambda c: c["categories"][0].update(id=2), "category id used twice", "'cat'"),
    "category name": (lambda c: c["categories"][0].update(name="cat"), "name used twice", "2"),
    "text id": (lambda c: c["categories"][0].update(id="4"), "whole number as id", "'4'"),
    "no images": (lambda c: c["images"].clear(), "no images", ""),
    "no categories": (lambda c: c["categories"].clear(), "no categories", ""),
    "no annotations": (lambda c: c["annotations"].clear(), "no annotations", ""),
}


@pytest.mark.parametrize("case", IMAGE_CASES)
def test_each_bad_image_or_category_is_an_error(tmp_path, images, case):
    break_it, kind, text = IMAGE_CASES[case]
    content = sound_content()
    break_it(content)
    report = check(tmp_path, images, content)
    found = [p for p in report.errors if kind in p.kind]
    assert found, str(report)
    assert text in str(found[0])


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "not JSON"),
        ("[]", "a list, not an object"),
        ('{"images": [], "annotations": []}', "'categories' is missing"),
        ('{"images": {}, "annotations": [], "categories": []}', "'images' is not a list"),
        ('{"images": [1], "annotations": [], "categories": []}', "not an object"),
        (
            '{"images": [], "annotations": [{"segments_info": []}], "categories": []}',
            "COCO panoptic file",
        ),
    ],
)
def test_files_that_are_not_coco(tmp_path, images, content, text):
    report = check(tmp_path, images, content)
    assert report.num_errors == 1
    assert text in str(report)


def test_missing_files_and_folders(tmp_path, images):
    assert "cannot be read" in str(check_coco_json(str(tmp_path / "no.json"), str(images)))
    path = write(tmp_path, sound_content())
    assert "folder not found" in str(check_coco_json(path, str(tmp_path / "nowhere")))
    (images / "a.png").write_bytes(b"not a picture")
    assert "cannot be read" in str(check_coco_json(path, str(images)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_are_compared_as_detectron2_reads_images(tmp_path, images, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    Image.new("RGB", (WIDTH, HEIGHT)).save(images / "a.jpg", exif=exif)
    for size in ((WIDTH, HEIGHT), (HEIGHT, WIDTH)):
        record = {"id": 7, "file_name": "a.jpg", "width": size[0], "height": size[1]}
        content = {**sound_content(), "images": [record], "annotations": []}
        report = check(tmp_path, images, content)
        pixels = read_image(str(images / "a.jpg"), "RGB")
        try:
            check_image_size({"width": size[0], "height": size[1]}, pixels)
            agrees = True
        except ValueError:
            agrees = False
        assert ("size differs" not in str(report)) == agrees
        if not agrees and size == (WIDTH, HEIGHT):
            assert f"EXIF orientation is {orientation}" in str(report)


def test_long_lists_are_cut_and_counted(tmp_path, images):
    content = sound_content()
    for number in range(500):
        broken = copy.deepcopy(content["annotations"][0])
        broken.update(id=1000 + number, segmentation=[[1, 2]])
        content["annotations"].append(broken)
    report = check(tmp_path, images, content)
    assert report.num_errors == 500
    assert "mask is empty (500)" in str(report)
    assert "and 495 more" in str(report)
    assert len(str(report).splitlines()) < 10


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_agree_with_pycocotools(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 90, size=2)
    # From empty over noisy to full, so that short and long runs and their differences occur.
    mask = rng.random((height, width)) < seed / 19
    mask[: height // 2] = mask[0, 0]
    for compressed in (True, False):
        rle = rle_of(mask, compressed)
        assert (decode_rle(rle, height, width) == mask).all()
    encoded = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert run_lengths(encoded["counts"])[1::2].sum() == mask_util.area(encoded)


def test_damaged_run_lengths_raise_and_never_crash():
    rng = np.random.default_rng(0)
    sound = rle_of(box_mask())["counts"].encode()
    for _ in range(500):
        damaged = bytearray(sound)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(len(damaged))] = rng.integers(0, 256)
        rle = {"size": [HEIGHT, WIDTH], "counts": bytes(damaged[: rng.integers(len(sound)) + 1])}
        try:
            runs = checked_run_lengths(rle, HEIGHT, WIDTH)
        except ValueError:
            continue
        assert runs.min() >= 0 and runs.sum() == HEIGHT * WIDTH


def test_registering_handles_gaps_and_keeps_annotation_ids(tmp_path, images):
    name = "test_gaps"
    try:
        register_coco_json(name, write(tmp_path, sound_content()), str(images))
        metadata = MetadataCatalog.get(name)
        assert metadata.thing_classes == ["cat", "tree"]
        assert metadata.thing_dataset_id_to_contiguous_id == {2: 0, 4: 1}
        annotations = [a for d in DatasetCatalog.get(name) for a in d["annotations"]]
        assert [(a["id"], a["category_id"]) for a in annotations] == [(101, 1), (102, 0), (103, 0)]
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_custom_data_sets_share_the_classes_of_the_training_set(tmp_path, images, capsys):
    train = write(tmp_path, sound_content(), "train.json")
    content = sound_content()
    content["categories"] = [{"id": 4, "name": "tree"}]
    content["annotations"] = content["annotations"][:1]
    val = write(tmp_path, content, "val.json")
    for _ in range(2):  # calling it again is harmless
        registered = register_own_data(
            InstanceData(train, str(images)), InstanceData(val, str(images))
        )
    train_name, val_name, classes = registered.train, registered.val, list(registered.classes.names)
    assert classes == ["cat", "tree"]
    assert MetadataCatalog.get(val_name).thing_classes == classes
    # The validation file has only category 4, which is still class 1.
    dicts = DatasetCatalog.get(val_name)
    assert [a["category_id"] for d in dicts for a in d["annotations"]] == [1]
    assert MetadataCatalog.get(val_name).thing_classes == classes
    assert len(DatasetCatalog.get(train_name)) == 2
    printed = capsys.readouterr().out
    assert "class that validation lacks" in printed
    assert "2 images" in printed and "cat 1" in printed


def test_custom_data_sets_report_everything_at_once(tmp_path, images):
    content = sound_content()
    ANNOTATION_CASES["odd"][0](content)
    train = write(tmp_path, content, "train.json")
    content = sound_content()
    content["categories"] = [{"id": 4, "name": "cat"}, {"id": 2, "name": "dog"}]
    content["images"][0]["file_name"] = "gone.png"
    val = write(tmp_path, content, "val.json")
    with pytest.raises(DatasetError) as error:
        register_own_data(InstanceData(train, str(images)), InstanceData(val, str(images)))
    text = str(error.value)
    assert text.startswith("the data cannot be used as it is: 4 errors\n")
    assert train in text and val in text
    for part in ("annotation id 101", "odd", "gone.png", "id 4 is 'cat' here and 'tree' there"):
        assert part in text


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_real_coco_files_pass(shared, split):
    folder = shared / "data" / "coco_permissive"
    report = check_coco_json(
        str(folder / "annotations" / f"instances_{split}.json"), str(folder / split)
    )
    assert not report.problems, str(report)
    assert len(report.classes) == 80


@pytest.mark.parametrize("counts", [[2**62] * 4 + [HEIGHT * WIDTH], [2**32 - 1, 0] * 50])
def test_loading_checks_run_lengths_before_compressing_them(tmp_path, images, counts):
    content = sound_content()
    content["annotations"][2]["segmentation"]["counts"] = counts
    name = "test_hostile_counts"
    try:
        register_coco_json(name, write(tmp_path, content), str(images))
        with pytest.raises(DatasetError, match="annotation id 103 of image id 9: RLE counts"):
            DatasetCatalog.get(name)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
