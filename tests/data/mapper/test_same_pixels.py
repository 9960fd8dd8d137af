"""Training, evaluation and inference show a model the same pixels of a file, to the bit."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mask2former.data import DatasetError, SegmentationMapper
from mask2former.data.image import read_image
from mask2former.inference.predictor import Predictor
from mask2former.inference.test_time_augmentation import InferenceWithTTA
from mask2former_runtime.image import IMAGE_FORMATS

HEIGHT, WIDTH = 24, 36


class Recorder(nn.Module):
    """A model that keeps what it is shown."""

    def forward(self, batched_inputs):
        self.shown = batched_inputs[0]["image"].clone()
        return [{"sem_seg": torch.zeros(2, *self.shown.shape[-2:])}]


def rgba():
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
    pixels[:4, :, 3], pixels[4:8, :, 3] = 0, 255
    return Image.fromarray(pixels)


def palette():
    return rgba().convert("RGB").quantize(16)


def deep():
    return Image.fromarray(
        np.random.default_rng(1).integers(0, 1 << 16, (HEIGHT, WIDTH), dtype=np.uint16)
    )


def save_turned(path, orientation, image=None):
    exif = Image.Exif()
    exif[0x0112] = orientation
    (image or rgba().convert("RGB")).save(path, exif=exif)


def save_heic(path):
    pytest.importorskip("pillow_heif").from_pillow(rgba()).save(path)


def save_avif(path):
    if ".avif" not in Image.registered_extensions():
        pytest.skip("this Pillow does not read AVIF")
    rgba().save(path)


FILES = {
    "RGBA.heic": save_heic,
    "RGBA.avif": save_avif,
    "RGB.png": lambda path: rgba().convert("RGB").save(path),
    "RGBA.png": lambda path: rgba().save(path),
    "LA.png": lambda path: rgba().convert("LA").save(path),
    "16-bit.png": lambda path: deep().save(path),
    "16-bit.tif": lambda path: deep().save(path),
    "CMYK.jpg": lambda path: rgba().convert("CMYK").save(path),
    "palette.png": lambda path: palette().save(path),
    "palette-transparent.png": lambda path: palette().save(path, transparency=3),
    "palette-transparent.gif": lambda path: palette().save(path, transparency=3),
    "color-key.png": lambda path: rgba().convert("L").save(path, transparency=7),
    "1-bit.png": lambda path: rgba().convert("1").save(path),
    "turned-alpha.png": lambda path: save_turned(path, 6, rgba()),
    **{
        f"turned-{orientation}.{suffix}": partial(save_turned, orientation=orientation)
        for orientation in range(2, 9)
        for suffix in ("jpg", "png")
    },
}


@pytest.mark.parametrize("image_format", IMAGE_FORMATS)
@pytest.mark.parametrize("name", FILES)
def test_all_readers_agree(tmp_path, name, image_format):
    path = tmp_path / name
    FILES[name](path)
    record = {"file_name": str(path), "image_id": 1, "annotations": []}
    options = {"augmentations": [], "image_format": image_format}
    training = SegmentationMapper(True, **options)(record)
    evaluation = SegmentationMapper(False, **options)(record)
    model = Recorder()
    Predictor(model, min_size=0, max_size=0, image_format=image_format)(read_image(path))
    inference = model.shown
    side = min(inference.shape[-2:])
    options = {"min_sizes": [side], "max_size": 1000, "flip": False, "image_format": image_format}
    InferenceWithTTA(model.eval(), **options)([{"file_name": str(path)}])

    assert inference.dtype == torch.uint8 and inference.shape[0] == 3
    assert (evaluation["height"], evaluation["width"]) == tuple(inference.shape[1:])
    for image in (training["image"], evaluation["image"], model.shown):
        assert torch.equal(image, inference)


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"INPUT\.FORMAT is 'L'.*'BGR'"):
        SegmentationMapper(True, augmentations=[], image_format="L")


@pytest.mark.parametrize(
    ("suffix", "reason"),
    [("dds", "not an image of a known format"), ("png", "damaged"), ("avif", "damaged")],
)
def test_files_that_cannot_be_read_are_named(tmp_path, suffix, reason):
    """DDS, which Pillow would try, is not among the formats that are decoded."""
    path = tmp_path / f"a.{suffix}"
    rgba().save(path)
    path.write_bytes(path.read_bytes()[:-30])
    mapper = SegmentationMapper(True, augmentations=[], image_format="RGB")
    message = rf"a\.{suffix} \(image id 7\): cannot read the image: {reason}"
    with pytest.raises(DatasetError, match=message):
        mapper({"file_name": str(path), "image_id": 7, "annotations": []})
