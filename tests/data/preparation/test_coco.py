"""Label maps of COCO's panoptic annotations against literal loops over pixels."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from mask2former.data import DatasetError, register_builtin
from mask2former.data.preparation import CocoSemantic, run

# COCO category id -> its place among the 133
PLACES = {1: 0, 90: 79, 92: 80, 200: 132}


@pytest.fixture
def root(tmp_path):
    """Three images in the folders of COCO, and the loader's registrations of them."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "coco"
    for name in ("annotations", "val2017", "panoptic_val2017"):
        (folder / name).mkdir(parents=True)
    images, annotations = [], []
    for image_id in (139, 285, 632):
        name, (height, width) = f"{image_id:012d}", rng.integers(8, 20, 2).tolist()
        pixels = rng.integers(256, size=(height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"val2017/{name}.jpg")
        segments = rng.choice(1 << 24, 4, replace=False).tolist()
        ids = rng.choice([0, *segments], (height, width))
        picture = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"panoptic_val2017/{name}.png")
        images.append(
            {"id": image_id, "file_name": f"{name}.jpg", "height": height, "width": width}
        )
        infos = [
            {"id": i, "category_id": c, "iscrowd": int(c == 1)}
            for i, c in zip(segments, PLACES, strict=True)
        ]
        infos.append({"id": 5, "category_id": 3, "iscrowd": 0})  # without pixels
        annotations.append(
            {"image_id": image_id, "file_name": f"{name}.png", "segments_info": infos}
        )
    content = {"images": images, "annotations": annotations, "categories": []}
    (folder / "annotations/panoptic_val2017.json").write_text(json.dumps(content))
    return tmp_path


def check_label_maps(folder, content, places):
    for annotation in content["annotations"]:
        picture = np.asarray(Image.open(folder / "panoptic_val2017" / annotation["file_name"]))
        image = Image.open(folder / "panoptic_semseg_val2017" / annotation["file_name"])
        labels = np.asarray(image)
        assert image.mode == "L"
        of_segment = {s["id"]: places[s["category_id"]] for s in annotation["segments_info"]}
        for y, row in enumerate(picture.tolist()):
            for x, (red, green, blue) in enumerate(row):
                expected = of_segment.get(red + 256 * green + 65536 * blue, 255)
                assert labels[y, x] == expected


def test_label_maps(root):
    assert run(CocoSemantic(root, "val"), quiet=True) == 3
    content = json.loads((root / "coco/annotations/panoptic_val2017.json").read_text())
    check_label_maps(root / "coco", content, {**PLACES, 3: 2})
    assert len(list((root / "coco/panoptic_semseg_val2017").iterdir())) == 3
    datasets, metadata = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    try:
        register_builtin(root)
        records = DatasetCatalog.get("coco_2017_val_panoptic_with_sem_seg")
    finally:
        DatasetCatalog.data, MetadataCatalog.data = datasets, metadata
    assert all(Path(record["sem_seg_file_name"]).is_file() for record in records)


def test_real_annotations(shared, tmp_path):
    sample = shared / "data/coco_panoptic_sample/sample_data"
    folder = tmp_path / "coco"
    for source, target in (("input_images", "val2017"), ("panoptic_examples", "panoptic_val2017")):
        shutil.copytree(sample / source, folder / target)
    (folder / "annotations").mkdir()
    target = folder / "annotations/panoptic_val2017.json"
    shutil.copy(sample / "panoptic_examples.json", target)
    assert run(CocoSemantic(tmp_path, "val"), quiet=True) == 2
    content = json.loads(target.read_text())
    ids = sorted(category["id"] for category in content["categories"])
    check_label_maps(folder, content, {c: i for i, c in enumerate(ids)})


def test_unknown_ids(root):
    path = root / "coco/panoptic_val2017/000000000285.png"
    with Image.open(path) as image:
        picture = image.copy()
    picture.putpixel((0, 0), (6, 1, 0))
    picture.save(path)
    with pytest.raises(DatasetError, match=rf"1 of 3 .*\n.*{path} has the segment id 262, which"):
        run(CocoSemantic(root, "val"), quiet=True)


@pytest.mark.parametrize(
    ("missing", "what"),
    [
        ("annotations", "file of panoptic annotations"),
        ("val2017", "folder of images"),
        ("panoptic_val2017", "folder of panoptic PNG files"),
    ],
)
def test_missing_folders(root, missing, what):
    shutil.rmtree(root / "coco" / missing)
    with pytest.raises(DatasetError, match=rf"coco/{missing}\S*: there is no such {what}.*COCO's"):
        run(CocoSemantic(root, "val"), quiet=True)
