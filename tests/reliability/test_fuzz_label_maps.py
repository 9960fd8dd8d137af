"""Damaged label maps and files of class names: read, reported, or refused in one line."""

import contextlib
import functools
import io
import json
import os
import random

import numpy as np
import pytest
from fuzzing import cases, mutated_bytes, mutated_json, one_line, run_cases
from label_files import save
from PIL import Image

from mask2former.data import DatasetError, check_semantic_folders
from mask2former.data.checks.semantic_folders import read_class_names
from mask2former.data.label_maps import read_label_map

HEIGHT, WIDTH = 24, 31
CLASSES = ["sky", "sea", "sand"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of images, one of label maps to check, and one of sound maps of every kind."""
    root = tmp_path_factory.mktemp("fuzz_labels")
    for name in ("images", "sound"):
        (root / name).mkdir()
    save(root / "images/a.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    labels = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 3
    save(root / "sound/8.png", labels.astype(np.uint8))
    save(root / "sound/16.png", labels.astype(np.uint16))
    save(root / "sound/8.tif", labels.astype(np.uint8), compression="tiff_lzw")
    save(root / "sound/16.tif", labels.astype(np.uint16))
    palette = Image.fromarray(labels.astype(np.uint8)).convert("P")
    palette.save(root / "sound/palette.png")
    return root


def damaged_map(folder, seed):
    rng = random.Random(seed)
    sound = rng.choice(sorted((folder / "sound").iterdir()))
    path = folder / f"labels_{seed}" / f"a{sound.suffix}"
    path.parent.mkdir()
    path.write_bytes(mutated_bytes(sound.read_bytes(), rng))
    with contextlib.redirect_stderr(io.StringIO()):
        report = check_semantic_folders(str(folder / "images"), str(path.parent), CLASSES)
    text = f"{report}\n{report.summary()}"
    assert max(map(len, text.splitlines())) < 1000
    try:
        assert read_label_map(path).ndim == 2
    except DatasetError as error:
        assert one_line(error, path)
        assert report.num_errors
    path.unlink()
    path.parent.rmdir()


def damaged_names(folder, seed):
    rng = random.Random(seed)
    path = folder / f"classes_{seed}"
    kind = rng.random()
    if kind < 0.5:
        content = mutated_json([*CLASSES, "\ud83d\ude00", "tree", "house"], rng)
        path.write_text(json.dumps(content))
    elif kind < 0.75:
        path.write_bytes(mutated_bytes(json.dumps(CLASSES).encode(), rng))
    else:
        path.write_bytes(mutated_bytes("\n".join(CLASSES).encode(), rng))
    try:
        names = read_class_names(str(path))
    except DatasetError as error:
        assert one_line(error, path)
    else:
        assert names and len(set(names)) == len(names)
        "\n".join(names).encode()  # can be written and printed
    path.unlink()


def test_label_maps(folder):
    run_cases(functools.partial(damaged_map, folder), cases())


def test_class_names(folder):
    run_cases(functools.partial(damaged_names, folder), cases())


def test_very_many_names_take_no_time(tmp_path):
    path = tmp_path / "classes"
    path.write_text("\n".join(f"class {i}" for i in range(200_000)))
    assert len(read_class_names(str(path))) == 200_000


@pytest.mark.parametrize("what", ["fifo", "device", "folder", "endless", "nested", "half", "null"])
def test_what_names_no_classes_is_one_line(tmp_path, what):
    path = tmp_path / "classes"
    if what == "fifo":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    elif what == "folder":
        path.mkdir()
    else:
        texts = {"endless": "x" * (1 << 25), "nested": "[" * 200_000, "half": '["\\ud800"]'}
        path.write_text(texts.get(what, "sky\n\0"))
    with pytest.raises(DatasetError, match=str(path)) as caught:
        read_class_names(str(path))
    assert one_line(caught.value, path)
