"""Fields of files in COCO's formats have the types and ranges that readers rely on."""

import json

import pytest
from fuzzing import one_line
from sound_files import panoptic_content

from mask2former.data import DatasetError, check_panoptic_json, register_coco_json
from mask2former.data.coco_format import check_records, classes_of, read_coco, read_results
from mask2former_runtime.text import one_line as shortened

PARTS = {
    "images": "id file_name height? width?",
    "annotations": "image_id segments_info",
    "segments_info": "id category_id iscrowd?",
    "categories": "id name isthing",
}


def refused(path, content):
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError) as caught:
        read_coco(path, PARTS)
    assert one_line(caught.value, path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("field", "right", "wrong"),
    [
        ("id", [1, 0, -5, "a", 2**63 - 1], [None, True, 1.0, 2**63, 10**400, [], {}]),
        ("image_id", [1, "a"], [None, False, 10**30]),
        ("category_id", [0, 5], [None, True, -1, 1.5, "1", 10**30, [1]]),
        ("height", [1, 5000], [None, 0, -3, 2.0, "3", True, 10**30]),
        ("iscrowd", [0, 1, True], ["0", 2, [], float("nan")]),
        ("bbox", [[1, 2.5, 3, 4], [0] * 4], [[1, 2, 3], [1, 2, 3, True], "1234", [10**400] * 4]),
        ("area", [0, 2.5], [-1, "9", float("nan"), float("inf"), 1e308, 10**400, True]),
        ("score", [0.5, -1, 3], [float("nan"), float("inf"), "1", None, [1]]),
        ("segmentation", [[], {}, [[1]]], ["", 5, None]),
        ("name", ["cat", "a b", "\u00fc", "two\nlines"], ["", 5, None, "\ud800", "a\0b"]),
        ("file_name", ["a/b.png", "\u00fc.jpg"], ["", "\ud800", "a\nb", "a\x1cb", "\u2028", 5]),
    ],
)  # fmt: skip
def test_values(field, right, wrong):
    for value in right:
        check_records([{field: value}], field, "file: annotations")
    for value in wrong:
        with pytest.raises(DatasetError, match=rf"^file: annotations\[0\].*'{field}' is") as caught:
            check_records([{field: value}], field, "file: annotations")
        assert one_line(caught.value, "file")
    with pytest.raises(DatasetError, match=rf"\[0\] has no '{field}'"):
        check_records([{}], field, "file: annotations")
    check_records([{}, {field: None}, {field: right[0]}], f"{field}?", "file: annotations")


def test_places_are_named(tmp_path):
    path = tmp_path / "panoptic.json"
    content = panoptic_content()
    path.write_text(json.dumps(content))
    assert read_coco(path, PARTS) == content
    for change, message in (
        (lambda c: c["images"][1].update(id=1), r"images[0] and [1] have the same id, 1"),
        (lambda c: c["annotations"].append(5), "annotations[2] is not an object"),
        (
            lambda c: c["annotations"][1]["segments_info"][0].update(id="7"),
            "annotations[1] segments_info[0]: 'id' is '7', but must be a whole number",
        ),
        (
            lambda c: c["annotations"][1]["segments_info"][2].update(id=7),
            "annotations[1] segments_info[0] and [2] have the same id, 7",
        ),
        (lambda c: c.pop("categories"), "there is no list 'categories'"),
        (lambda c: c.update(images={}), "there is no list 'images'"),
        (lambda c: c["categories"][0].update(id="4"), "categories[0]: 'id' is '4'"),
    ):
        content = panoptic_content()
        change(content)
        assert message in refused(path, content)
    for content in ([], 5, None, "text"):
        assert "not an object" in refused(path, content)
    with pytest.raises(DatasetError, match="holds no list"):
        read_results(path, "id")


def test_unusable_colours_are_left_out():
    for color in ("red", [1, 2], [1, 2, 300], [1, 2, None], None, [True, 1, 2]):
        assert classes_of([{"id": 1, "name": "cat", "color": color}]).colors is None
    assert classes_of([{"id": 1, "name": "cat", "color": [1, 2, 255]}]).colors == ((1, 2, 255),)


@pytest.mark.parametrize("categories", [5, [5], [{"id": 1}], [{"id": [], "name": "a"}]])
def test_classes_of_a_file_are_checked_when_it_is_registered(tmp_path, categories):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"categories": categories}))
    with pytest.raises(DatasetError, match=str(path)):
        register_coco_json("test_coco_format", str(path), str(tmp_path))


def test_reports_stay_short_whatever_names_are(tmp_path):
    content = panoptic_content()
    for image in content["images"]:
        image["file_name"] = f"{image['id']}.jpg" * 400
    content["categories"][0]["name"] = "two\nlines\x1b[31m" * 400
    path = tmp_path / "panoptic.json"
    path.write_text(json.dumps(content))
    report = check_panoptic_json(str(path), str(tmp_path), str(tmp_path))
    for text in (str(report), report.summary()):
        assert max(map(len, text.splitlines())) < 1000 and "\x1b" not in text
    assert shortened("a\nb\x1b") == "a b "
    assert shortened("x" * 900) == "x" * 797 + "..."
