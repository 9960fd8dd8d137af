"""The command, in a process of its own and in this one."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import mask2former_runtime
from mask2former_runtime.cli import main

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from tiny_exports import tiny_metadata, write_onnx


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in (3, 5):
        small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((120, 90), Image.Resampling.BICUBIC)
        picture.save(tmp_path / f"photos/{number}.png")
    return write_onnx(tmp_path / "tiny.onnx", tiny_metadata())


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_predict(model, capsys, tmp_path, task):
    arguments = ["predict", "photos", "--model", str(model), "--output", "out", "--task", task]
    assert main([*arguments, "--json", "new/results.json", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert "[2/2] photos/5.png: " in out and "written to new/results.json" in out
    results = json.loads((tmp_path / "new/results.json").read_text())
    loaded = mask2former_runtime.load(model)
    for number in (3, 5):
        found = loaded.predict(f"photos/{number}.png", task=task)
        with Image.open(tmp_path / f"out/{number}.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), np.asarray(found.plot()))
        if task == "instance":
            written = [result for result in results if result["image_id"] == number]
            assert [{**r, "file_name": f"photos/{number}.png"} for r in found.to_coco(number)] == (
                written
            )
        else:
            assert (tmp_path / f"new/results/{number}.png").is_file()


def test_files_are_complete_though_nobody_reads_the_output(model, tmp_path):
    command = [sys.executable, "-m", "mask2former_runtime", "predict", "photos"]
    command += ["--model", "tiny.onnx", "--task", "instance", "--output", "out"]
    with subprocess.Popen([*command, "--json", "r.json"], stdout=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.wait(60) == 141
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"3.png", "5.png"}
    images = json.loads((tmp_path / "r.coco.json").read_text())["images"]
    assert [image["id"] for image in images] == [3, 5]


def test_a_process_without_pytorch(model, tmp_path):
    """Nothing of the package, of PyTorch or of SciPy is imported on the way to a picture."""
    code = (
        "import sys; from mask2former_runtime.cli import main\n"
        "assert main(['predict', 'photos/3.png', '--model', 'tiny.onnx', '--output', 'one.jpg',"
        " '--task', 'instance', '--threshold', '0.1', '--json', 'r.json']) == 0\n"
        "print({name.split('.')[0] for name in sys.modules})"
    )
    out = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=tmp_path)
    assert (tmp_path / "one.jpg").is_file() and "-> one.jpg" in out
    modules = out.splitlines()[-1]
    assert "'onnxruntime'" in modules
    for name in ("torch", "detectron2", "scipy", "matplotlib", "pycocotools", "mask2former"):
        assert f"'{name}'" not in modules


def test_nothing_is_reported_to_others(model, tmp_path):
    """A report would first be stored below the home folder."""
    home = tmp_path / "home"
    home.mkdir()
    hidden = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "CI")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    code = (
        "from mask2former_runtime import load\n"
        "assert load('tiny.onnx').predict('photos/3.png').size == (90, 120)"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        check=True, cwd=tmp_path, env=environment | {"HOME": str(home)},
    )  # fmt: skip
    assert not list(home.rglob("*"))


def test_a_damaged_image_is_skipped(model, capsys, tmp_path):
    (tmp_path / "photos/4.png").write_bytes(b"no image")
    assert main(["predict", "photos", "--model", str(model)]) == 1
    captured = capsys.readouterr()
    assert "[2/3] SKIPPED photos/4.png: not an image" in captured.err
    assert sorted(path.name for path in (tmp_path / "predictions").iterdir()) == ["3.png", "5.png"]


def test_an_image_of_nan_is_skipped(model, capsys, tmp_path):
    write_onnx(model, tiny_metadata(mean=(0.0, 0.0, 0.0), std=(1e-36, 1e-36, 1e-36)))
    Image.new("RGB", (120, 90)).save(tmp_path / "photos/4.png")
    assert main(["predict", "photos", "--model", str(model), "--json", "r.json"]) == 1
    captured = capsys.readouterr()
    message = f"{model}: the network gives NaN or infinity: it is damaged"
    assert captured.err.splitlines() == [
        f"[1/3] SKIPPED photos/3.png: {message}", f"[3/3] SKIPPED photos/5.png: {message}"
    ]  # fmt: skip
    assert "1 map in r written to r.json" in captured.out


@pytest.mark.parametrize(("arguments", "message"), [
    (["--model", "missing.onnx"], "missing.onnx: no such file"),
    (["--model", "tiny.onnx", "--task", "semantic", "--threshold", "0.5"], "means nothing"),
    (["--model", "tiny.onnx", "--output", "photos/3.png"], "choose another --output"),
    (["--model", "tiny.onnx", "--provider", "None"], "does not have the provider None"),
    (["--model", "tiny.onnx", "--json", "photos"], "is a folder"),
    (["--model", "tiny.onnx", "--json", "photos/3.png"], "3.png would replace an input"),
    (["--model", "tiny.onnx", "--json", "predictions/3.png"], "replace a picture of --output"),
])  # fmt: skip
def test_mistakes_are_one_line(model, capsys, tmp_path, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main(["predict", "photos/3.png", *arguments])
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert message in err and err.startswith("mask2former-runtime: error: ")
    assert err.count("\n") == 1


def test_what_cannot_be_written(model, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe.json")
    for path in ("file/r.json", "pipe.json"):
        with pytest.raises(SystemExit) as stopped:
            main(["predict", "photos/3.png", "--model", "tiny.onnx", "--json", path])
        assert stopped.value.code == 1
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "predictions").exists()


@pytest.mark.parametrize("text", ["-0.1", "2", "nan", "x"])
def test_thresholds_are_from_0_to_1(model, capsys, text):
    with pytest.raises(SystemExit) as stopped:
        main(["predict", "photos", "--model", "tiny.onnx", "--threshold", text])
    assert stopped.value.code == 2 and "--threshold" in capsys.readouterr().err
