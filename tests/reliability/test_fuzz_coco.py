"""Damaged COCO instance files: what the check accepts can be loaded, trained on and evaluated."""

import contextlib
import functools
import io
import json
import os
import random

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from fuzzing import cases, mutated_bytes, mutated_json, run_cases
from PIL import Image
from sound_files import HEIGHT, WIDTH, instance_content

from mask2former.data.checks import check_coco_json
from mask2former.data.datasets.coco_instances import register_coco_json
from mask2former.data.mapper.targets import instance_targets
from mask2former.evaluation.average_precision import (
    integer_image_ids,
    load_ground_truth,
    match_results,
)
from mask2former_runtime.files import read_json


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz_coco")
    for name in ("1.png", "2.png"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / name)
    return folder


def use(path, folder):
    """Do with a file what a run does; nothing but a report with errors may stop it."""
    with contextlib.redirect_stderr(io.StringIO()):
        report = check_coco_json(str(path), str(folder))
    text = f"{report}\n{report.summary()}"
    text.encode()
    assert max(map(len, text.splitlines())) < 1000
    if report.num_errors:
        return report
    name = f"fuzz_{path.name}"
    try:
        register_coco_json(name, str(path), str(folder))
        for record in DatasetCatalog.get(name):
            size = record["height"], record["width"]
            instance_targets(record, size, T.TransformList([T.NoOpTransform()]), size, None)
    finally:
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
    content = read_json(path)
    numbers = integer_image_ids({image["id"] for image in content["images"]})
    truth = load_ground_truth(content, numbers)
    image, category = content["images"][0], content["categories"][0]["id"]
    result = {
        "image_id": numbers[image["id"]],
        "category_id": category,
        "score": 0.5,
        "bbox": [1, 1, 5, 5],
        "segmentation": {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]},
    }
    categories = sorted(c["id"] for c in content["categories"])
    for task in ("bbox", "segm"):
        match_results(truth, [dict(result)], task, [1, 10, 100], categories, None)
    return report


def sound_file(folder, seed):
    path = folder / "sound.json"
    path.write_text(json.dumps(instance_content()))
    assert not use(path, folder).num_errors


def damaged_values(folder, seed):
    path = folder / f"{seed}.json"
    path.write_text(json.dumps(mutated_json(instance_content(), random.Random(seed))))
    use(path, folder)
    path.unlink()


def damaged_bytes(folder, seed):
    path = folder / f"{seed}.json"
    path.write_bytes(mutated_bytes(json.dumps(instance_content()).encode(), random.Random(seed)))
    use(path, folder)
    path.unlink()


@pytest.mark.parametrize(
    ("case", "number"), [(sound_file, 1), (damaged_values, cases()), (damaged_bytes, cases(100))]
)
def test_files_are_reported_or_usable(folder, case, number):
    run_cases(functools.partial(case, folder), number)


@pytest.mark.parametrize("what", ["fifo", "device", "nested", "long number", "folder"])
def test_what_is_no_file_of_json_is_one_line(tmp_path, what):
    path = tmp_path / "truth.json"
    if what == "fifo":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    elif what == "folder":
        path.mkdir()
    else:
        path.write_text("[" * 200_000 if what == "nested" else "9" * 100_000)
    report = check_coco_json(str(path), str(tmp_path))
    assert report.num_errors == 1 and len(report.problems[0].detail.splitlines()) == 1
    with pytest.raises(ValueError, match=r"truth\.json"):
        read_json(path)
