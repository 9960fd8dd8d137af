"""Damaged and disguised image files are read or refused with one line."""

import functools
import importlib.util
import os
import random

import numpy as np
import pytest
from fuzzing import cases, mutated_bytes, one_line, run_cases
from PIL import Image, features

from mask2former.data.checks.image_files import read_header
from mask2former.data.errors import DatasetError
from mask2former.data.image import read_image
from mask2former.data.label_maps import read_label_map, read_panoptic_png
from mask2former_runtime.image import ImageReadError

# One per format that is decoded, and kinds of pixels that have decoders of their own.
KINDS = {
    "png": {}, "jpg": {}, "bmp": {}, "gif": {}, "tif": {}, "webp": {}, "ppm": {}, "tga": {},
    "jp2": {}, "pgm": {"mode": "L"}, "1.pbm": {"mode": "1"}, "16.png": {"mode": "I;16"},
    "16.tif": {"mode": "I;16"}, "float.tif": {"mode": "F"}, "alpha.png": {"mode": "RGBA"},
    "palette.png": {"mode": "P"}, "cmyk.jpg": {"mode": "CMYK"}, "rotated.jpg": {"orientation": 6},
    "progressive.jpg": {"progressive": True}, "lossless.webp": {"lossless": True},
    "lzw.tif": {"compression": "tiff_lzw"}, "deflate.tif": {"compression": "tiff_adobe_deflate"},
    "jpeg.tif": {"compression": "jpeg"}, "group4.tif": {"mode": "1", "compression": "group4"},
    "rle.tga": {"compression": "tga_rle"},
}  # fmt: skip
if features.check("avif"):
    KINDS["avif"] = {}
if importlib.util.find_spec("pillow_heif"):
    KINDS["heic"] = {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz_images")
    pixels = np.random.default_rng(0).integers(0, 255, (24, 31, 3), dtype=np.uint8)
    for kind, options in KINDS.items():
        options = dict(options)
        image = Image.fromarray(pixels)
        if (mode := options.pop("mode", None)) == "I;16":
            image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
        elif mode is not None:
            image = image.convert(mode)
        if orientation := options.pop("orientation", None):
            options["exif"] = Image.Exif()
            options["exif"][274] = orientation
        if kind == "heic":
            importlib.import_module("pillow_heif").register_heif_opener()
        image.save(folder / f"sound.{kind}", **options)
    return folder


def damaged(folder, seed):
    rng = random.Random(seed)
    kind = rng.choice(list(KINDS))
    path = folder / f"{seed}.{kind}"
    path.write_bytes(mutated_bytes((folder / f"sound.{kind}").read_bytes(), rng))
    read = {}
    for reader in (read_image, read_label_map, read_panoptic_png):
        try:
            read[reader] = reader(path)
        except (ImageReadError, DatasetError) as error:
            assert one_line(error, path)
    header = read_header(str(path), decode=True)
    if read_image in read:  # what the check before training refuses cannot be trained on
        assert header.upright == read[read_image].shape[:2]
    else:
        assert one_line(header, "")
    path.unlink()


def test_damaged_files_are_read_or_refused(folder):
    run_cases(functools.partial(damaged, folder), cases())


@pytest.mark.parametrize("kind", KINDS)
def test_sound_files_are_read(folder, kind):
    size = (31, 24) if kind == "rotated.jpg" else (24, 31)
    if kind == "float.tif":
        with pytest.raises(ImageReadError, match="floating-point"):
            read_image(folder / f"sound.{kind}")
    else:
        assert read_image(folder / f"sound.{kind}").shape == (*size, 3)


@pytest.mark.parametrize("kind", ["EPS", "DDS", "PCX", "PDF", "ICO", "SGI", "IM"])
def test_other_formats_stay_closed_whatever_they_are_called(tmp_path, monkeypatch, kind):
    path = tmp_path / "photo.png"
    Image.new("RGB", (16, 16)).save(path, format=kind)
    monkeypatch.setattr("subprocess.check_call", lambda *a, **k: pytest.fail("started a program"))
    with pytest.raises(ImageReadError, match="not an image of a known format"):
        read_image(path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "photo.png")
    with pytest.raises(ImageReadError, match="not a regular file"):
        read_image(tmp_path / "photo.png")
