"""ADE20K's preparations against literal loops over pixels."""

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
from ade20k_tree import SPLITS, save, write_ade20k
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from mask2former.data import DatasetError, register_builtin
from mask2former.data.preparation import Ade20kInstance, Ade20kPanoptic, Ade20kSemantic, run


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("ade20k")
    write_ade20k(root)
    for job in (Ade20kSemantic, Ade20kInstance, Ade20kPanoptic):
        for split in SPLITS:
            run(job(root, split), quiet=True)
    return root / "ADEChallengeData2016"


@pytest.fixture(scope="module")
def thing_ids():
    return sorted(MetadataCatalog.get("ade20k_instance_val").thing_dataset_id_to_contiguous_id)


def pixels_of(path):
    return np.asarray(Image.open(path)).astype(int)


def names_of(tree, split):
    return sorted(path.stem for path in (tree / "images" / SPLITS[split]).iterdir())


def bounds(pixels):
    """Area and box of a list of (y, x)."""
    ys, xs = [y for y, _ in pixels], [x for _, x in pixels]
    box = [min(xs), min(ys), max(xs) - min(xs) + 1, max(ys) - min(ys) + 1]
    return {"area": len(pixels), "bbox": box}


def objects_of(tree, split, name):
    """Number of each object -> its class from 1 and its pixels."""
    picture = pixels_of(tree / "annotations_instance" / SPLITS[split] / f"{name}.png")
    objects = {}
    for y in range(picture.shape[0]):
        for x in range(picture.shape[1]):
            red, green, _ = picture[y, x].tolist()
            if green > 0:
                objects.setdefault(green, (red, []))[1].append((y, x))
    return objects


@pytest.mark.parametrize("split", SPLITS)
def test_semantic(tree, split):
    part = SPLITS[split]
    names = names_of(tree, split)
    assert sorted(p.stem for p in (tree / "annotations_detectron2" / part).iterdir()) == names
    seen = set()
    for name in names:
        before = pixels_of(tree / "annotations" / part / f"{name}.png")
        image = Image.open(tree / "annotations_detectron2" / part / f"{name}.png")
        after = np.asarray(image)
        assert image.mode == "L"
        assert after.shape == before.shape
        for y in range(after.shape[0]):
            for x in range(after.shape[1]):
                assert after[y, x] == (255 if before[y, x] == 0 else before[y, x] - 1)
        seen |= set(after.ravel().tolist())
    assert {149, 255} <= seen


@pytest.mark.parametrize("split", SPLITS)
def test_instances(tree, split, thing_ids):
    content = json.loads((tree / f"ade20k_instance_{split}.json").read_text())
    expected = []
    for name, image in zip(names_of(tree, split), content["images"], strict=True):
        width, height = Image.open(tree / "images" / SPLITS[split] / f"{name}.jpg").size
        first = {"train": 0, "val": 20210}[split]
        assert image == {
            "id": first + int(name[-8:]) - 1,
            "file_name": f"{name}.jpg",
            "width": width,
            "height": height,
        }
        for _, (red, pixels) in sorted(objects_of(tree, split, name).items()):
            expected.append((image["id"], thing_ids[red - 1], pixels))
    assert len(content["annotations"]) == len(expected) > 5
    for i, (annotation, (image_id, category_id, pixels)) in enumerate(
        zip(content["annotations"], expected, strict=True), start=1
    ):
        mask = mask_util.decode(annotation.pop("segmentation"))
        assert list(zip(*np.nonzero(mask), strict=True)) == sorted(pixels)
        assert annotation == {
            "id": i,
            "image_id": image_id,
            "category_id": category_id,
            "iscrowd": 0,
            **bounds(pixels),
        }


@pytest.mark.parametrize("split", SPLITS)
def test_panoptic(tree, split, thing_ids):
    content = json.loads((tree / f"ade20k_panoptic_{split}.json").read_text())
    instances = json.loads((tree / f"ade20k_instance_{split}.json").read_text())
    assert content["images"] == instances["images"]
    hidden = 0
    for name, annotation in zip(names_of(tree, split), content["annotations"], strict=True):
        labels = pixels_of(tree / "annotations" / SPLITS[split] / f"{name}.png")
        regions = {}  # (0, class) or (1, object) -> category and pixels
        owner = {}
        for y in range(labels.shape[0]):
            for x in range(labels.shape[1]):
                if labels[y, x] > 0 and labels[y, x] - 1 not in thing_ids:
                    owner[y, x] = (0, labels[y, x] - 1)
        stuff = set(owner.values())
        for number, (red, pixels) in objects_of(tree, split, name).items():
            for position in pixels:
                owner[position] = (1, number, thing_ids[red - 1])
        for position, key in owner.items():
            regions.setdefault(key, []).append(position)
        hidden += len(stuff - regions.keys())

        assert annotation["file_name"] == f"{name}.png"
        picture = pixels_of(tree / f"ade20k_panoptic_{split}" / f"{name}.png")
        ids = picture[..., 0] + 256 * picture[..., 1] + 65536 * picture[..., 2]
        assert set(np.unique(ids)) - {0} == {s["id"] for s in annotation["segments_info"]}
        for segment, key in zip(annotation["segments_info"], sorted(regions), strict=True):
            positions = sorted(regions[key])
            assert list(zip(*np.nonzero(ids == segment.pop("id")), strict=True)) == positions
            assert segment == {"category_id": key[-1], "iscrowd": 0, **bounds(positions)}
    if split == "train":
        assert hidden > 0  # there is stuff that objects cover wholly


def test_categories_are_the_registered_ones(tree):
    for split in SPLITS:
        content = json.loads((tree / f"ade20k_panoptic_{split}.json").read_text())
        metadata = MetadataCatalog.get(f"ade20k_panoptic_{split}")
        categories = content["categories"]
        assert [c["name"] for c in categories] == metadata.stuff_classes
        assert [c["color"] for c in categories] == metadata.stuff_colors
        things = [c["id"] for c in categories if c["isthing"] == 1]
        assert things == list(metadata.thing_dataset_id_to_contiguous_id)
        content = json.loads((tree / f"ade20k_instance_{split}.json").read_text())
        metadata = MetadataCatalog.get(f"ade20k_instance_{split}")
        assert [c["name"] for c in content["categories"]] == metadata.thing_classes
        assert [c["id"] for c in content["categories"]] == things


def test_registered_sets_load(tree):
    datasets, metadata = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    try:
        register_builtin(tree.parent)
        records = DatasetCatalog.get("ade20k_instance_train")
        panoptic = DatasetCatalog.get("ade20k_panoptic_train")
    finally:
        DatasetCatalog.data, MetadataCatalog.data = datasets, metadata
    assert [r["image_id"] for r in records] == [r["image_id"] for r in panoptic]
    for record, other in zip(records, panoptic, strict=True):
        things = [s["category_id"] for s in other["segments_info"] if s["isthing"]]
        ids = sorted(metadata["ade20k_instance_train"].thing_dataset_id_to_contiguous_id)
        assert [ids[a["category_id"]] for a in record["annotations"]] == things


def test_ids_are_the_published_ones(shared):
    published = json.loads((shared / "reference" / "ade20k_instance_imgCatIds.json").read_text())
    images = {image["file_name"]: image["id"] for image in published["images"]}
    for split, count in (("train", 20210), ("val", 2000)):
        job = Ade20kInstance("nowhere", split)
        for number in range(1, count + 1):
            name = f"ADE_{split}_{number:08d}"
            assert images[f"{name}.jpg"] == job.image_id(name)
    lines = (
        (shared / "reference" / "ade20k_instance_catid_mapping.txt").read_text().splitlines()[1:]
    )
    published = {int(line.split()[0]): int(line.split()[1]) - 1 for line in lines}
    things = [c["id"] for c in Ade20kInstance("nowhere", "val").classes if c["isthing"]]
    assert published == dict(enumerate(things, start=1))


@pytest.fixture
def broken(tmp_path):
    return write_ade20k(tmp_path, train=3, val=1)


def names_and_paths(folder, kind):
    return sorted((folder / kind / "training").iterdir())


@pytest.mark.parametrize(
    ("missing", "job", "source"),
    [
        ("images", Ade20kSemantic, r"ADEChallengeData2016\.zip"),
        ("annotations", Ade20kPanoptic, r"ADEChallengeData2016\.zip"),
        ("annotations_instance", Ade20kInstance, r"annotations_instance\.tar"),
        ("annotations_instance", Ade20kPanoptic, r"annotations_instance\.tar"),
    ],
)
def test_missing_folder(broken, missing, job, source):
    (broken / missing).rename(broken / "elsewhere")
    with pytest.raises(DatasetError, match=rf"^{broken}/{missing}/training: there is no.*{source}"):
        run(job(broken.parent, "train"), quiet=True)


def test_missing_label_map(broken):
    path = names_and_paths(broken, "annotations")[1]
    path.unlink()
    with pytest.raises(DatasetError, match=rf"^1 of 3 images have no label map: {path}\. ADE"):
        run(Ade20kSemantic(broken.parent, "train"), quiet=True)


def test_no_images_and_strange_names(broken):
    save(broken / "images/training/ADE_val_00000001.jpg", np.zeros((2, 2, 3)))
    with pytest.raises(DatasetError, match="ADE_val_00000001: not names of images of this split"):
        run(Ade20kSemantic(broken.parent, "train"), quiet=True)
    for path in names_and_paths(broken, "images"):
        path.unlink()
    with pytest.raises(DatasetError, match=r"images/training: there are no images \(\*\.jpg\)"):
        run(Ade20kSemantic(broken.parent, "train"), quiet=True)


def test_wrong_contents_are_listed_and_the_rest_is_made(broken):
    first, second, third = names_and_paths(broken, "annotations")
    save(first, np.full(pixels_of(first).shape, 151))
    save(second, np.zeros((5, 4)))
    with pytest.raises(DatasetError) as error:
        run(Ade20kSemantic(broken.parent, "train"), quiet=True)
    text = str(error.value)
    assert "2 of 3 files cannot be made" in text
    assert f"{first} has the label 151; those of ADE20K with 150 classes are 0 to 150" in text
    assert f"{second} is 4 x 5 pixels" in text
    made = list((broken / "annotations_detectron2/training").iterdir())
    assert [path.name for path in made] == [third.name]


def test_damaged_image(broken):
    path = names_and_paths(broken, "images")[0]
    path.write_bytes(b"no image")
    with pytest.raises(DatasetError, match=f"{path}: not an image"):
        run(Ade20kInstance(broken.parent, "train"), quiet=True)
    assert not (broken / "ade20k_instance_train.json").exists()


@pytest.mark.parametrize(("classes", "message"), [([4, 6], "4, 6"), ([0], "0"), ([101], "101")])
def test_objects_of_wrong_classes(broken, classes, message):
    path = names_and_paths(broken, "annotations_instance")[0]
    objects = np.zeros_like(pixels_of(path))
    objects[1, : len(classes), 0] = classes
    objects[1, : len(classes), 1] = 8
    save(path, objects)
    for job in (Ade20kInstance, Ade20kPanoptic):
        expected = rf"{path}: the pixels of object 8 \(G\) have the classes {message} \(R\)"
        with pytest.raises(DatasetError, match=expected):
            run(job(broken.parent, "train"), quiet=True)
