"""The published models by name, from a checkout and from an installed wheel."""

import filecmp
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from support import REPOSITORY

from mask2former import load_config, model_zoo
from mask2former.checkpoint import WeightsError
from mask2former.checkpoint.downloads import cached_path
from mask2former.model_zoo.model_zoo import WEIGHTS_HASHES

R50 = "coco/instance-segmentation/maskformer2_R50_bs16_50ep"
SWIN_L = "coco/panoptic-segmentation/swin/maskformer2_swin_large_IN21k_384_bs16_100ep"
URL = "https://dl.fbaipublicfiles.com/maskformer/mask2former/"


def test_every_published_model_has_a_config():
    names = model_zoo.model_names()
    assert len(names) == 47
    for name in names:
        cfg = model_zoo.get_config(name)
        assert cfg.MODEL.META_ARCHITECTURE in META_ARCH_REGISTRY
        assert cfg == load_config(str(REPOSITORY / "configs" / f"{name}.yaml"))
    assert set(WEIGHTS_HASHES) <= set(names)


def test_suffix_is_optional():
    assert model_zoo.get_config_file(R50) == model_zoo.get_config_file(f"{R50}.yaml")
    assert model_zoo.get_config(R50, trained=True) == model_zoo.get_config(f"{R50}.yaml", True)


def test_trained_decides_on_the_weights_only():
    initial, trained = model_zoo.get_config(R50), model_zoo.get_config(R50, trained=True)
    url = model_zoo.get_checkpoint_url(R50)
    assert initial.MODEL.WEIGHTS == "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
    assert url == trained.MODEL.WEIGHTS
    trained.MODEL.WEIGHTS = initial.MODEL.WEIGHTS
    assert trained == initial


def test_addresses_of_the_weights():
    assert (
        model_zoo.get_checkpoint_url(R50)
        == f"{URL}coco/instance/maskformer2_R50_bs16_50ep/model_final_3c8ec9.pkl"
    )
    assert (
        model_zoo.get_checkpoint_url(f"{SWIN_L}.yaml")
        == f"{URL}coco/panoptic/maskformer2_swin_large_IN21k_384_bs16_100ep/model_final_f07440.pkl"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (R50.replace("50ep", "50"), rf"Did you mean {R50}, "),
        (SWIN_L.replace("swin/", ""), rf"Did you mean {SWIN_L}, "),
        ("maskformer_R50_bs16_300k", r"Did you mean mapillary-vistas/panoptic-segmentation/mask"),
        (f"../configs/{R50}", rf"Did you mean {R50}, "),
        ("resnet", r"model_names\(\) in Python"),
        ("", r"model_names\(\) in Python"),
    ],
)
def test_unknown_name(name, message):
    for function in (
        model_zoo.get_config_file,
        model_zoo.get_config,
        model_zoo.get_checkpoint_url,
        model_zoo.get,
    ):
        with pytest.raises(ValueError, match=f"^no config is named '{name}'.*{message}"):
            function(name)


@pytest.mark.parametrize("name", sorted(set(model_zoo.model_names()) - set(WEIGHTS_HASHES)))
def test_unknown_address_of_weights(name):
    with pytest.raises(ValueError, match=rf"address of the weights of {name}\b.*MODEL_ZOO\.md"):
        model_zoo.get_checkpoint_url(name)


@pytest.mark.parametrize("name", ["quickstart/instance", "common/training"])
def test_what_is_not_published_has_no_weights(name):
    assert Path(model_zoo.get_config_file(name)).is_file()
    with pytest.raises(ValueError, match=f"{name} is not a published model"):
        model_zoo.get_config(name, trained=True)


def test_untrained_model_reads_no_file(monkeypatch, tmp_path):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    model = model_zoo.get("quickstart/instance", trained=False, device="cpu")
    assert model.training
    model = model_zoo.get(f"{R50}.yaml", trained=False, device=torch.device("meta"))
    assert model.device.type == "meta"
    assert not list(tmp_path.iterdir())


def test_trained_model_comes_from_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    untrained = model_zoo.get(R50, trained=False, device="meta")
    # As Detectron2 writes published models
    state = {
        name: np.full(tensor.shape, 0.5, "float32")
        for name, tensor in untrained.state_dict().items()
    }
    file = cached_path(model_zoo.get_checkpoint_url(R50), R50)
    file.parent.mkdir(parents=True)
    file.write_bytes(pickle.dumps({"model": state, "__author__": "tests"}))

    model = model_zoo.get(R50, device="cpu")
    assert all((tensor == 0.5).all() for tensor in model.state_dict().values())

    file.write_bytes(b"no pickle")
    with pytest.raises(WeightsError, match=r"model_final_3c8ec9\.pkl"):
        model_zoo.get(R50, device="cpu")


def test_wheel_carries_every_config(wheels, tmp_path):
    zipfile.ZipFile(wheels[0]).extractall(tmp_path)
    installed = tmp_path / "mask2former/model_zoo/configs"
    configs = REPOSITORY / "configs"
    files = {str(file.relative_to(configs)) for file in configs.rglob("*.yaml")}
    assert {str(f.relative_to(installed)) for f in installed.rglob("*") if f.is_file()} == files
    assert filecmp.cmpfiles(configs, installed, files, shallow=False)[1:] == ([], [])
    assert (tmp_path / "mask2former/py.typed").is_file()
    assert {path.name for path in tmp_path.iterdir() if "dist-info" not in path.name} == {
        "mask2former"
    }


def test_wheel_carries_the_whole_package(wheels):
    package = REPOSITORY / "mask2former"
    files = [*package.rglob("*.py"), *package.rglob("*.json"), package / "py.typed"]
    expected = {str(file.relative_to(REPOSITORY)) for file in files}
    assert {"mask2former/cli/predict.py", "mask2former/data/datasets/ade20k.json"} <= expected
    carried = [set(zipfile.ZipFile(wheel).namelist()) for wheel in wheels]
    assert expected - carried[0] == set()
    assert not carried[0] & carried[1]
    package = REPOSITORY / "runtime/mask2former_runtime"
    files = {file.relative_to(package.parent) for file in package.rglob("*.*")}
    assert {f for f in map(str, files) if "__pycache__" not in f} - carried[1] == set()


def test_installed_wheel_gives_configs(wheels, tmp_path):
    site = tmp_path / "site"
    command = ("install", "-q", "--no-deps", "--no-index", "--target", site, *wheels)
    subprocess.run([sys.executable, "-m", "pip", *command], check=True)
    script = (
        "from mask2former import model_zoo\n"
        "for name in model_zoo.model_names():\n"
        "    assert model_zoo.get_config(name).MODEL.META_ARCHITECTURE == 'MaskFormer'\n"
        f"print(len(model_zoo.model_names()), model_zoo.get_config_file('{R50}'))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=tmp_path,
        env={"PYTHONPATH": str(site)},
    )  # fmt: skip
    count, file = result.stdout.split()
    assert int(count) == 47
    assert Path(file).is_relative_to(site)
