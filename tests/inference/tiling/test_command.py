"""The command on images of all sizes, with a small model that has random weights."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from mask2former.cli.main import main
from mask2former.inference.tiling.large_image import LARGE_PIXELS
from mask2former.inference.tiling.store import FolderStore


@pytest.fixture
def predict(panoptic_config, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            status = main(["predict", str(panoptic_config.parent), *map(str, arguments)])
        except SystemExit as exit_:
            status = exit_.code
        return status, *capfd.readouterr()

    return run


@pytest.fixture(scope="module")
def large(photo, tmp_path_factory):
    path = tmp_path_factory.mktemp("large") / "large.png"
    photo.resize((4100, 4100)).save(path, compress_level=1)
    assert LARGE_PIXELS < 4100**2
    return path


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_large_images_become_files(task, predict, large, tmp_path):
    arguments = ["--task", task, "--tile", 2100, "--overlap", 0.02]
    if task == "instance":
        arguments += ["--threshold", 0.3]
    status, output, errors = predict(large, *arguments)
    assert status == 0, errors
    assert f"[1/1] {large}: " in output and "-> predictions/large.png" in output
    content = json.loads((tmp_path / "predictions/large.json").read_text())
    assert content["annotations"]
    kinds = {"instance": None, "panoptic": "segments", "semantic": "labels"}
    if kinds[task]:
        with Image.open(tmp_path / f"predictions/large.{kinds[task]}.png") as image:
            assert image.size == (4100, 4100)
    with Image.open(tmp_path / "predictions/large.png") as picture:
        assert picture.size == (1367, 1367)
    assert not list((tmp_path / "predictions").glob(".*"))


def test_tiles_of_another_run_do_not_stop_other_images(predict, photo, large, tmp_path):
    photo.save(tmp_path / "photo.png")
    FolderStore(tmp_path / "predictions/.large.tiles", {"tile": 96})
    status, output, errors = predict(large, "photo.png", "--tile", 2100)
    assert status == 1
    assert re.search(
        r"\[1/2\] SKIPPED .*/large.png: .*other settings \(.*tile.*\): delete it", errors
    )
    assert "[2/2] photo.png: " in output and (tmp_path / "predictions/photo.png").exists()


def test_ordinary_images_have_pictures_and_json_as_always(predict, photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    status, _, errors = predict("photo.png", "--tile", 200, "--json", "r.json", "--output", "out")
    assert status == 0, errors
    assert json.loads((tmp_path / "r.json").read_text())["annotations"]
    assert np.asarray(Image.open(tmp_path / "out/photo.png")).shape[1] >= photo.width


def test_a_much_larger_image_than_the_model_sees_is_told_once(predict, photo, tmp_path):
    for name in ("a.png", "b.png"):
        photo.resize((1000, 900)).save(tmp_path / name)
    note = "a.png is 1000 x 900 pixels, and the model sees it at 107 x 96: to find small objects, "
    assert note + "add --tile 96\n" in predict("a.png", "b.png")[2]
    assert predict("a.png", "b.png")[2].count("--tile") == 1
    assert "--tile" not in predict("a.png", "--tile", 500)[2]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--tile", 16], 2, "tile 16: the side of a tile is at least 32 pixels"),
        (["--tile", -1], 2, "tile -1: the side"),
        (["--tile", 512, "--overlap", 0.91], 2, "overlap 0.91: it is a share of a tile, from 0 to"),
        (["--overlap", 0.2], 2, "--overlap is that of tiles: add --tile"),
        (["--tile", 512, "--json", "r.json"], 1, "SKIPPED .* not --json"),
        (["--tile", 512, "--class", "dog"], 1, "SKIPPED .* not --json, --show, --class"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, status, message, predict, large):
    result, _, errors = predict(large, *arguments)
    assert result == status
    (line,) = [line for line in errors.splitlines() if "INFO" not in line]
    assert re.search(message, line)
