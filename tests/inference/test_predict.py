"""The demo's command line on real files, with a small model that has random weights."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from demo_runs import CONFIG, IDS, NAMES
from detectron2.engine import DefaultPredictor
from PIL import Image
from support import REPOSITORY, SOURCES

from mask2former.config import load_config
from mask2former.data.image import read_image
from mask2former.inference.predictor import Predictor
from mask2former.visualization import draw_instances, palette_color, shade


def decode(result: dict) -> np.ndarray:
    return mask_util.decode(result["segmentation"]).astype(bool)


def test_script_on_a_real_photograph(run_folder, photo, tmp_path):
    """A user can run it from another folder."""
    photo.save(tmp_path / "139.png")
    repository = REPOSITORY
    command = [
        sys.executable, str(repository / "demo/demo.py"),
        "--config-file", str(run_folder / "config.yaml"), "--input", "139.png",
        "--output", "out", "--confidence-threshold", "0.05", "--json", "out/results.json",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": SOURCES}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results
    assert f"[1/1] 139.png: {len(results)} instances in" in done.stdout
    for result in results:
        assert result["image_id"] == 139
        assert result["file_name"] == "139.png"
        assert result["category_id"] in IDS
        assert 0.05 <= result["score"] <= 1
        mask = decode(result)
        assert mask.shape == (photo.height, photo.width)
        np.testing.assert_array_equal(result["bbox"], mask_util.toBbox(result["segmentation"]))
    drawn = Image.open(tmp_path / "out/139.png")
    assert drawn.width == photo.width and drawn.height >= photo.height  # with a legend
    assert (np.asarray(drawn)[: photo.height] != np.asarray(photo)).any()


def test_pictures_and_json_show_the_same_instances(demo, photo, tmp_path):
    """At every threshold, the picture equals one drawn from the JSON file."""
    photo.save(tmp_path / "a.png")
    arguments = ["--input", tmp_path / "a.png", "--output", tmp_path / "drawn.png"]
    arguments += ["--json", tmp_path / "r.json"]

    def run(threshold):
        status, out, _ = demo(*arguments, "--confidence-threshold", threshold)
        assert status == 0
        results = json.loads((tmp_path / "r.json").read_text())
        assert f"a.png: {len(results)} instance" in out
        return results

    everything = run(0)
    scores = [result["score"] for result in everything]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) > 4
    for threshold in (0, scores[3], scores[1], 1):
        results = run(threshold)
        assert results == [r for r in everything if r["score"] >= threshold]
        labels = [IDS.index(r["category_id"]) for r in results]
        order = [labels[:i].count(label) for i, label in enumerate(labels)]
        expected = draw_instances(
            np.asarray(photo),
            np.array([decode(r) for r in results]).reshape(-1, photo.height, photo.width),
            [f"{NAMES[i]} {r['score']:.0%}" for i, r in zip(labels, results, strict=True)],
            [shade(palette_color(i), n) for i, n in zip(labels, order, strict=True)],
            names=[NAMES[i] for i in labels],
        )
        drawn = Image.open(tmp_path / "drawn.png")
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(expected))


def test_default_threshold_is_one_half(demo, photo, tmp_path):
    """The random model's scores never reach it, so the photograph does not change."""
    photo.save(tmp_path / "a.png")
    status, out, _ = demo("--input", tmp_path / "a.png", "--output", tmp_path / "out")
    assert status == 0
    assert "a.png: 0 instances" in out
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/a.png")), np.asarray(photo))


@pytest.mark.parametrize("threshold", ["-0.1", "1.5", "high"])
def test_threshold_must_be_a_probability(demo, threshold, tmp_path):
    status, _, err = demo(
        "--input", "a.png", "--output", tmp_path, "--confidence-threshold", threshold
    )
    assert status == 2
    assert "--confidence-threshold" in err


def test_files_of_every_kind(demo, photo, tmp_path):
    """EXIF rotation, grey, alpha, 16 bits, CMYK, palette, and one pixel high."""
    folder = tmp_path / "in"
    folder.mkdir()
    small = photo.resize((120, 160))
    exif = Image.Exif()
    exif[0x0112] = 6
    small.rotate(90, expand=True).save(folder / "exif.jpg", exif=exif)
    small.convert("L").save(folder / "grey.png")
    small.convert("RGBA").save(folder / "alpha.png")
    sixteen = np.asarray(small.convert("L")).astype(np.uint16) * 257
    Image.fromarray(sixteen).save(folder / "sixteen.png")
    Image.fromarray(sixteen).save(folder / "sixteen_bits.tif")
    small.convert("CMYK").save(folder / "cmyk.jpg")
    small.convert("P").save(folder / "palette.gif")
    small.resize((2000, 1)).save(folder / "thin.png")
    small.resize((1, 1)).save(folder / "one.bmp")
    status, out, err = demo(
        "--input", folder, "--output", tmp_path / "out",
        "--confidence-threshold", 0.05, "--json", tmp_path / "r.json",
    )  # fmt: skip
    assert status == 0, err
    assert "9 of 9 images done" in out
    sizes = {"thin.png": (1, 2000), "one.bmp": (1, 1)}
    found = {}
    for result in json.loads((tmp_path / "r.json").read_text()):
        name = Path(result["file_name"]).name
        assert decode(result).shape == sizes.get(name, (160, 120))
        found[name] = found.get(name, 0) + 1
    assert {"exif.jpg", "grey.png", "alpha.png", "sixteen.png", "cmyk.jpg"} <= found.keys()
    # The storage format does not change the result.
    assert found["grey.png"] == found["sixteen.png"] == found["sixteen_bits.tif"]
    drawn = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert drawn == [
        "alpha.png", "cmyk.jpg", "exif.jpg", "grey.png", "one.png",
        "palette.png", "sixteen.png", "sixteen_bits.png", "thin.png",
    ]  # fmt: skip


def test_unreadable_files_are_reported_and_skipped(demo, photo, tmp_path):
    photo.save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_text("no image")
    photo.save(tmp_path / "c.png")
    status, out, err = demo(
        "--input", tmp_path, tmp_path / "missing.png", "--output", tmp_path / "out"
    )
    assert status == 1
    assert f"SKIPPED {tmp_path / 'b.jpg'}: not an image" in err
    assert f"SKIPPED {tmp_path / 'missing.png'}: no such file" in err
    assert "2 of 4 images done" in out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]


def test_progress_shows_the_remaining_time(demo, photo, tmp_path):
    for name in "ab":
        photo.save(tmp_path / f"{name}.jpg")
    _, out, _ = demo("--input", tmp_path / "*.jpg", "--output", tmp_path / "out")
    lines = [line for line in out.splitlines() if line.startswith("[")]
    assert lines[0].startswith(f"[1/2] {tmp_path / 'a.jpg'}:")
    assert "ETA 0:00:0" in lines[0]
    assert lines[1].startswith(f"[2/2] {tmp_path / 'b.jpg'}:")


def test_errors_say_what_to_do(demo, photo, run_folder, tmp_path, monkeypatch):
    photo.save(tmp_path / "a.png")
    image = ["--input", tmp_path / "a.png"]
    output = ["--output", tmp_path / "out"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare").mkdir()
    bare = tmp_path / "bare/config.yaml"
    bare.write_text(CONFIG.replace("weights_that_training_started_from.pkl", "''"))
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    opts = ["--opts", "MODEL.WEIGHTS", run_folder / "model_final.pth"]
    for arguments, message in [
        ([*output], "one of the arguments --input --video-input --webcam is required"),
        (["--input", tmp_path / "*.gif", *output], "*.gif matches no image"),
        (["--input", tmp_path / "empty", *output], "no image in the folder"),
        ([*image, "--output", tmp_path], "would replace an input"),
        ([*image, *output, *opts, "MODEL.NO_SUCH_KEY", 1], "MODEL.NO_SUCH_KEY"),
        ([*image, *output, *opts, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 5], "do not fit the config"),
        (
            [*image, *output, *opts, "MODEL.MASK_FORMER.TEST.INSTANCE_ON", False],
            "a model that predicts nothing",
        ),
        ([*image, *output, "--opts", "MODEL.WEIGHTS", "no.pth"], "no.pth: no such file"),
        ([*image, *output, "--opts", "MODEL.WEIGHTS", tmp_path / "a.png"], "cannot load"),
    ]:
        status, _, err = demo(*arguments)
        assert status == 2, arguments
        assert message in err
    status, _, err = demo(*image, *output, config=bare)
    assert status == 2
    assert "--opts MODEL.WEIGHTS" in err
    if sys.platform.startswith("linux"):
        status, _, err = demo(*image)
        assert status == 2
        assert "give --output" in err
    if not torch.cuda.is_available():
        status, _, err = demo(*image, *output, "--opts", "MODEL.DEVICE", "cuda")
        assert status == 2
        assert "--opts MODEL.DEVICE cpu" in err
    assert not (tmp_path / "out").exists()


def test_configs_cannot_run_code(demo, photo, run_folder, tmp_path):
    photo.save(tmp_path / "a.png")
    trap = tmp_path / "trap.yaml"
    sprung = tmp_path / "sprung"
    trap.write_text(f"OUTPUT_DIR: !!python/object/apply:os.mkdir ['{sprung}']\n")
    arguments = ["--input", tmp_path / "a.png", "--output", tmp_path / "out"]
    status, _, err = demo(*arguments, config=trap)
    assert status == 2
    assert "python/object/apply" in err
    assert not sprung.exists()
    demo(*arguments, "--allow-unsafe-config", config=trap)
    assert sprung.exists()


def test_weights_and_names_of_a_run_are_found(demo, photo, run_folder, tmp_path, caplog):
    photo.save(tmp_path / "a.png")
    arguments = [
        "--input", tmp_path / "a.png", "--json", tmp_path / "r.json",
        "--confidence-threshold", 0.05,
    ]  # fmt: skip

    def categories(*more, **where):
        caplog.clear()
        status, _, err = demo(*arguments, *more, **where)
        assert status == 0, err
        return {r["category_id"] for r in json.loads((tmp_path / "r.json").read_text())}

    ids = categories()
    assert ids <= set(IDS)
    assert f"weights beside the config file: {run_folder / 'model_final.pth'}" in caplog.text
    # An unfinished run.
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run_folder, unfinished)
    (unfinished / "model_final.pth").rename(unfinished / "model_0000099.pth")
    (unfinished / "last_checkpoint").write_text("model_0000099.pth")
    assert categories(config=unfinished / "config.yaml") == ids
    assert "model_0000099.pth" in caplog.text
    # A config in another folder: the names come from beside the weights.
    (tmp_path / "c.yaml").write_text(CONFIG)
    weights = ["--opts", "MODEL.WEIGHTS", run_folder / "model_final.pth"]
    assert categories(*weights, config=tmp_path / "c.yaml") == ids
    # No names anywhere: the classes are numbered, and the log says so.
    (unfinished / "metadata.json").unlink()
    numbers = categories(config=unfinished / "config.yaml")
    assert numbers == {IDS.index(id_) for id_ in ids}
    assert "names of the classes are not known" in caplog.text
    # Names that belong to another model are not used.
    (unfinished / "metadata.json").write_text(json.dumps({"thing_classes": ["a"]}))
    numbers = categories(config=unfinished / "config.yaml")
    assert numbers == {IDS.index(id_) for id_ in ids}
    assert "has 1 classes, the model 3" in caplog.text


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_predictor_equals_detectron2s(run_folder, photo, tmp_path, image_format):
    photo.save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    weights = str(run_folder / "model_final.pth")
    overrides = ["MODEL.WEIGHTS", weights, "INPUT.FORMAT", image_format]
    cfg = load_config(str(run_folder / "config.yaml"), overrides)
    ours = Predictor.from_config(cfg)(image)["instances"]
    theirs = DefaultPredictor(cfg)
    theirs.model.to(memory_format=torch.channels_last)  # rounds alike
    expected = theirs(image)["instances"]
    assert len(ours) > 5
    torch.testing.assert_close(ours.scores, expected.scores)
    assert torch.equal(ours.pred_classes, expected.pred_classes)
    assert torch.equal(ours.pred_masks, expected.pred_masks)
