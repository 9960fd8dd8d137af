"""Thresholds of classes that are stored with a model, in every way of predicting."""

import json
import shutil

import numpy as np
import pytest
from demo_runs import instance_run, panoptic_run
from PIL import Image
from support import QUICKSTART, TINY

from mask2former import Mask2Former
from mask2former.cli.main import main
from mask2former.data.metadata import read_metadata, write_thresholds
from mask2former.serve.model import ServedModel


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 255, (9, 6, 3), np.uint8), np.ones((9, 11, 1), np.uint8))
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, photo):
    """The folder of a run with thresholds, and what they keep of an image's instances."""
    folder = panoptic_run(tmp_path_factory.mktemp("run")).parent
    everything = Mask2Former.from_pretrained(folder).predict(photo, task="instance", threshold=0)
    values = [None] * 4
    for label in np.unique(everything.labels):
        scores = np.sort(everything.scores[everything.labels == label])
        values[label] = float(scores[-2:].mean()) if len(scores) > 1 else 0.0
    assert sum(value is not None for value in values) >= 2
    write_thresholds(folder / "metadata.json", values)
    lowest = np.array([0.5 if value is None else value for value in values], np.float32)
    kept = everything[everything.scores >= lowest[everything.labels]]
    usual = everything[everything.scores >= 0.5]
    assert 2 <= len(kept) < len(everything) and len(usual) != len(kept)
    return folder, values, kept


def assert_same(found, expected):
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    np.testing.assert_array_equal(found.masks, expected.masks)


def test_python_and_serving(run, photo):
    folder, _, expected = run
    model = Mask2Former.from_pretrained(folder)
    assert_same(model.predict(photo, task="instance"), expected)
    served = ServedModel(model, "mine")
    image = np.asarray(Image.open(photo))[:, :, ::-1]
    assert_same(served.segmenter("instance", None).find(image), expected)
    # An explicit threshold wins, and other tasks are as without.
    everything = model.predict(photo, task="instance", threshold=0)
    high = model.predict(photo, task="instance", threshold=0.5)
    assert_same(high, everything[everything.scores >= 0.5])
    for task in ("panoptic", "semantic"):
        model.predict(photo, task=task)


def test_the_command(run, photo, tmp_path):
    folder, _, expected = run
    arguments = ["predict", str(folder), str(photo), "--task", "instance"]
    arguments += ["--output", str(tmp_path), "--json", str(tmp_path / "r.json")]
    assert main(arguments) == 0
    results = json.loads((tmp_path / "r.json").read_text())
    assert [r["score"] for r in results] == pytest.approx(expected.scores.tolist(), abs=1e-5)
    assert main([*arguments, "--threshold", "1"]) == 0
    assert json.loads((tmp_path / "r.json").read_text()) == []


def test_exported_files(run, photo, tmp_path):
    pytest.importorskip("onnxruntime")
    from mask2former_runtime import load as load_in_runtime

    folder, values, expected = run
    file = tmp_path / "mine.onnx"
    Mask2Former.from_pretrained(folder).export(file)
    in_runtime = load_in_runtime(file)
    assert in_runtime.metadata.postprocessing.thresholds == tuple(
        0.5 if value is None else value for value in values
    )
    for model in (Mask2Former.from_pretrained(file), in_runtime):
        assert_same(model.predict(photo, task="instance"), expected)
        assert len(model.predict(photo, task="instance", threshold=1.0)) == 0


def test_hugging_face_and_back(tmp_path, photo):
    folder = instance_run(tmp_path).parent
    everything = Mask2Former.from_pretrained(folder).predict(photo, threshold=0)
    value = float(np.sort(everything.scores)[-2:].mean())
    write_thresholds(folder / "metadata.json", [None, value, value])
    model = Mask2Former.from_pretrained(folder)
    expected = model.predict(photo)
    model.save_pretrained(tmp_path / "in_python")
    assert main(["convert", str(folder), str(tmp_path / "hf")]) == 0
    assert main(["convert", str(tmp_path / "hf"), str(tmp_path / "back/mine.pth")]) == 0
    for source in ("in_python", "hf", "back/mine.pth"):
        again = Mask2Former.from_pretrained(tmp_path / source)
        assert list(again._model.thresholds) == [None, value, value]
        assert_same(again.predict(photo), expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.5, 0.5], "2 score_thresholds, and the model has 4 classes"),
        ([0.5, 2, 0.1, 0.1], "score_thresholds"),
        ("high", "score_thresholds"),
    ],
)
def test_thresholds_that_do_not_fit(run, tmp_path, values, message):
    shutil.copytree(run[0], tmp_path / "run")
    path = tmp_path / "run/metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "score_thresholds": values}))
    with pytest.raises(ValueError, match=message):
        Mask2Former.from_pretrained(tmp_path / "run")


@pytest.fixture(scope="module")
def trained(datasets, tmp_path_factory):
    """A run on own data."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    model = Mask2Former.from_config(QUICKSTART, overrides=TINY)
    model.train(datasets / "synthetic_shapes", output=folder)
    return folder


@pytest.mark.parametrize("wanted", [None, 0.9])
def test_an_evaluation_stores_them(trained, datasets, tmp_path, capsys, wanted):
    """A training that follows starts without the thresholds of the old weights."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    flags = [] if wanted is None else ["--wanted-precision", str(wanted)]
    data = str(datasets / "synthetic_shapes")
    arguments = ["evaluate", str(folder), "--data", data, "--find-thresholds", *flags]
    assert main([*arguments, "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    wish = "the highest F1" if wanted is None else "a precision of at least 0.9"
    assert f"Thresholds for {wish}" in out and "disk: " in out
    stored = read_metadata(folder / "metadata.json")["score_thresholds"]
    assert len(stored) == 5
    assert stored == list(Mask2Former.from_pretrained(folder)._model.thresholds)
    model = Mask2Former.from_pretrained(folder)
    model.evaluate(data, find_thresholds=True)
    assert (
        list(model._model.thresholds) == read_metadata(folder / "metadata.json")["score_thresholds"]
    )
    model.train(data, output=tmp_path / "next", iterations=1)
    assert "score_thresholds" not in read_metadata(tmp_path / "next/metadata.json")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--wanted-precision", "0.9"], "--wanted-precision needs --find-thresholds"),
        (["--find-thresholds", "--opts", "MODEL.MASK_FORMER.TEST.INSTANCE_ON", "False",
          "MODEL.MASK_FORMER.TEST.SEMANTIC_ON", "True"], "which this model does not predict"),
        (["--find-thresholds", "--wanted-precision", "1.5"], "1.5 is not between 0 and 1"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(trained, datasets, tmp_path, capsys, flags, message):
    arguments = ["evaluate", str(trained), "--data", str(datasets / "synthetic_shapes")]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--output", str(tmp_path / "out"), *flags])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_a_model_without_a_run_is_refused(trained, datasets, tmp_path, capsys):
    """There is no file beside these weights that the thresholds could go into."""
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run/metadata.json").unlink()
    data = str(datasets / "synthetic_shapes")
    with pytest.raises(SystemExit) as end:
        main(["evaluate", str(tmp_path / "run"), "--data", data, "--find-thresholds"])
    assert end.value.code == 2
    assert "stores them in the metadata.json of a run" in capsys.readouterr().err


def test_writing_and_removing(tmp_path):
    path = tmp_path / "metadata.json"
    write_thresholds(path, [0.25, None])
    assert read_metadata(path) == {"score_thresholds": [0.25, None]}
    write_thresholds(path, None)
    assert read_metadata(path) == {}
