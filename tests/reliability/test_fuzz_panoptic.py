"""Damaged panoptic files: what the check accepts can be trained on and evaluated."""

import contextlib
import functools
import io
import json
import os
import random

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from fuzzing import cases, mutated_bytes, mutated_json, one_line, run_cases
from label_files import id_colors, save
from sound_files import HEIGHT, IDS, WIDTH, panoptic_content

from mask2former.data import DatasetError, check_panoptic_json, register_coco_panoptic
from mask2former.data.mapper.segments import read_segments
from mask2former.evaluation.ground_truth import PanopticTruth
from mask2former.evaluation.panoptic_quality import match_segments, panoptic_quality


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz_panoptic")
    for i in (1, 2):
        save(folder / f"{i}.jpg", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        save(folder / f"{i}.png", id_colors(IDS))
    return folder


def use(path, folder):
    """Do with a file what a run does."""
    images = str(folder)
    with contextlib.redirect_stderr(io.StringIO()):
        report = check_panoptic_json(str(path), images, images)
    text = f"{report}\n{report.summary()}"
    text.encode()
    assert max(map(len, text.splitlines())) < 1000
    try:
        train_and_evaluate(path, images)
    except DatasetError as error:
        assert one_line(error, path.parent)
        assert report.num_errors, error
    return report


def train_and_evaluate(path, images):
    name = f"fuzz_{path.name}"
    try:
        register_coco_panoptic(name, str(path), images, images)
        for record in DatasetCatalog.get(name):
            read_segments(record, (HEIGHT, WIDTH), len(MetadataCatalog.get(name).stuff_classes))
    finally:
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
    truth = PanopticTruth.from_json(str(path), images)
    json.dumps(truth.header)
    counts = []
    for image_id in truth.image_ids:
        ids = truth.read(image_id)
        whole = [{"id": 1, "category_id": truth.classes.ids[0]}]
        predicted = np.ones_like(ids)
        counts.append(match_segments(ids, truth.segments(image_id), predicted, whole).counts)
    panoptic_quality(counts, truth.classes)


def sound_file(folder, seed):
    path = folder / "sound.json"
    path.write_text(json.dumps(panoptic_content()))
    assert not use(path, folder).num_errors


def damaged(folder, seed):
    """Damage a value, a byte of the JSON or a PNG file."""
    rng = random.Random(seed)
    content, path, png = panoptic_content(), folder / f"{seed}.json", folder / f"png_{seed}.png"
    kind = rng.random()
    if kind < 0.6:
        path.write_text(json.dumps(mutated_json(content, rng)))
    elif kind < 0.75:
        path.write_bytes(mutated_bytes(json.dumps(content).encode(), rng))
    else:
        content["annotations"][0]["file_name"] = png.name
        path.write_text(json.dumps(content))
        png.write_bytes(mutated_bytes((folder / "1.png").read_bytes(), rng))
    use(path, folder)
    path.unlink()
    png.unlink(missing_ok=True)


def test_sound_files_are_accepted(folder):
    run_cases(functools.partial(sound_file, folder), 1)


def test_files_are_reported_or_usable(folder):
    run_cases(functools.partial(damaged, folder), cases())


@pytest.mark.parametrize("what", ["fifo", "device", "folder"])
@pytest.mark.parametrize("role", ["json", "png", "image"])
def test_what_is_no_regular_file_is_one_line(tmp_path, what, role):
    (tmp_path / "panoptic.json").write_text(json.dumps(panoptic_content()))
    for i in (1, 2):
        save(tmp_path / f"{i}.jpg", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        save(tmp_path / f"{i}.png", id_colors(IDS))
    path = tmp_path / {"json": "panoptic.json", "png": "1.png", "image": "1.jpg"}[role]
    path.unlink()
    if what == "fifo":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    report = check_panoptic_json(str(tmp_path / "panoptic.json"), str(tmp_path), str(tmp_path))
    (problem,) = report.errors
    assert path.name in str(problem) and "\n" not in str(problem)
    if role != "image":
        with pytest.raises(DatasetError, match=path.name):
            train_and_evaluate(tmp_path / "panoptic.json", str(tmp_path))
