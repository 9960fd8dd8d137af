import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco_panoptic import load_coco_panoptic_json
from PIL import Image

from mask2former.data import DatasetError, register_coco_panoptic
from mask2former.data.datasets.coco_panoptic import load_coco_panoptic
from mask2former.structures import Classes

# As in ADE20K, things are not the first classes.
CATEGORIES = [
    {"id": 3, "name": "wall", "isthing": 0, "color": [1, 2, 3]},
    {"id": 5, "name": "bed", "isthing": 1, "color": [4, 5, 6]},
    {"id": 9, "name": "sky", "isthing": 0, "color": [7, 8, 9]},
]
CLASSES = Classes.from_categories(CATEGORIES)
CONTENT = {
    "images": [
        {"id": "two", "file_name": "two.jpeg", "height": 3, "width": 4},
        {"id": "one", "file_name": "one.jpg", "height": 3, "width": 4},
    ],
    "annotations": [
        {
            "image_id": "one",
            "file_name": "one.png",
            "segments_info": [
                {"id": 70, "category_id": 5, "area": 4, "bbox": [0, 0, 2, 2], "iscrowd": 1},
                {"id": 90, "category_id": 3, "area": 8, "bbox": [0, 0, 4, 3]},
            ],
        },
        {"image_id": "two", "file_name": "two.png", "segments_info": []},
    ],
    "categories": CATEGORIES,
}


@pytest.fixture
def content():
    return copy.deepcopy(CONTENT)


@pytest.fixture
def root(tmp_path):
    for name in ("images/one.jpg", "images/two.jpeg", "png/one.png", "png/two.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def load(root, content, **kwargs):
    (root / "panoptic.json").write_text(json.dumps(content))
    folders = (str(root / name) for name in ("panoptic.json", "png", "images"))
    return load_coco_panoptic(
        *folders, **{"classes": Classes.from_categories(CATEGORIES), **kwargs}
    )


def test_dataset_dicts(root, content):
    one, two = load(root, content)
    assert one == {
        "file_name": f"{root}/images/one.jpg",
        "height": 3,
        "width": 4,
        "image_id": "one",
        "pan_seg_file_name": f"{root}/png/one.png",
        "segments_info": [
            {"id": 70, "category_id": 1, "isthing": True, "iscrowd": 1, "area": 4,
             "bbox": [0, 0, 2, 2]},
            {"id": 90, "category_id": 0, "isthing": False, "iscrowd": 0, "area": 8,
             "bbox": [0, 0, 4, 3]},
        ],
    }  # fmt: skip
    assert two["file_name"] == f"{root}/images/two.jpeg"
    assert two["segments_info"] == []


def panoptic_metadata(categories):
    return Classes.from_categories(categories).to_metadata("panoptic")


def test_metadata():
    assert panoptic_metadata(CATEGORIES) == {
        "thing_classes": ["bed"],
        "stuff_classes": ["wall", "bed", "sky"],
        "thing_colors": [[4, 5, 6]],
        "stuff_colors": [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
        "thing_dataset_id_to_contiguous_id": {5: 1},
        "stuff_dataset_id_to_contiguous_id": {3: 0, 5: 1, 9: 2},
    }
    without = [{**CATEGORIES[0]}, {k: v for k, v in CATEGORIES[1].items() if k != "color"}]
    assert not {"thing_colors", "stuff_colors"} & panoptic_metadata(without).keys()
    with pytest.raises(ValueError, match="2 categories have 1 different ids"):
        panoptic_metadata([CATEGORIES[0], CATEGORIES[0]])


def test_categories_are_read_from_the_json_in_the_order_of_ids(root, content):
    content["categories"] = CATEGORIES[::-1]
    (root / "panoptic.json").write_text(json.dumps(content))
    name = f"panoptic_{root.name}"
    register_coco_panoptic(
        name, str(root / "panoptic.json"), str(root / "png"), str(root / "images"), label_divisor=7
    )
    metadata = MetadataCatalog.get(name)
    assert metadata.stuff_classes == ["wall", "bed", "sky"]
    assert metadata.label_divisor == 7
    assert metadata.json_file is None
    assert metadata.get("sem_seg_root") is None
    assert DatasetCatalog.get(name) == load(root, content)


def test_semantic_label_maps(root, content, caplog):
    folder = root / "semantic"
    with caplog.at_level("INFO"):
        records = load(root, content, sem_seg_root=str(folder))
    assert f"The folder {folder} does not exist" in caplog.text
    assert not any("sem_seg_file_name" in record for record in records)
    folder.mkdir()
    (folder / "one.png").touch()
    with pytest.raises(DatasetError, match=rf"1 of 2 label maps .* missing: {folder}/two\.png"):
        load(root, content, sem_seg_root=str(folder))
    (folder / "two.png").touch()
    records = load(root, content, sem_seg_root=str(folder))
    assert [r["sem_seg_file_name"] for r in records] == [f"{folder}/one.png", f"{folder}/two.png"]


def test_detectron2_reads_the_same_from_the_synthetic_set(shapes):
    name = "synthetic_shapes_panoptic_train"
    metadata = MetadataCatalog.get(name)
    theirs = load_coco_panoptic_json(
        metadata.panoptic_json, metadata.image_root, metadata.panoptic_root, metadata.as_dict()
    )
    ours = DatasetCatalog.get(name)
    assert len(ours) == 12
    for record in ours:
        assert Image.open(record["file_name"]).size == (record["width"], record["height"])
        assert Path(record["sem_seg_file_name"]).is_file()
    extra = {"height", "width", "sem_seg_file_name"}
    assert [{k: v for k, v in r.items() if k not in extra} for r in ours] == theirs


def test_coco_sample(shared):
    sample = shared / "data/coco_panoptic_sample/sample_data"
    metadata = MetadataCatalog.get("coco_2017_val_panoptic_with_sem_seg")
    content = json.loads((sample / "panoptic_examples.json").read_text())
    paths = (sample / name for name in ("panoptic_examples.json", "panoptic_examples"))
    records = load_coco_panoptic(
        *map(str, paths),
        str(sample / "input_images"),
        classes=Classes.from_categories(content["categories"]),
    )
    assert [record["image_id"] for record in records] == [142238, 439180]
    for record, annotation in zip(records, content["annotations"], strict=True):
        rgb = np.asarray(Image.open(record["pan_seg_file_name"])).astype(int)
        ids = rgb @ [1, 256, 65536]
        for segment, original in zip(
            record["segments_info"], annotation["segments_info"], strict=True
        ):
            assert (ids == segment["id"]).sum() == segment["area"]
            original_name = next(
                c["name"] for c in content["categories"] if c["id"] == original["category_id"]
            )
            assert metadata.stuff_classes[segment["category_id"]] == original_name
            assert segment["isthing"] == (segment["category_id"] < 80)


def test_missing_files_are_named(root, content):
    (root / "images/two.jpeg").unlink()
    with pytest.raises(
        DatasetError,
        match=rf"1 of 2 images that .* names .*: {root}/images/two\.jpeg\. Do",
    ):
        load(root, content, preparation="Do this.")
    (root / "images/two.jpeg").touch()
    shutil.rmtree(root / "png")
    with pytest.raises(DatasetError, match=rf"{root}/png: there is no such folder of panoptic PNG"):
        load(root, content)
    (root / "png").mkdir()
    with pytest.raises(DatasetError, match=r"2 of 2 panoptic PNG files .*one\.png, .*two\.png\."):
        load(root, content)
    (root / "panoptic.json").unlink()
    with pytest.raises(DatasetError, match=r"panoptic\.json: there is no such file .* Do this\."):
        load_coco_panoptic(
            str(root / "panoptic.json"),
            "",
            "",
            classes=CLASSES,
            preparation="Do this.",
        )


def broken(change):
    content = copy.deepcopy(CONTENT)
    change(content)
    return content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["annotations"][0]["segments_info"][1].update(category_id=4),
            r"image id 'one': segment id 90 has category_id 4; registered are \[3, 5, 9\]",
        ),
        (
            lambda c: c["annotations"][0]["segments_info"][1].update(id=70),
            r"annotations\[0\] segments_info\[0\] and \[1\] have the same id, 70",
        ),
        (
            lambda c: c["annotations"][0]["segments_info"][1].pop("id"),
            r"annotations\[0\] segments_info\[1\] has no 'id': {'category_id': 3",
        ),
        (
            lambda c: c["annotations"][0].update(image_id="three"),
            "image id 'three' has an annotation, but is not in 'images'",
        ),
        (
            lambda c: c["annotations"][0].update(image_id="two"),
            "image id 'two' has two annotations",
        ),
        (
            lambda c: c["annotations"].pop(),
            r"1 of 2 images have no annotation: two\.jpeg",
        ),
        (lambda c: c.update(annotations=[]), "there are no annotations"),
        (lambda c: c.pop("categories"), "no list 'categories'"),
        (lambda c: c["annotations"][1].pop("segments_info"), r"annotations\[1\] has no 'segments"),
        (lambda c: c["images"][1].pop("width"), r"images\[1\] has no 'width'"),
    ],
)
def test_contradictions_are_named(root, change, message):
    with pytest.raises(DatasetError, match=rf"{root}/panoptic\.json: .*{message}"):
        load(root, broken(change))


@pytest.mark.parametrize("text", ["{", "[]", '"x"'])
def test_other_files_are_rejected(root, text):
    (root / "panoptic.json").write_text(text)
    with pytest.raises(DatasetError, match=r"panoptic\.json(: not | is not JSON)"):
        load_coco_panoptic(str(root / "panoptic.json"), "", "", classes=CLASSES)
