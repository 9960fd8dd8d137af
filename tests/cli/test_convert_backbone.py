"""The command line that converts an ImageNet backbone."""

import subprocess
import sys

import torch
from backbones import original_release
from support import REPOSITORY

from mask2former.checkpoint import read_checkpoint, write_checkpoint
from mask2former.checkpoint.backbones import swin_to_d2


def convert(*arguments):
    command = [sys.executable, str(REPOSITORY / "tools/convert_backbone.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")


def test_tool(tmp_path):
    release = original_release()
    torch.save({"model": release, "epoch": 300}, tmp_path / "release.pth")
    done = convert(tmp_path / "release.pth", tmp_path / "ours.safetensors")
    assert done.returncode == 0, done.stderr
    written = read_checkpoint(tmp_path / "ours.safetensors")["model"]
    expected = swin_to_d2(release)
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)
    assert f"{len(expected)} tensors" in done.stdout


def test_tool_says_what_is_wrong(tmp_path):
    write_checkpoint({"model": {"a.b": torch.ones(1)}}, tmp_path / "other.pth")
    for source, message in {
        tmp_path / "other.pth": "other.pth is not an ImageNet backbone of a known kind",
        "torchvision://resnet51": "Did you mean torchvision://resnet50",
    }.items():
        done = convert(source, tmp_path / "out.pkl")
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.pkl").exists()
