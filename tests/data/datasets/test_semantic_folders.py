import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_sem_seg
from PIL import Image

from mask2former.data import DatasetError, register_semantic_folders
from mask2former.data.datasets.semantic_folders import load_semantic_folders


def write(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((3, 4), np.uint8)).save(path)


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "images", tmp_path / "labels"


def load(folders, **kwargs):
    return load_semantic_folders(*map(str, folders), **kwargs)


def test_pairs_equal_those_of_detectron2(folders):
    images, labels = folders
    write(images, "b.jpg", "a.jpg", "10.jpg", "9.jpg")
    write(labels, "a.png", "9.png", "b.png", "10.png")
    ours = load(folders)
    theirs = load_sem_seg(str(labels), str(images))
    assert [{k: v for k, v in r.items() if k != "image_id"} for r in ours] == theirs
    assert [record["image_id"] for record in ours] == ["10", "9", "a", "b"]


def test_synthetic_set(shapes):
    records = DatasetCatalog.get("synthetic_shapes_semantic_val")
    metadata = MetadataCatalog.get("synthetic_shapes_semantic_val")
    assert len(records) == 4
    for record in records:
        labels = np.unique(np.asarray(Image.open(record["sem_seg_file_name"])))
        assert set(labels) <= {*range(len(metadata.stuff_classes)), metadata.ignore_label}


def test_subfolders_kinds_of_files_and_case(folders):
    images, labels = folders
    write(images, "x/1.JPG", "x/2.png", "y/1.tif", "3.jpeg")
    write(labels, "x/1.png", "x/2.tif", "y/1.PNG", "3.tiff")
    (images / "notes.txt").write_text("not an image")
    write(images, ".hidden.jpg", ".cache/4.jpg")
    records = {record["image_id"]: record for record in load(folders)}
    assert list(records) == ["3", "x/1", "x/2", "y/1"]
    assert records["y/1"]["file_name"] == str(images / "y/1.tif")
    assert records["y/1"]["sem_seg_file_name"] == str(labels / "y/1.PNG")


def test_suffixes_longer_than_extensions(folders):
    images, labels = folders
    write(images, "aachen/1_leftImg8bit.png", "aachen/1_depth.png")
    write(labels, "aachen/1_labelTrainIds.png", "aachen/1_color.png")
    (record,) = load(
        folders, image_suffixes=["_leftImg8bit.png"], label_suffixes=["_labelTrainIds.png"]
    )
    assert record["image_id"] == "aachen/1"
    assert record["sem_seg_file_name"].endswith("aachen/1_labelTrainIds.png")


def test_files_without_counterpart_are_named(folders):
    images, labels = folders
    write(images, *(f"{i}.jpg" for i in range(10)))
    write(labels, "0.png", "1.png", "extra.png")
    with pytest.raises(DatasetError) as error:
        load(folders, preparation="Do this.")
    assert str(error.value) == (
        f"8 of 10 images have no label map in {labels}: "
        + ", ".join(f"{images}/{i}.jpg" for i in range(2, 7))
        + f" and 3 more; 1 of 3 label maps have no image in {images}: {labels}/extra.png; Do this."
    )


def test_two_files_of_the_same_name(folders):
    images, labels = folders
    write(images, "1.jpg", "1.png")
    write(labels, "1.png")
    with pytest.raises(DatasetError, match=rf"{images}/1\.\w+ and {images}/1\.\w+: two images"):
        load(folders)


@pytest.mark.parametrize("which", [0, 1])
def test_missing_and_empty_folders(folders, which):
    write(folders[1 - which], "1.png")
    what = ("folder of images", "folder of label maps")[which]
    with pytest.raises(DatasetError, match=rf"^{folders[which]}: there is no such {what}.*Do this"):
        load(folders, preparation="Do this.")
    folders[which].mkdir()
    what = ("images", "label maps")[which]
    with pytest.raises(DatasetError, match=rf"^{folders[which]}: there are no {what} \(\.\w+, "):
        load(folders)


def test_registration_reads_nothing_and_sets_metadata(tmp_path, monkeypatch):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    name = f"folders_{tmp_path.name}"
    register_semantic_folders(
        name,
        "missing/images",
        "missing/labels",
        classes=("sky", "sea"),
        colors=[(1, 2, 3), (4, 5, 6)],
        ignore_label=65535,
        stuff_dataset_id_to_contiguous_id={3: 0, 9: 1},
    )
    metadata = MetadataCatalog.get(name).as_dict()
    assert metadata == {
        "name": name,
        "image_root": "missing/images",
        "sem_seg_root": "missing/labels",
        "evaluator_type": "sem_seg",
        "ignore_label": 65535,
        "stuff_classes": ["sky", "sea"],
        "stuff_colors": [[1, 2, 3], [4, 5, 6]],
        "stuff_dataset_id_to_contiguous_id": {3: 0, 9: 1},
    }
    with pytest.raises(DatasetError, match="set DETECTRON2_DATASETS"):
        DatasetCatalog.get(name)


def test_too_few_colors(tmp_path):
    with pytest.raises(ValueError, match="data set rainbow: 1 colours for 2 classes"):
        register_semantic_folders("rainbow", "a", "b", classes=["x", "y"], colors=[(0, 0, 0)])
    assert "rainbow" not in DatasetCatalog
