"""Damaged images and videos cost neither the other results nor the JSON, and show in the status."""

import json
import os
import resource
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from mask2former.data.image import frame_times, read_frames
from mask2former.inference.segmenters import Segmenter
from mask2former_runtime.image import ImageReadError, read_image
from mask2former_runtime.inputs import expand_inputs, image_ids


def write_png(path, side, rows, animation=None):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    data = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    if animation is not None:
        data += chunk(b"acTL", struct.pack(">II", animation, 0))
    data += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def test_the_number_of_frames_is_not_taken_on_trust(tmp_path):
    path = tmp_path / "frames.png"
    write_png(path, 10, bytes(110), animation=2**31 - 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (read_image, lambda path: list(read_frames(path)), frame_times):
        with pytest.raises(ImageReadError, match=r"frames\.png: .*Truncated"):
            read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@pytest.fixture
def folder(photo, tmp_path):
    """Two sound images among bad ones of many kinds."""
    folder = tmp_path / "in"
    folder.mkdir()
    small = photo.resize((60, 70))
    for name in ("a.png", "z.jpg"):
        small.save(folder / name)
    whole = (folder / "z.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").touch()
    small.save(folder / "eps.png", format="EPS")
    small.save(folder / "dds.png", format="DDS")
    write_png(folder / "huge.png", 100_000, bytes(1000))
    if features.check("avif"):
        small.save(folder / "broken.avif")
        content = (folder / "broken.avif").read_bytes()
        (folder / "broken.avif").write_bytes(content[: len(content) // 2])
    (folder / "circle.png").symlink_to(folder / "circle.png")
    return folder


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_one_bad_image_does_not_cost_the_others(demo, panoptic_config, folder, tmp_path, task):
    paths = sorted(folder.iterdir())
    inputs = [*paths, folder / "absent.png", folder / ("x" * 300), "/dev/zero"]
    status, out, err = demo(
        *("--input", *inputs, "--output", tmp_path / "out", "--json", tmp_path / "r.json"),
        *("--task", task, *["--confidence-threshold", 0] * (task == "instance")),
        config=panoptic_config,
    )
    assert status == 1
    lines = [line for line in err.splitlines() if "SKIPPED" in line]
    assert len(lines) == len(inputs) - 2
    assert f"2 of {len(inputs)} images done ({len(lines)} skipped)" in out
    for path in inputs[1:-1]:
        if path.name not in ("a.png", "z.jpg"):
            assert sum(f"SKIPPED {path}: " in line for line in lines) == 1, path
    assert "Traceback" not in err
    found = json.loads((tmp_path / "r.json").read_text())
    names = {f["file_name"] for f in (found if task == "instance" else found["images"])}
    assert names == {str(folder / "a.png"), str(folder / "z.jpg")}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "z.jpg"]


def test_a_folder_with_bad_images(demo, folder, tmp_path):
    os.mkfifo(folder / "pipe.png")  # not an image, so it is left out
    status, out, _ = demo("--input", folder, "--json", tmp_path / "r.json")
    assert status == 1
    assert "2 of " in out and (tmp_path / "r.json").exists()


def test_a_picture_that_cannot_be_written(demo, photo, tmp_path):
    """JPEG files have at most 65,535 rows and columns."""
    Image.new("RGB", (70_000, 2)).save(tmp_path / "wide.png")
    os.rename(tmp_path / "wide.png", tmp_path / "wide.jpg")
    photo.resize((60, 70)).save(tmp_path / "a.jpg")
    status, out, err = demo(
        *("--input", tmp_path / "wide.jpg", tmp_path / "a.jpg"),
        *("--output", tmp_path / "out", "--json", tmp_path / "r.json"),
    )
    assert status == 1
    assert "1 of 2 images done (1 skipped)" in out
    assert f"SKIPPED {tmp_path}/wide.jpg: " in err
    assert (tmp_path / "out/a.jpg").exists() and (tmp_path / "r.json").exists()


def test_memory_that_runs_out_costs_one_image(demo, photo, tmp_path, monkeypatch):
    photo.resize((60, 70)).save(tmp_path / "a.png")
    photo.resize((61, 70)).save(tmp_path / "b.png")
    find = Segmenter.find
    message = "a bug"

    def limited(self, image, *source):
        if image.shape[1] == 60:
            raise RuntimeError(message)
        return find(self, image, *source)

    monkeypatch.setattr(Segmenter, "find", limited)
    arguments = ["--input", tmp_path, "--json", tmp_path / "r.json"]
    with pytest.raises(RuntimeError, match="a bug"):
        demo(*arguments)
    message = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes\nmore"
    status, out, err = demo(*arguments)
    assert status == 1 and "1 of 2 images done" in out
    assert f"SKIPPED {tmp_path}/a.png: DefaultCPUAllocator" in err and "more" not in err


def test_results_that_cannot_be_written(demo, photo, tmp_path, monkeypatch):
    photo.resize((60, 70)).save(tmp_path / "a.png")

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mask2former_runtime.result_files.write_json", full)
    status, _, err = demo("--input", tmp_path, "--json", tmp_path / "r.json")
    assert status == 1
    assert f"error: {tmp_path}/r.json: No space left on device" in err


def test_a_video_that_is_cut_off(demo, photo, tmp_path):
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12, (160, 120))
    for i in range(12):
        writer.write(np.asarray(photo.resize((160, 120)))[:, :, ::-1] // (i + 1))
    writer.release()
    arguments = ["--video-input", path, "--json", tmp_path / "r.json"]
    assert demo(*arguments)[0] == 0
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    status, out, err = demo(*arguments)
    assert (tmp_path / "r.json").exists()
    assert "frames done" in out
    assert (status == 1) == ("frames can be read" in err)
    os.mkfifo(tmp_path / "pipe.avi")
    status, _, err = demo("--video-input", tmp_path / "pipe.avi", "--json", tmp_path / "r.json")
    assert status == 1 and "pipe.avi" in err


def test_links_in_a_circle_and_names_of_any_kind(tmp_path):
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name in (tmp_path / "circle", tmp_path / ("x" * 300), tmp_path / "\udcff.png"):
        assert expand_inputs([str(name)]) == [name]


def test_ids_fit_64_bits(tmp_path):
    assert image_ids([tmp_path / "01.png", tmp_path / f"{'9' * 18}.png"]) == [1, 10**18 - 1]
    assert image_ids([tmp_path / "1.png", tmp_path / f"{10**30}.png"]) == [1, 2]
    assert image_ids([tmp_path / ("9" * 5000)]) == [1]
