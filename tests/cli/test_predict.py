"""`mask2former predict`: what only the verb does; the rest is tested with the demo."""

import json
import subprocess
import sys

import pytest
import torch
from demo_runs import CONFIG, IDS, NAMES, make_run
from PIL import Image

from mask2former.cli.main import main
from mask2former.utils.device import has_fast_bfloat16


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    metadata = {
        "thing_classes": NAMES,
        "thing_dataset_id_to_contiguous_id": {str(id_): i for i, id_ in enumerate(IDS)},
    }
    return make_run(tmp_path_factory.mktemp("run"), CONFIG, metadata).parent


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A working directory with two images and an animation."""
    torch.manual_seed(0)
    noise = torch.randint(256, (3, 60, 80, 3), dtype=torch.uint8)
    frames = [Image.fromarray(image.numpy()) for image in noise]
    for number, frame in enumerate(frames[:2]):
        frame.save(tmp_path / f"{number}.png")
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_pictures_go_to_the_folder_predictions(run_folder, images, capsys):
    assert main(["predict", str(run_folder), "0.png", "1.png"]) == 0
    assert {path.name for path in (images / "predictions").iterdir()} == {"0.png", "1.png"}
    assert "2 of 2 images done" in capsys.readouterr().out


def test_weights_and_run_folder_are_the_same_model(run_folder, images):
    for model, file in ((run_folder, "a.json"), (run_folder / "model_final.pth", "b.json")):
        arguments = ["predict", str(model), "0.png", "--threshold", "0.05", "--json", file]
        assert main(arguments) == 0
    assert json.loads((images / "a.json").read_text())
    assert (images / "a.json").read_bytes() == (images / "b.json").read_bytes()


@pytest.mark.skipif(not has_fast_bfloat16(), reason="the CPU is not faster with bfloat16")
def test_precision(run_folder, images):
    scores = {}
    for precision in ("fp32", "bf16"):
        arguments = ["predict", str(run_folder), "0.png", "--device", "cpu", "--threshold", "0.05"]
        assert main([*arguments, "--precision", precision, "--json", "found.json"]) == 0
        found = json.loads((images / "found.json").read_text())
        scores[precision] = [result["score"] for result in found]
    assert scores["bf16"] != scores["fp32"]
    assert max(scores["bf16"]) == pytest.approx(max(scores["fp32"]), abs=0.05)


def test_an_animation_is_a_video(run_folder, images, capsys):
    pytest.importorskip("cv2")
    assert main(["predict", str(run_folder), "moving.gif", "--json", "frames.json"]) == 0
    out = capsys.readouterr().out
    assert "frame 3/3" in out
    assert (images / "predictions/moving.mp4").is_file()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["0.png", "film.mp4"], 2, "film.mp4 is a video: give one video, and no other input"),
        (["0.png", "--device", "cuda:99"], 2, "MODEL.DEVICE"),
        (["0.png", "--device", "cpu", "--precision", "fp16"], 2, "float16 is for GPUs"),
        (["0.png", "--threshold", "2"], 2, "2 is not between 0 and 1"),
        (["*.tif"], 2, "the pattern *.tif matches no image"),
        (["0.png", "--class", "unicorn"], 2, "unicorn"),
        (["0.png", "--json", "-"], 2, "--json - is not stdout: name a file"),
    ],
)
def test_mistakes(arguments, status, message, run_folder, images, capsys):
    with pytest.raises(SystemExit) as end:
        main(["predict", str(run_folder), *arguments])
    assert end.value.code == status
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("mask2former predict: error: ")
    assert message in last


def test_a_skipped_image_is_an_exit_status(run_folder, images, capsys):
    (images / "broken.png").write_bytes(b"no image")
    assert main(["predict", str(run_folder), "0.png", "broken.png"]) == 1
    assert "SKIPPED broken.png" in capsys.readouterr().err


def test_files_are_complete_though_nobody_reads_the_output(run_folder, images):
    """As after ``| head -1``."""
    command = [sys.executable, "-m", "mask2former", "predict", str(run_folder), "0.png", "1.png"]
    with subprocess.Popen([*command, "--json", "r.json"], stdout=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.wait(60) == 141
    assert {path.name for path in (images / "predictions").iterdir()} == {"0.png", "1.png"}
    assert len(json.loads((images / "r.coco.json").read_text())["images"]) == 2
