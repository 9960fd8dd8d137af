"""`preprocessor_config.json`: both libraries turn an image into the same pixels."""

import json
import logging

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from hf_models import (
    config_of_hf_folder,
    edit_json,
    model_config,
    of_the_model,
    swin_config,
    write_folder,
)
from transformers import AutoImageProcessor, Mask2FormerImageProcessor

from mask2former.checkpoint import WeightsError
from mask2former.checkpoint.huggingface import hf_preprocessor
from mask2former.inference.predictor import Predictor


def photograph(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


class Eyes(torch.nn.Module):
    """Keeps the image that the model gets after normalisation."""

    size_divisibility = 32

    def forward(self, image):
        self.seen = image
        raise StopIteration


def seen_by_our_model(cfg: CfgNode, rgb: np.ndarray) -> torch.Tensor:
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    model.backbone = Eyes()
    predict = Predictor(
        model,
        min_size=cfg.INPUT.MIN_SIZE_TEST,
        max_size=cfg.INPUT.MAX_SIZE_TEST,
        image_format=cfg.INPUT.FORMAT,
    )
    with pytest.raises(StopIteration):
        predict(rgb[:, :, ::-1])
    return model.backbone.seen


@pytest.mark.parametrize(
    "processor",
    [
        {"size": {"shortest_edge": 64, "longest_edge": 96}},
        {"do_resize": False},
        {"do_resize": False, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
        {"do_resize": False, "do_normalize": False},
        {"do_resize": False, "rescale_factor": 1 / 127.5, "image_mean": [1.0, 1.0, 1.0]},
        {"do_resize": False, "do_rescale": False, "image_mean": [120.0, 110.0, 100.0]},
    ],
)
def test_the_same_image_becomes_the_same_pixels(tmp_path, processor):
    theirs = model_config(swin_config(), mask2former_task="instance")
    cfg = config_of_hf_folder(write_folder(tmp_path, theirs, **processor))
    image = photograph(64, 96)
    expected = AutoImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt")
    seen = seen_by_our_model(cfg, image)
    torch.testing.assert_close(seen, expected["pixel_values"], rtol=1e-5, atol=1e-5)

    # and what we write back prepares images as what we read
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(hf_preprocessor(cfg)))
    again = AutoImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt")
    assert isinstance(AutoImageProcessor.from_pretrained(tmp_path), Mask2FormerImageProcessor)
    torch.testing.assert_close(again["pixel_values"], seen, rtol=1e-5, atol=1e-5)
    assert of_the_model(config_of_hf_folder(tmp_path)) == of_the_model(cfg)


def test_the_published_squeeze_to_a_square_is_ignored(folder, caplog):
    """It changes proportions, which neither the paper nor the published configs do."""
    mean = [0.48500001430511475, 0.4560000002384186, 0.4059999883174896]
    published = {"size": {"height": 384, "width": 384}, "image_mean": mean, "num_labels": 80}
    edit_json(folder, published, "preprocessor_config.json")
    with caplog.at_level(logging.WARNING):
        cfg = config_of_hf_folder(folder)
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (800, 1333)
    assert "INPUT.MIN_SIZE_TEST" in caplog.text and "384 x 384" in caplog.text
    assert cfg.MODEL.PIXEL_MEAN == [123.675, 116.28, 103.53]


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({"size": 640, "max_size": 2560}, (640, 2560)),  # before version 4.27
        ({"size": {"shortest_edge": 512}, "_max_size": 2048}, (512, 2048)),
        ({"size": {"shortest_edge": 1024, "longest_edge": 2048}}, (1024, 2048)),
    ],
)
def test_sizes(folder, changes, size):
    edit_json(folder, changes, "preprocessor_config.json")
    cfg = config_of_hf_folder(folder)
    assert size == (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("resample", 3),
        ("size", {"max_height": 10, "max_width": 10}),
        ("image_mean", 0.5),
    ],
)
def test_values_that_our_config_cannot_express_are_named(folder, key, value):
    edit_json(folder, {key: value}, "preprocessor_config.json")
    with pytest.raises(WeightsError, match=rf"preprocessor_config\.json: '{key}'"):
        config_of_hf_folder(folder)


@pytest.mark.parametrize(("ours", "theirs"), [(32, 32), (0, 0), (-1, 32)])
def test_size_divisor(folder, ours, theirs):
    cfg = config_of_hf_folder(folder)
    cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY = ours
    assert hf_preprocessor(cfg)["size_divisor"] == theirs
    edit_json(folder, {"size_divisor": theirs}, "preprocessor_config.json")
    assert theirs == config_of_hf_folder(folder).MODEL.MASK_FORMER.SIZE_DIVISIBILITY


def test_bgr_models_cannot_be_written(folder):
    cfg = config_of_hf_folder(folder)
    cfg.INPUT.FORMAT = "BGR"
    with pytest.raises(WeightsError, match=r"INPUT\.FORMAT is 'BGR'"):
        hf_preprocessor(cfg)
