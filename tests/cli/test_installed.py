"""Every verb, from an installed wheel in an empty folder, without the checkout."""

import filecmp
import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from urllib.request import urlopen

import pytest
from support import REPOSITORY, SOURCES, TINY
from wheels import install_wheels

from mask2former.cli.main import VERBS

# The wheel does not have the compiled operator, which rounds in another way.
OPERATOR = {"MASK2FORMER_OPS": "pytorch"}
R50 = "coco/instance-segmentation/maskformer2_R50_bs16_50ep"


@pytest.fixture(scope="module")
def programs(wheels, tmp_path_factory):
    return install_wheels(wheels, tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("empty")


@pytest.fixture(scope="module")
def mask2former(programs, folder):
    """Run the command in the folder and return what it prints."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments):
        command = [programs / "mask2former", *arguments]
        done = subprocess.run(
            [str(word) for word in command],
            cwd=folder,
            env={**variables, **OPERATOR},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def model(mask2former, datasets, folder):
    """The folder of a short run of `mask2former train`."""
    data = datasets / "synthetic_shapes"
    out = mask2former(
        *("train", "--data", data, "--task", "instance", "--output", "run"),
        *("--model", "quickstart/instance", "--opts", *TINY, "TEST.EVAL_PERIOD", 4),
        *("SOLVER.EMA_DECAY", 0.0),
    )
    assert "Done" in out
    return folder / "run"


def test_the_wheel_has_the_sources_of_the_operator_for_other_runtimes(wheels):
    names = zipfile.ZipFile(wheels[0]).namelist()
    folder = REPOSITORY / "mask2former/modeling/ops/csrc"
    used = [folder / "arguments.cpp", folder / "arguments.h", *folder.glob("cpu/*")]
    for path in [*used, *folder.glob("runtimes/*")]:
        assert path.relative_to(REPOSITORY).as_posix() in names


def test_the_package_is_that_of_the_wheel(mask2former, programs):
    assert f"@ {programs.parent}" in mask2former("env").splitlines()[0]


def test_zoo(mask2former, programs):
    assert len(mask2former("zoo").splitlines()) == 47
    assert mask2former("zoo", "list", "R50", "coco/instance").split() == [R50]
    shown = mask2former("zoo", "show", R50)
    assert str(programs.parent) in shown
    assert "3c8ec9" in shown


def test_check(mask2former, datasets):
    out = mask2former("check", "--data", datasets / "synthetic_shapes", "--task", "semantic",
                      "--classes", _class_file(datasets))  # fmt: skip
    assert "12 images" in out


def test_convert_data(mask2former, datasets, folder):
    data = ("--task", "instance")
    written = mask2former(
        "convert-data", datasets / "synthetic_shapes", "as_yolo", "--to", "yolo", *data
    )
    assert (folder / "as_yolo/data.yaml").is_file() and "as_yolo: " in written
    before = mask2former("check", "--data", datasets / "synthetic_shapes", *data)
    after = mask2former("check", "--data", "as_yolo")
    counts = [line for line in before.splitlines() if "objects per class" in line]
    assert counts == [line for line in after.splitlines() if "objects per class" in line] != []


def _class_file(datasets):
    shapes = datasets / "synthetic_shapes"
    names = json.loads((shapes / "annotations/panoptic_val.json").read_text())["categories"]
    file = datasets / "classes_of_shapes.txt"
    file.write_text("\n".join(category["name"] for category in names))
    return file


def test_predictions_are_those_of_the_demo(mask2former, model, datasets, folder, tmp_path):
    images = datasets / "synthetic_shapes/val"
    out = mask2former(
        *("predict", model, images, "--output", "out", "--json", "results.json"),
        *("--threshold", "0.05"),
    )
    assert "4 of 4 images done" in out
    demo = [sys.executable, REPOSITORY / "demo/demo.py", "--config-file", model / "config.yaml"]
    demo += ["--input", images, "--output", tmp_path / "out", "--json", tmp_path / "results.json"]
    demo += ["--confidence-threshold", "0.05"]
    variables = {**os.environ, **OPERATOR, "PYTHONPATH": SOURCES}
    subprocess.run([str(word) for word in demo], check=True, env=variables, cwd=tmp_path)

    results = (folder / "results.json").read_bytes()
    assert len(json.loads(results)) > 10
    assert results == (tmp_path / "results.json").read_bytes()
    pictures = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert len(pictures) == 4
    same = filecmp.cmpfiles(folder / "out", tmp_path / "out", pictures, shallow=False)
    assert same == (pictures, [], [])


def test_evaluate(mask2former, model, datasets, folder):
    data = datasets / "synthetic_shapes"
    out = mask2former("evaluate", model, "--data", data, "--report", "report")
    assert "copypaste: Task: segm" in out
    last = json.loads((model / "metrics.json").read_text().splitlines()[-1])
    printed = [line for line in out.splitlines() if "copypaste: " in line][-1]
    assert float(printed.rpartition("copypaste: ")[2].split(",")[0]) == pytest.approx(
        last["segm/AP"], abs=1e-4
    )
    results = model / "evaluation/synthetic_shapes"
    assert f"Results: {results}" in out
    assert (results / "inference/coco_instances_results.json").is_file()
    assert "</html>" in (folder / "report/report.html").read_text()


def test_find_lr(mask2former, datasets, folder):
    out = mask2former("find-lr", "--data", datasets / "synthetic_shapes", "--task", "instance",
                      "--model", "quickstart/instance", "--steps", "20", "--output", "rates.png",
                      "--opts", *TINY)  # fmt: skip
    assert "SOLVER.BASE_LR" in out and (folder / "rates.png").is_file()


def test_convert(mask2former, model, folder):
    out = mask2former("convert", model, "hugging_face")
    assert "instance segmentation of 5 classes" in out
    assert (folder / "hugging_face/model.safetensors").is_file()


def test_export(mask2former, model, datasets, folder):
    pytest.importorskip("onnxscript")
    out = mask2former("export", model, "--output", "mine.onnx")
    assert out.count("of mask pixels") == 2
    photo = next((datasets / "synthetic_shapes/val").glob("*.jpg"))
    mask2former("predict", photo, "--model", "mine.onnx", "--output", "exported")
    assert (folder / "exported" / photo.name).is_file()


def test_serve(programs, model, folder):
    pytest.importorskip("uvicorn")
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [programs / "mask2former", "serve", model, "--port", "0"]
    with subprocess.Popen(
        [str(word) for word in command],
        cwd=folder,
        env={**variables, **OPERATOR},
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            for line in server.stdout:
                found = re.search(r"http://127\.0\.0\.1:\d+", line)
                if found:
                    break
            with urlopen(f"{found[0]}/") as page:
                assert page.read().lower().startswith(b"<!doctype html>")
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=180)
    assert server.returncode == 0


def test_every_verb_is_here():
    tested = {"env", "zoo", "check", "train", "predict", "evaluate", "export", "serve"}
    tested |= {"convert", "convert-data", "find-lr"}
    assert tested == set(VERBS), "run a new verb from the wheel too"
