"""`mask2former convert` finds out what to convert to what."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from hf_models import BACKBONES, model_config, random_model, save
from torchvision.models import resnet50
from transformers import Mask2FormerForUniversalSegmentation

from mask2former.checkpoint import read_checkpoint
from mask2former.cli.main import main


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("hub") / "some-instance-model"
    save(random_model(model_config(BACKBONES["swin"]())), folder)
    return folder


def failure(*arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(["convert", *map(str, arguments)])
    return end.value.code, capsys.readouterr().err


def test_to_a_checkpoint_and_back(hf_folder, tmp_path, capsys):
    file = tmp_path / "model.pth"
    assert main(["convert", str(hf_folder), str(file)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "model.pth",
        "model.yaml",
        "metadata.json",
    }
    assert main(["convert", str(file), str(tmp_path / "back")]) == 0
    first, second = (
        Mask2FormerForUniversalSegmentation.from_pretrained(folder).state_dict()
        for folder in (hf_folder, tmp_path / "back")
    )
    assert first.keys() == second.keys()
    # `transformers` makes the last norm anew each time: no result depends on it.
    kept = [name for name in first if ".swin.layernorm." not in name]
    assert len(kept) == len(first) - 2
    assert all(torch.equal(first[name], second[name]) for name in kept)
    names = [
        json.loads((folder / "config.json").read_text())["id2label"]
        for folder in (hf_folder, tmp_path / "back")
    ]
    assert names[0] == names[1]


def test_what_exists_is_kept(hf_folder, tmp_path, capsys):
    (tmp_path / "model.pth").write_text("precious")
    status, err = failure(hf_folder, tmp_path / "model.pth", capsys=capsys)
    assert (status, "--overwrite" in err) == (2, True)
    assert (tmp_path / "model.pth").read_text() == "precious"
    assert main(["convert", str(hf_folder), str(tmp_path / "model.pth"), "--overwrite"]) == 0


def test_backbone(tmp_path, capsys):
    source, target = tmp_path / "resnet.pth", tmp_path / "R-50.pkl"
    torch.manual_seed(0)
    model = resnet50()
    torch.save(model.state_dict(), source)
    assert main(["convert", str(source), str(target)]) == 0
    state = read_checkpoint(str(target))["model"]
    assert torch.equal(torch.as_tensor(state["backbone.stem.conv1.weight"]), model.conv1.weight)
    torch.save({"weight": torch.zeros(1)}, source)
    status, err = failure(source, tmp_path / "other.pkl", capsys=capsys)
    assert (status, "is not an ImageNet backbone" in err) == (2, True)


def test_a_backbone_that_runs_code_is_read_on_request(tmp_path, capsys):
    torch.manual_seed(0)
    source, target = tmp_path / "resnet.pth", tmp_path / "R-50.pkl"
    torch.save({"model": resnet50().state_dict(), "args": argparse.Namespace(a=Path("b"))}, source)
    status, err = failure(source, target, capsys=capsys)
    assert (status, "--allow-unsafe-weights" in err) == (2, True)
    assert main(["convert", str(source), str(target), "--allow-unsafe-weights"]) == 0
    status, err = failure(source, target, "--task", "instance", capsys=capsys)
    assert (status, "--task and --config-file are for whole models" in err) == (2, True)


def test_the_file_of_a_hugging_face_model(hf_folder, tmp_path, capsys):
    """Its name means the folder, as it does in `mask2former predict`."""
    (weights,) = hf_folder.glob("*.safetensors")
    assert main(["convert", str(weights), str(tmp_path / "model.pth")]) == 0
    assert (tmp_path / "model.yaml").is_file()
    status, err = failure("hf://a/b/c", tmp_path / "a.pth", capsys=capsys)
    assert (status, "is named hf://owner/name" in err) == (2, True)


def test_nothing_to_convert(hf_folder, tmp_path, capsys):
    status, err = failure(hf_folder, tmp_path / "folder", capsys=capsys)
    assert status == 2
    assert "has Hugging Face's format already" in err
    status, err = failure(tmp_path / "gone", tmp_path / "model.pth", capsys=capsys)
    assert status == 2
    assert "no such file or folder" in err
