"""Damaged and disguised image files are read or refused with one line."""

import functools
import os
import random

import numpy as np
import pytest
from fuzzing import cases, mutated_bytes, run_cases
from PIL import Image, features

from mask2former.data.errors import DatasetError
from mask2former.data.image import ImageReadError, read_image
from mask2former.data.label_maps import read_label_map, read_panoptic_png

SUFFIXES = [".png", ".jpg", ".bmp", ".gif", ".tif", ".webp", ".ppm", ".tga", ".jp2"]
if features.check("avif"):
    SUFFIXES.append(".avif")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz_images")
    pixels = np.random.default_rng(0).integers(0, 255, (24, 31, 3), dtype=np.uint8)
    for suffix in SUFFIXES:
        Image.fromarray(pixels).save(folder / f"sound{suffix}")
    return folder


def damaged(folder, seed):
    rng = random.Random(seed)
    suffix = rng.choice(SUFFIXES)
    path = folder / f"{seed}{suffix}"
    path.write_bytes(mutated_bytes((folder / f"sound{suffix}").read_bytes(), rng))
    for read in (read_image, read_label_map, read_panoptic_png):
        try:
            read(path)
        except (ImageReadError, DatasetError) as error:
            assert len(str(error).splitlines()) == 1 and str(path) in str(error)
    path.unlink()


def test_damaged_files_are_read_or_refused(folder):
    run_cases(functools.partial(damaged, folder), cases())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_sound_files_are_read(folder, suffix):
    assert read_image(folder / f"sound{suffix}").shape == (24, 31, 3)


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
