"""A set trains in the same way in whatever format it comes."""

import json
import shutil

import pytest
from format_sets import convert, write_coco
from support import TINY

from mask2former.cli.main import main
from mask2former.report.run_metrics import read_metrics


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    root = tmp_path_factory.mktemp("sound")
    splits = [("train", 6), ("val", 2)]
    write_coco(root / "polygons", splits, only_polygons=True)
    convert(root / "polygons", root / "yolo", "yolo")
    write_coco(root / "coco", splits)
    for to in ("labelme", "masks", "color-maps", "label-maps"):
        convert(root / "coco", root / to, to)
    convert(root / "masks", root / "coco_of_masks", "coco")
    return root


def losses(data, output, task="instance"):
    """All losses of a short run, and its evaluation."""
    options = [*TINY, "TEST.EVAL_PERIOD", 3, "SOLVER.MAX_ITER", 3, "SOLVER.IMS_PER_BATCH", 2]
    arguments = ["--data", str(data), "--output", str(output), "--model", f"quickstart/{task}"]
    arguments += ["--opts", *map(str, options), "INPUT.CROP.SIZE", "[64, 64]"]
    assert main(["train", *arguments]) == 0
    found = {}
    for row in read_metrics(output / "metrics.json"):
        found |= {key: value for key, value in row.items() if "loss" in key or "/AP" in key}
    assert sum("loss" in key for key in found) > 5
    return found


def test_first_losses_of_objects(sound, tmp_path):
    """Polygons stay polygons, which augmentation moves more exactly than masks."""
    for one, other in (("polygons", "yolo"), ("coco_of_masks", "masks"), ("coco", "labelme")):
        first = losses(sound / one, tmp_path / one)
        second = losses(sound / other, tmp_path / other)
        assert second == pytest.approx(first, rel=1e-6, nan_ok=True), other
    changed = shutil.copytree(sound / "labelme", tmp_path / "changed")
    for file in (changed / "train").glob("*.json"):
        content = json.loads(file.read_text())
        content["shapes"] = content["shapes"][:1]
        file.write_text(json.dumps(content))
    assert losses(changed, tmp_path / "run") != pytest.approx(first, rel=1e-3, nan_ok=True)


def test_first_losses_of_label_maps(sound, tmp_path):
    first = losses(sound / "label-maps", tmp_path / "numbers", "semantic")
    second = losses(sound / "color-maps", tmp_path / "colors", "semantic")
    assert second == pytest.approx(first, rel=1e-6, nan_ok=True)
