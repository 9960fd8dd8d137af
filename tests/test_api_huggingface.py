"""`Mask2Former` and Hugging Face: the same masks as `transformers`, folders, and the Hub."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hf_models import CLASSES, model_config, published_config, random_model, save, swin_config
from PIL import Image
from small_hub import SmallHub
from support import REPOSITORY, SOURCES
from transformers import AutoImageProcessor, Mask2FormerForUniversalSegmentation

from mask2former import Mask2Former

# Both sides see these pixels, and their post-processing makes masks of this size.
SIDE = 384


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    with Image.open(REPOSITORY / "docs/pictures/food.jpg") as picture:
        return picture.convert("RGB").crop((0, 0, 420, 420)).resize((SIDE, SIDE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small model with random weights, as `transformers` saves it."""
    folder = tmp_path_factory.mktemp("hf") / "mask2former-swin-small-coco-instance"
    save(random_model(model_config(swin_config(), num_queries=20)), folder, do_resize=False)
    return folder


@torch.no_grad()
def theirs(folder: Path, photo: Image.Image) -> dict:
    """What `transformers` finds, with every score."""
    processor = AutoImageProcessor.from_pretrained(folder)
    network = Mask2FormerForUniversalSegmentation.from_pretrained(folder).eval()
    outputs = network(**processor(photo, return_tensors="pt"))
    (result,) = processor.post_process_instance_segmentation(
        outputs, threshold=0.0, target_sizes=[(photo.height, photo.width)], return_binary_maps=True
    )
    return result


def assert_same_instances(model: Mask2Former, folder: Path, photo: Image.Image, atol: float):
    """Scores within `atol`; of the pixels of all masks, at most this share may differ."""
    expected = theirs(folder, photo)
    found = model.predict(photo, threshold=0)
    assert found.task == "instance" and len(found) >= len(expected["segments_info"]) > 5
    masks = expected["segmentation"].numpy().astype(bool)
    agreements = []
    for info, mask in zip(expected["segments_info"], masks, strict=True):
        # Two queries may have nearly the same mask or the same score, but not both.
        candidates = [
            ((found.mask(i) == mask).mean(), abs(found.scores[i] - info["score"]))
            for i in np.flatnonzero(found.labels == info["label_id"])
        ]
        agreement, difference = max(candidates, key=lambda pair: pair[0] - pair[1])
        agreements.append(agreement)
        assert difference <= atol
    assert np.mean(agreements) >= 1 - atol and min(agreements) > 0.99


def test_masks_equal_those_of_transformers(folder, photo):
    model = Mask2Former.from_pretrained(folder)
    assert model.task == "instance" and model.names == list(CLASSES)
    # In another layout, rounding moves a pixel across the threshold of masked attention.
    model.network.to(memory_format=torch.contiguous_format)
    assert_same_instances(model, folder, photo, 1e-5)


@pytest.mark.slow
def test_masks_equal_those_of_transformers_swin_base(tmp_path, photo):
    """The size of facebook/mask2former-swin-base-coco-instance."""
    folder = tmp_path / "mask2former-swin-base-coco-instance"
    config = published_config("maskformer2_swin_base_384_bs16_50ep")
    save(random_model(config), folder, do_resize=False)
    assert_same_instances(Mask2Former.from_pretrained(folder), folder, photo, 1e-3)


def test_saved_folders_are_loaded_by_transformers(folder, photo, tmp_path):
    model = Mask2Former.from_pretrained(folder)
    model.save_pretrained(tmp_path / "new/saved")
    saved = Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path / "new/saved")
    original = Mask2FormerForUniversalSegmentation.from_pretrained(folder)
    state, expected = saved.state_dict(), original.state_dict()
    assert state.keys() == expected.keys()
    unused = "encoder.swin.layernorm."  # of the classifier that the backbone was
    assert all(torch.equal(state[n], expected[n]) for n in state if unused not in n)
    assert saved.config.id2label == original.config.id2label
    again = Mask2Former.from_pretrained(tmp_path / "new/saved")
    one, two = (m.predict(photo, threshold=0) for m in (model, again))
    np.testing.assert_array_equal(one.masks, two.masks)
    np.testing.assert_array_equal(one.scores, two.scores)
    with pytest.raises(ValueError, match="exists already"):
        model.save_pretrained(tmp_path / "new/saved")
    model.save_pretrained(tmp_path / "new/saved", overwrite=True)


def test_a_folder_that_does_not_state_its_task(folder, photo, tmp_path):
    save(random_model(model_config(swin_config())), tmp_path / "model", do_resize=False)
    with pytest.raises(ValueError, match="does not state the task"):
        Mask2Former.from_pretrained(tmp_path / "model")
    model = Mask2Former.from_pretrained(tmp_path / "model", task="semantic")
    assert model.predict(photo).task == "semantic"
    # What a folder states is not changed by what it is used for.
    content = json.loads((folder / "config.json").read_text())
    assert "mask2former_task" not in content
    with pytest.raises(ValueError, match="without semantic segmentation"):
        Mask2Former.from_pretrained(folder, task="semantic")


ONLINE = """
import sys
from mask2former import Mask2Former
mine = Mask2Former.from_pretrained(sys.argv[1])
print("uploaded to", mine.push_to_hub("someone/mask2former-of-mine-instance"))
expected = mine.predict(sys.argv[2], threshold=0)
for name in ("someone/mask2former-of-mine-instance", "hf://someone/mask2former-of-mine-instance"):
    result = Mask2Former.from_pretrained(name).predict(sys.argv[2], threshold=0)
    assert (result.masks == expected.masks).all()
    print(result)
try:
    Mask2Former.from_pretrained("someone/else")
except ValueError as error:
    print("ValueError:", error)
"""
OFFLINE = """
import sys
from mask2former import Mask2Former
print(Mask2Former.from_pretrained("someone/mask2former-of-mine-instance"))
try:
    Mask2Former.from_pretrained("someone/else")
except ValueError as error:
    print("ValueError:", error)
"""


def test_models_go_to_the_hub_and_come_back(folder, photo, tmp_path):
    """Through `huggingface_hub` and a server that speaks its protocol."""
    photo.save(tmp_path / "photo.png")

    def run(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
        cache = {"HF_HOME": str(tmp_path / "cache"), "HF_TOKEN": "hf_x"}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)],
            env={**os.environ, **cache, "PYTHONPATH": SOURCES, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done

    with SmallHub(licence="cc-by-nc-4.0") as hub:
        online = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
        done = run(ONLINE, folder, tmp_path / "photo.png", **online)
        assert done.stdout.count("InstancePrediction(photo.png, 384") == 2
        licence = "Licence of someone/mask2former-of-mine-instance: cc-by-nc-4.0"
        assert done.stderr.count(licence) == 1
        assert "there is no folder someone/else here, and someone/else cannot be" in done.stdout
        assert sorted(hub.files) == ["config.json", "model.safetensors", "preprocessor_config.json"]
        # The second time, the model came from the cache.
        downloads = [r for r in hub.requests if r.startswith("GET") and "model.safetensors" in r]
        assert len(downloads) == 1
        count = len(hub.requests)
        done = run(OFFLINE, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1")
        assert len(hub.requests) == count
        assert "instance segmentation, 5 classes" in done.stdout
        assert "someone/else is not in the Hub's cache, and HF_HUB_OFFLINE" in done.stdout
        assert "Licence" not in done.stderr
