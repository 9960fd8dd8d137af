"""Where the addresses of weights lead, without any request."""

import subprocess
import sys
from pathlib import Path

import pytest
from support import REPOSITORY
from torchvision.models import ResNet50_Weights, Swin_T_Weights

from mask2former.checkpoint import WeightsError, sources
from mask2former.checkpoint.sources import SWIN_RELEASES, local_weights, web_address


def test_addresses_of_torchvision():
    v1 = ResNet50_Weights.IMAGENET1K_V1.url
    assert web_address("torchvision://resnet50") == v1
    assert web_address("torchvision://ResNet50_Weights.IMAGENET1K_V1") == v1
    v2 = ResNet50_Weights.IMAGENET1K_V2.url
    assert web_address("torchvision://ResNet50_Weights.IMAGENET1K_V2") == v2 != v1
    assert web_address("torchvision://ResNet50_Weights.DEFAULT") == v2
    assert web_address("torchvision://swin_t") == Swin_T_Weights.IMAGENET1K_V1.url
    assert v1.startswith(sources.PYTORCH_URL)
    assert sources._hash_in_name(v1) == "0676ba61"


def test_addresses_of_other_libraries():
    name = "swin_base_patch4_window12_384_22k"
    releases = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0"
    assert web_address(f"swin://{name}") == f"{releases}/{name}.pth"
    assert web_address("timm://resnet50.tv_in1k") == (
        "https://huggingface.co/timm/resnet50.tv_in1k/resolve/main/model.safetensors"
    )
    assert web_address("detectron2://R-50.pkl").endswith("/detectron2/R-50.pkl")
    assert web_address("https://host/file") == "https://host/file"
    assert web_address("/home/me/model.pth") is None


def test_swin_releases_are_those_that_timm_converted():
    swin = pytest.importorskip("timm.models.swin_transformer")
    urls = {cfg.url for entry in swin.default_cfgs.values() for cfg in entry.cfgs.values()}
    of_the_same_folder = {url for url in urls if url.startswith(sources.SWIN_URL)}
    assert of_the_same_folder == {web_address(f"swin://{name}") for name in SWIN_RELEASES}


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("torchvision://resnet55", "Did you mean .*torchvision://resnet50"),
        ("torchvision://ResNet50_Weights.V2", r"torchvision://ResNet50_Weights\.IMAGENET1K_V2"),
        ("torchvision://vgg16", "no such weights"),
        ("torchvision://swin_v2_t", "torchvision://swin_t"),
        ("swin://swin_tiny_patch4_window7_22", "swin://swin_tiny_patch4_window7_224"),
        ("swin://tiny", "swin://swin_tiny_patch4_window7_224"),
        ("timm://timm/resnet50", "timm:// is followed by the name of a model"),
        ("swim://swin_tiny", "addresses begin with one of torchvision://, swin://, timm://"),
        ("weights/R-101.pkl", "write torchvision://resnet101"),
        ("swin_tiny_patch4_window7_224.pkl", "write swin://swin_tiny_patch4_window7_224"),
        ("missing.pth", f"looked for at {Path.cwd()}/missing.pth"),
    ],
)
def test_names_that_do_not_exist(address, message):
    with pytest.raises(WeightsError, match=message):
        local_weights(address)


def test_import_does_not_use_the_network(tmp_path):
    code = """
import socket
def refuse(*args, **kwargs):
    raise SystemExit("the import uses the network")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
import mask2former
from detectron2.utils.file_io import PathManager
import mask2former.checkpoint
try:
    PathManager.get_local_path("torchvision://resnet50")
except SystemExit:
    print("only when asked")
"""
    environment = {"FVCORE_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPOSITORY,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "only when asked" in done.stdout
