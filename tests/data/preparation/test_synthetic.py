import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools.coco import COCO
from support import REPOSITORY

from mask2former.data import check_coco_json, register_synthetic
from mask2former.data.datasets.synthetic_shapes import STUFF_IDS, THING_CLASSES
from mask2former.data.preparation.synthetic import SEMANTIC_IGNORE, generate
from mask2former.data.preparation.synthetic_scenes import draw_scene

COUNTS = {"train": 24, "val": 6}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    return generate(root / "synthetic_shapes", **COUNTS, progress=False)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def panoptic_ids(path: Path) -> np.ndarray:
    rgb = np.asarray(Image.open(path)).astype(int)
    return rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]


@pytest.mark.parametrize("split", COUNTS)
def test_instances_panoptic_and_semantic_agree(shapes, split):
    coco = COCO(str(shapes / "annotations" / f"instances_{split}.json"))
    panoptic = json.loads((shapes / "annotations" / f"panoptic_{split}.json").read_text())
    contiguous = {c: i for i, c in enumerate([*sorted(coco.cats), *STUFF_IDS])}
    assert len(coco.imgs) == len(panoptic["annotations"]) == COUNTS[split]
    for entry in panoptic["annotations"]:
        ids = panoptic_ids(shapes / f"panoptic_{split}" / entry["file_name"])
        semantic = np.asarray(Image.open(shapes / f"semantic_{split}" / entry["file_name"]))
        segments = entry["segments_info"]
        assert set(np.unique(ids)) - {0} == {s["id"] for s in segments}
        assert (semantic[ids == 0] == SEMANTIC_IGNORE).all()
        for segment in segments:
            mask = ids == segment["id"]
            ys, xs = np.nonzero(mask)
            x, y, w, h = segment["bbox"]
            assert segment["area"] == mask.sum()
            assert (x, y, x + w, y + h) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            assert (semantic[mask] == contiguous[segment["category_id"]]).all()

        things = [s for s in segments if s["category_id"] not in STUFF_IDS]
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=entry["image_id"]))
        assert [a["category_id"] for a in annotations] == [s["category_id"] for s in things]
        for annotation, segment in zip(annotations, things, strict=True):
            mask, decoded = ids == segment["id"], coco.annToMask(annotation).astype(bool)
            assert annotation["area"] == segment["area"]
            assert annotation["bbox"] == segment["bbox"]
            if isinstance(annotation["segmentation"], dict):
                assert (mask == decoded).all()
            else:  # rasterised from the outline: only pixels on the border may differ
                assert (mask & decoded).sum() > 0.9 * (mask | decoded).sum()


def test_both_kinds_of_segmentation_and_every_class_occur(shapes):
    content = json.loads((shapes / "annotations" / "instances_train.json").read_text())
    kinds = {type(a["segmentation"]) for a in content["annotations"]}
    assert kinds == {list, dict}
    ids = [c["id"] for c in content["categories"]]
    assert {a["category_id"] for a in content["annotations"]} == set(ids)
    assert ids != list(range(1, len(ids) + 1)), "ids need a gap to find mistakes with ids"


def test_the_data_set_passes_the_check(shapes):
    for split in COUNTS:
        report = check_coco_json(
            str(shapes / "annotations" / f"instances_{split}.json"), str(shapes / split)
        )
        assert not report.problems, str(report)


def test_images_depend_on_seed_split_and_index_only(shapes, tmp_path):
    fewer = files_of(generate(tmp_path / "fewer", train=4, val=2, progress=False))
    other = files_of(generate(tmp_path / "other", train=4, val=2, seed=1, progress=False))
    pixels = [name for name in fewer if name.endswith((".png", ".jpg"))]
    assert len(pixels) == 3 * (4 + 2)
    whole = files_of(shapes)
    assert all(fewer[name] == whole[name] for name in pixels)
    assert all(fewer[name] != other[name] for name in pixels)
    assert fewer["train/000001.jpg"] != fewer["val/000001.jpg"]


def test_shapes_occlude_and_differ_from_the_ground():
    scenes = [draw_scene(np.random.default_rng(i), 128) for i in range(20)]
    assert 2 < np.mean([len(s.instances) for s in scenes]) < 6
    occluded = 0
    for scene in scenes:
        covered = np.zeros((128, 128), dtype=int)
        for instance in scene.instances:
            covered += instance.mask
            assert instance.mask.sum() >= 30
            hidden = instance.polygon is None and THING_CLASSES[instance.class_index] != "ring"
            occluded += hidden
        assert covered.max() == 1, "visible regions are disjoint"
    assert occluded > 10


def test_an_existing_set_is_reused_and_never_overwritten(tmp_path):
    folder = generate(tmp_path / "set", train=2, val=1, progress=False)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    generate(folder, train=2, val=1, progress=False)
    with pytest.raises(ValueError, match=r"train is 2, asked for 3"):
        generate(folder, train=3, val=1, progress=False)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"not a synthetic data set"):
        generate(tmp_path / "mine", train=2, val=1, progress=False)
    assert files_of(tmp_path / "mine") == {"thesis.txt": b"precious"}


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    drawn = []

    def interrupted(*args, **kwargs):
        drawn.append(args)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return draw_scene(*args, **kwargs)

    monkeypatch.setattr("mask2former.data.preparation.synthetic.draw_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "set", train=5, val=1, progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"train": 0}, {"val": 0}, {"size": 32}, {"seed": -1}])
def test_parameters_out_of_range_are_named(tmp_path, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        generate(tmp_path / "set", **wrong)
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path):
    command = [
        sys.executable,
        "-m",
        "mask2former.data.preparation.synthetic",
        "--output",
        tmp_path / "set",
    ]
    command += ["--train", "2", "--val", "1", "--size", "64"]
    root = REPOSITORY
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert str(tmp_path / "set") in run.stdout
    with Image.open(tmp_path / "set" / "train" / "000002.jpg") as image:
        assert image.size == (64, 64)
    failed = subprocess.run([*command, "--seed", "3"], cwd=root, capture_output=True, text=True)
    assert failed.returncode == 2
    assert "seed is 0, asked for 3" in failed.stderr


def test_registered_names(shapes):
    register_synthetic(shapes.parent)
    for split, count in COUNTS.items():
        name = f"synthetic_shapes_instance_{split}"
        dicts = DatasetCatalog.get(name)
        metadata = MetadataCatalog.get(name)
        assert len(dicts) == count
        assert metadata.thing_classes == list(THING_CLASSES)
        assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 2: 1, 3: 2, 5: 3, 8: 4}
        assert metadata.evaluator_type == "coco"
        assert all(0 <= a["category_id"] < 5 for d in dicts for a in d["annotations"])
