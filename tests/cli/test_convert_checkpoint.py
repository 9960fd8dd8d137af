"""The command line that converts: both libraries load what it writes, with the same numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from hf_models import CLASSES, model_config, random_model, randomize, save, swin_config
from support import REPOSITORY
from transformers import AutoImageProcessor, Mask2FormerForUniversalSegmentation

from mask2former import load_config
from mask2former.checkpoint import load_weights, read_checkpoint, write_checkpoint
from mask2former.checkpoint.huggingface.config import task_of_cfg
from mask2former.cli.convert_checkpoint import main
from mask2former.data.datasets.synthetic_shapes import THING_CLASSES
from mask2former.engine.setup import save_metadata

SUFFIXES = [".pth", ".pkl", ".safetensors"]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Return a folder of theirs whose name states its task."""
    path = tmp_path / "mask2former-swin-instance"
    save(random_model(model_config(swin_config())), path)
    return path


def run(*arguments) -> None:
    main([str(argument) for argument in arguments])


def files(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def our_model(cfg) -> torch.nn.Module:
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg).eval()
    load_weights(model, cfg.MODEL.WEIGHTS)
    return model


@torch.no_grad()
def logits_of_ours(model, image):
    return model.sem_seg_head(model.backbone(image))["pred_logits"]


@torch.no_grad()
def logits_of_theirs(folder, image):
    model = Mask2FormerForUniversalSegmentation.from_pretrained(folder)
    return model(pixel_values=image).class_queries_logits


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_there_and_back(folder, tmp_path, suffix, capsys):
    file = tmp_path / f"new/swin{suffix}"
    run("--from", "hf", folder, "--to", "d2", file)
    printed = capsys.readouterr().out
    assert "230 tensors" in printed and "instance segmentation of 5 classes (cat, dog" in printed
    assert files(file.parent) == ["metadata.json", f"swin{suffix}", "swin.yaml"]
    cfg = load_config(str(file.with_suffix(".yaml")))
    assert str(file) == cfg.MODEL.WEIGHTS
    image = torch.randn(1, 3, 64, 96)
    expected = logits_of_theirs(folder, image)
    torch.testing.assert_close(logits_of_ours(our_model(cfg), image), expected)

    back = tmp_path / "back"
    run("--from", "d2", file, "--to", "hf", back)
    assert "instance segmentation of 5 classes" in capsys.readouterr().out
    assert files(back) == ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert torch.equal(logits_of_theirs(back, image), expected)
    model = Mask2FormerForUniversalSegmentation.from_pretrained(back)
    assert model.config.id2label == dict(enumerate(CLASSES))
    assert type(AutoImageProcessor.from_pretrained(back)).__name__ == "Mask2FormerImageProcessor"


@pytest.fixture
def trained(tiny_cfg) -> Path:
    """Return the folder of a training: `model_final.pth`, `config.yaml` and `metadata.json`."""
    output = Path(tiny_cfg.OUTPUT_DIR)
    output.mkdir()
    tiny_cfg.MODEL.DEVICE = "cpu"
    model = build_model(tiny_cfg)
    randomize(model)
    # an unfinished run's file has the state of the optimizer too
    write_checkpoint({"model": model.state_dict(), "iteration": 3}, output / "model_final.pth")
    (output / "config.yaml").write_text(tiny_cfg.dump())
    save_metadata(tiny_cfg)
    return output


def test_what_we_trained_works_in_transformers(trained, tmp_path):
    run("--from", "d2", trained / "model_final.pth", "--to", "hf", tmp_path / "hf")
    cfg = load_config(str(trained / "config.yaml"))
    cfg.MODEL.WEIGHTS = str(trained / "model_final.pth")
    image = torch.randn(1, 3, 64, 96)
    theirs = logits_of_theirs(tmp_path / "hf", image)
    torch.testing.assert_close(theirs, logits_of_ours(our_model(cfg), image))
    config = json.loads((tmp_path / "hf/config.json").read_text())
    assert list(config["id2label"].values()) == list(THING_CLASSES)
    # and is taken back as it is, without --task
    run("--from", "hf", tmp_path / "hf", "--to", "d2", tmp_path / "again.pth")
    before = read_checkpoint(trained / "model_final.pth")["model"]
    after = read_checkpoint(tmp_path / "again.pth")["model"]
    # all but the counters of batch norms, which nothing reads and frozen norms do not have
    assert {n for n in before if not n.endswith("num_batches_tracked")} == set(after)
    assert all(torch.equal(before[name], after[name]) for name in after)


def test_class_names_come_from_the_data_set_if_no_file_has_them(trained, tmp_path, capsys):
    metadata = trained / "metadata.json"
    metadata.unlink()
    run("--from", "d2", trained / "model_final.pth", "--to", "hf", tmp_path / "hf")
    assert THING_CLASSES[0] in capsys.readouterr().out

    cfg = load_config(str(trained / "config.yaml"), ["DATASETS.TRAIN", "()", "DATASETS.TEST", "()"])
    (trained / "config.yaml").write_text(cfg.dump())
    assert "DATASETS is empty" in fails(
        "--from", "d2", trained / "model_final.pth", "--to", "hf", tmp_path / "new", capsys=capsys
    )
    metadata.write_text(json.dumps({"thing_classes": ["a"]}))
    message = fails(
        "--from", "d2", trained / "model_final.pth", "--to", "hf", tmp_path / "new", capsys=capsys
    )
    assert f"{metadata} has 1 classes" in message
    assert not (tmp_path / "new").exists()


def test_a_panoptic_model_keeps_its_task_and_things(folder, tmp_path, capsys):
    config = folder / "config.json"
    content = json.loads(config.read_text()) | {"mask2former_thing_classes": [0, 1]}
    config.write_text(json.dumps(content))
    file = tmp_path / "d2/model.pth"
    run("--from", "hf", folder, "--to", "d2", file, "--task", "panoptic")
    assert "panoptic segmentation of 5 classes" in capsys.readouterr().out
    cfg = load_config(str(file.with_suffix(".yaml")))
    assert task_of_cfg(cfg) == "panoptic"
    MetadataCatalog.remove(cfg.DATASETS.TEST[0])  # as in another process
    run("--from", "d2", file, "--to", "hf", tmp_path / "back")
    back = json.loads((tmp_path / "back/config.json").read_text())
    assert back["mask2former_task"] == "panoptic"
    assert back["mask2former_thing_classes"] == [0, 1]
    assert list(back["id2label"].values()) == list(CLASSES)


def test_a_folder_in_several_files(folder, tmp_path):
    model = Mask2FormerForUniversalSegmentation.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="300KB")
    assert (folder / "model.safetensors.index.json").exists()
    run("--from", "hf", folder, "--to", "d2", tmp_path / "one.pth")
    (folder / "model.safetensors.index.json").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    run("--from", "hf", folder, "--to", "d2", tmp_path / "two.pth", "--overwrite")
    one, two = (read_checkpoint(tmp_path / name)["model"] for name in ("one.pth", "two.pth"))
    assert sorted(one) == sorted(two)
    assert all(torch.equal(one[name], two[name]) for name in one)


# --- Mistakes ---


def fails(*arguments, capsys) -> str:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_files_are_overwritten_only_on_request(folder, tmp_path, capsys):
    output = tmp_path / "output"
    output.mkdir()
    (output / "metadata.json").write_text("mine")
    arguments = ("--from", "hf", folder, "--to", "d2", output / "a.pth")
    assert "metadata.json exists already" in fails(*arguments, capsys=capsys)
    assert files(output) == ["metadata.json"]
    assert (output / "metadata.json").read_text() == "mine"
    run(*arguments, "--overwrite")
    assert "thing_classes" in json.loads((output / "metadata.json").read_text())

    back = ("--from", "d2", output / "a.pth", "--to", "hf", folder)
    assert "config.json exists already" in fails(*back, capsys=capsys)
    run(*back, "--overwrite")
    assert "mask2former_task" in json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize(
    ("name", "task", "file", "message"),
    [
        ("model", None, "a.pth", "--task"),
        ("model-instance", None, "a.onnx", "a.onnx: weights are written as one of"),
        ("model-instance", None, "a", "weights are written as one of"),
    ],
)
def test_nothing_is_left_half_written(folder, tmp_path, name, task, file, message, capsys):
    folder = folder.rename(tmp_path / name)
    output = tmp_path / "output"
    output.mkdir()
    arguments = ("--from", "hf", folder, "--to", "d2", output / file)
    assert message in fails(*arguments, capsys=capsys)
    assert files(output) == []


def test_weights_of_another_model_are_reported(folder, tmp_path, capsys):
    path = folder / "config.json"
    content = json.loads(path.read_text()) | {"num_queries": 9}
    path.write_text(json.dumps(content))
    message = fails("--from", "hf", folder, "--to", "d2", tmp_path / "a.pth", capsys=capsys)
    assert "NUM_OBJECT_QUERIES: 7 in the file, 9 in the config" in message
    assert not (tmp_path / "a.pth").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--from", "hf", "a", "--to", "hf", "b"), "convert --from hf DIR --to d2 FILE"),
        (("--from", "onnx", "a", "--to", "d2", "b"), "convert --from hf DIR --to d2 FILE"),
        (("--from", "hf", "a", "--to", "d2"), "expected 2 arguments"),
        (
            ("--from", "d2", "a", "--to", "hf", "b", "--task", "instance"),
            "--task goes with",
        ),
        (("--from", "hf", "a", "--to", "d2", "b", "--config-file", "c"), "--config-file goes with"),
    ],
)
def test_wrong_commands(arguments, message, capsys):
    assert message in fails(*arguments, capsys=capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--from", "hf", "nowhere", "--to", "d2", "b.pth"), "nowhere/config.json is missing"),
        (("--from", "d2", "nowhere.pth", "--to", "hf", "b"), "nowhere.pth"),
    ],
)
def test_missing_sources(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in fails(*arguments, capsys=capsys)
    assert files(tmp_path) == []


def test_as_a_command(folder, tmp_path):
    command = [sys.executable, str(REPOSITORY / "tools/convert_checkpoint.py")]
    command += ["--from", "hf", str(folder), "--to", "d2", "model.pth"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("model.pth: 230 tensors")
