"""Damaged images: found before training, and in training the user chooses what happens."""

import json
import logging
import shutil
import subprocess
import sys
from itertools import islice

import pytest
from detectron2.utils.events import EventStorage
from PIL import Image
from support import QUICKSTART, REPOSITORY, TINY

from mask2former.data import (
    DatasetError,
    build_train_loader,
    check_coco_json,
    check_panoptic_json,
    check_semantic_folders,
    register_synthetic,
)
from mask2former.data.checks import image_files
from mask2former.data.checks.image_files import map_files, read_header
from mask2former.utils import progress

CLASSES = ["disk", "ring", "rectangle", "triangle", "star", "paper", "gravel"]


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-200])


@pytest.fixture
def damaged(shapes, tmp_path):
    """The synthetic data set with a training image that is cut off."""
    folder = shutil.copytree(shapes, tmp_path / "synthetic_shapes")
    path = sorted((folder / "train").iterdir())[3]
    cut_off(path)
    return folder, path.name


def check(task, folder, pixels=None):
    images = str(folder / "train")
    if task == "semantic":
        return check_semantic_folders(
            images, str(folder / "semantic_train"), CLASSES, pixels=pixels
        )
    if task == "instance":
        return check_coco_json(
            str(folder / "annotations/instances_train.json"), images, pixels=pixels
        )
    return check_panoptic_json(
        str(folder / "annotations/panoptic_train.json"),
        images,
        str(folder / "panoptic_train"),
        pixels=pixels,
    )


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_an_image_that_is_cut_off_is_found_before_training(damaged, task):
    folder, name = damaged
    assert isinstance(read_header(str(folder / "train" / name)), image_files.Header)
    for pixels in (None, True):
        report = check(task, folder, pixels)
        (problem,) = report.errors
        assert problem.kind == "image file cannot be read" and problem.file_name == name
        assert "truncated" in problem.detail and "\n" not in str(problem)
    assert not check(task, folder, False).num_errors


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_many_images_are_decoded_only_if_asked(damaged, task, monkeypatch):
    """What decoding would take is estimated from a sample."""
    folder, _ = damaged
    monkeypatch.setattr(image_files, "_SAMPLE", 3)
    monkeypatch.setattr(image_files, "_MAX_SECONDS", 0.0)
    report = check(task, folder)
    assert not report.num_errors
    (note,) = report.notes
    assert "headers of the 12 images" in note and "--full-pixel-check" in note
    assert note in report.summary()
    assert check(task, folder, True).num_errors == 1
    monkeypatch.setattr(image_files, "_MAX_SECONDS", 1000.0)
    report = check(task, folder)
    assert report.num_errors == 1 and not report.notes


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".bmp", ".gif", ".jp2"])
def test_decoding_finds_every_format_cut_off(tmp_path, suffix):
    path = tmp_path / f"photo{suffix}"
    Image.effect_noise((150, 120), 80).convert("RGB").save(path)
    assert isinstance(read_header(str(path), decode=True), image_files.Header)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert isinstance(read_header(str(path), decode=True), str)


def test_pixels_that_are_no_picture_are_found(tmp_path):
    Image.new("F", (8, 8)).save(tmp_path / "heights.tif")
    header = read_header(str(tmp_path / "heights.tif"), decode=True)
    assert "floating-point" in header.kind.picture_problem


def batches(cfg, number):
    loader = build_train_loader(cfg, seed=1)
    return loader, list(islice(iter(loader), number))


@pytest.mark.parametrize("workers", [0, 2])
def test_training_stops_with_one_line_or_goes_on(tiny_cfg, damaged, caplog, workers):
    folder, name = damaged
    register_synthetic(folder.parent)
    tiny_cfg.DATALOADER.NUM_WORKERS = workers
    with pytest.raises(DatasetError, match=rf"train/{name} .*cannot read the image") as caught:
        batches(tiny_cfg, 20)
    assert len(str(caught.value).splitlines()) == 1

    tiny_cfg.DATALOADER.BAD_IMAGES = "skip"
    with caplog.at_level(logging.WARNING, "mask2former"), EventStorage() as storage:
        loader, found = batches(tiny_cfg, 20)
        loader.log_total()
    assert not any("left_out" in sample for batch in found for sample in batch)
    assert all(name not in sample["file_name"] for batch in found for sample in batch)
    lines = [record.getMessage() for record in caplog.records]
    assert sum("goes on without an image" in line and name in line for line in lines) == 1
    total = int(storage.latest()["bad_images"][0])
    assert total >= 2
    assert lines[-1] == f"1 images could not be used; others took their place {total} times"

    again = batches(tiny_cfg, 20)[1]
    ids = [[sample["image_id"] for sample in batch] for batch in found]
    assert ids == [[sample["image_id"] for sample in batch] for batch in again]


@pytest.mark.parametrize("choice", ["stop", "skip"])
def test_train_net_stops_or_counts(damaged, tmp_path, choice):
    folder, name = damaged
    arguments = []
    for split in ("train", "val"):
        arguments += [f"--{split}-json", folder / f"annotations/instances_{split}.json"]
        arguments += [f"--{split}-images", folder / split]
    options = [*TINY, "OUTPUT_DIR", tmp_path / "run", "DATALOADER.BAD_IMAGES", choice]
    command = [sys.executable, "train_net.py", "--config-file", QUICKSTART, *arguments]
    result = subprocess.run(
        [*map(str, command), "--skip-pixel-check", *map(str, [*options, "SOLVER.MAX_ITER", 12])],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )
    assert "Traceback" not in result.stdout + result.stderr
    if choice == "stop":
        assert result.returncode == 1
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert name in line and "DATALOADER.BAD_IMAGES skip" in line
        return
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(f"{name} (image id") == 1
    metrics = [json.loads(line) for line in (tmp_path / "run/metrics.json").open()]
    total = max(line.get("bad_images", 0) for line in metrics)
    assert total >= 1
    assert f"others took their place {total:.0f} times" in result.stdout


def test_checks_show_how_long_they_will_take(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    assert list(map_files(lambda i: i, range(300), "Checking image files")) == list(range(300))
    assert "Checking image files: 300/300 files, ETA 0:00:00" in capsys.readouterr().err
