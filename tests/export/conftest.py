"""A model to export, and a picture."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from support import QUICKSTART, TINY

from mask2former import Mask2Former, load_config
from mask2former.data import register_synthetic
from mask2former.data.metadata import write_metadata

SMALL = [*TINY, "MODEL.MASK_FORMER.DEC_LAYERS", 2]


@pytest.fixture(scope="session")
def picture():
    """A picture that is no multiple of 32, higher than wide."""
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 255, (9, 6, 3), np.uint8), np.ones((9, 11, 1), np.uint8))


def saved_run(folder, task="instance", overrides=()):
    """Write the folder of a run whose weights are random but tell queries apart."""
    config = QUICKSTART.with_name(f"{task}.yaml")
    cfg = load_config(str(config), [*SMALL, *overrides, "OUTPUT_DIR", str(folder)])
    torch.manual_seed(0)
    model = build_model(cfg)
    with torch.no_grad():
        model.sem_seg_head.predictor.class_embed.weight.mul_(20)
    folder.mkdir()
    torch.save({"model": model.state_dict()}, folder / "model_final.pth")
    (folder / "config.yaml").write_text(cfg.dump())
    write_metadata(folder / "metadata.json", cfg.DATASETS.TRAIN[0])
    return folder


@pytest.fixture(scope="session")
def onnx_file(panoptic, tmp_path_factory):
    """The model of `panoptic` as an ONNX file."""
    file = tmp_path_factory.mktemp("onnx") / "mine.onnx"
    comparisons = panoptic.export(file, license="CC0")
    assert [c.batch for c in comparisons] == [1, 3]
    assert all(c.equal_classes == 1 and c.equal_pixels == 1 for c in comparisons)
    return file


@pytest.fixture(scope="session")
def fixed_file(panoptic, tmp_path_factory):
    """The model of `panoptic` as an ONNX file for one image of 64 x 96 pixels."""
    file = tmp_path_factory.mktemp("onnx") / "fixed.onnx"
    panoptic.export(file, dynamic=(), size=(64, 96))
    return file


@pytest.fixture(scope="session")
def panoptic(datasets, tmp_path_factory):
    """A model whose training was in mixed precision, unlike everything that uses it."""
    register_synthetic(datasets)
    folder = tmp_path_factory.mktemp("run") / "p"
    return Mask2Former.from_pretrained(saved_run(folder, "panoptic", ["SOLVER.AMP.ENABLED", True]))
