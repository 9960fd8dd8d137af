"""The demo turns video files into video files and results."""

import functools
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from mask2former.inference.video import VideoWriter


def test_video_without_opencv_says_how_to_get_it(demo, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    status, _, err = demo("--video-input", tmp_path / "a.mp4", "--output", tmp_path / "out")
    assert status == 2
    assert "pip install opencv-python-headless" in err


@pytest.fixture
def film(photo, tmp_path):
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12, (160, 120))
    for i in range(5):
        frame = np.asarray(photo.resize((200, 240)))[i : i + 120, i : i + 160, ::-1]
        writer.write(np.ascontiguousarray(frame))
    writer.release()
    return path


def frames_and_rate(path):
    cv2 = pytest.importorskip("cv2")
    video = cv2.VideoCapture(str(path))
    return video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS)


def test_video(demo, film, tmp_path):
    arguments = ["--video-input", film, "--json", tmp_path / "r.json"]
    arguments += ["--confidence-threshold", 0.05, "--output"]
    for output in (tmp_path / "out", tmp_path / "drawn.avi"):
        status, out, err = demo(*arguments, output)
        assert status == 0, err
        assert "frame 5/5" in out
        written = output / "film.mp4" if output.suffix == "" else output
        assert frames_and_rate(written) == (5, 12)
    results = json.loads((tmp_path / "r.json").read_text())
    assert {r["image_id"] for r in results} == set(range(5))
    assert mask_util.decode(results[0]["segmentation"]).shape == (120, 160)
    (tmp_path / "text.mp4").write_text("no video")
    for name, message in (("text.mp4", "cannot open"), ("none.mp4", "no such file")):
        status, _, err = demo("--video-input", tmp_path / name, "--output", tmp_path / "out")
        assert status == 1
        assert message in err
    status, _, err = demo("--video-input", film, "--output", film)
    assert status == 2
    assert "would replace the input" in err
    for json_file, replaced in ((film, "an input"), (tmp_path / "a.avi", "a picture of --output")):
        before = film.read_bytes()
        status, _, err = demo(
            "--video-input", film, "--json", json_file, "--output", tmp_path / "a.avi"
        )
        assert (status, f"{json_file} would replace {replaced}" in err) == (2, True)
        assert film.read_bytes() == before


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_video_of_maps(demo, panoptic_config, film, tmp_path, task):
    status, out, err = demo(
        "--video-input", film, "--task", task, "--json", tmp_path / "r.json",
        "--output", tmp_path / "drawn.avi", config=panoptic_config,
    )  # fmt: skip
    assert status == 0, err
    assert "frame 5/5" in out
    assert ("stuff, " if task == "panoptic" else "% ") in out
    assert frames_and_rate(tmp_path / "drawn.avi") == (5, 12)
    content = json.loads((tmp_path / "r.json").read_text())
    assert [image["id"] for image in content["images"]] == list(range(5))
    names = [annotation["file_name"] for annotation in content["annotations"]]
    assert names == [f"{i:06}.png" for i in range(5)]
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == names


@pytest.fixture
def long_film(film):
    """The same frames again and again, for seconds of work."""
    cv2 = pytest.importorskip("cv2")
    _, frame = cv2.VideoCapture(str(film)).read()
    path = film.with_name("long.avi")
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12, (160, 120))
    for _ in range(3000):
        writer.write(frame)
    writer.release()
    return path


@pytest.mark.parametrize("is_read", [True, False])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_an_ended_run_leaves_no_video_that_looks_finished(
    run_folder, long_film, film, number, is_read
):
    """Ctrl-C is how recordings end: what there is by then is a video."""
    out = film.with_name("out")
    out.mkdir()
    drawn = out / "drawn.mp4"
    drawn.write_bytes(b"an older film")
    command = [sys.executable, "-m", "mask2former", "predict", str(run_folder)]
    command += [str(long_film), "--output", str(drawn)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # Ctrl-C has no effect on what a shell started in the background.
    reset = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, **pipes, preexec_fn=reset) as process:
        for _ in range(5):
            process.stdout.readline()
        assert drawn.read_bytes() == b"an older film"
        if not is_read:  # as Ctrl-C ends both sides of a pipe
            process.stdout.close()
            process.stderr.close()
        process.send_signal(number)
        err = process.stderr.read() if is_read else b""
        process.wait(60)
    if number == signal.SIGINT:
        assert (process.returncode, b"interrupted" in err) == (
            (0, True) if is_read else (141, False)
        )
        assert 5 <= frames_and_rate(drawn)[0] < 3000
    else:
        assert process.returncode == (-number if number == signal.SIGKILL else 143)
        assert drawn.read_bytes() == b"an older film"
    assert len(list(out.iterdir())) == (2 if number == signal.SIGKILL else 1)


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_a_recording_is_kept_after_an_error(tmp_path, monkeypatch, error):
    """What a camera has shown cannot be filmed again."""
    pytest.importorskip("cv2")
    frame = np.zeros((120, 160, 3), np.uint8)
    for keep in (True, False):
        path = tmp_path / f"{keep}.avi"
        writer = VideoWriter(path, 12.0)
        with pytest.raises(type(error)), writer.taking_frames(keep=keep):
            writer.write(frame)
            raise error
        assert path.exists() == keep
    assert frames_and_rate(tmp_path / "True.avi")[0] == 1
    # A user who does not wait until the frames of a file are counted keeps it, too.
    writer = VideoWriter(tmp_path / "a.avi", 12.0)
    monkeypatch.setattr(writer, "_check_count", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with writer.taking_frames():
        writer.write(frame)
    assert frames_and_rate(tmp_path / "a.avi")[0] == 1


@pytest.fixture(params=["gif", "webp", "tif"])
def animation(request, photo, tmp_path):
    path = tmp_path / f"moving.{request.param}"
    frames = [photo.resize((160, 120)).rotate(angle) for angle in (0, 10, 20, 30)]
    options = {} if request.param == "tif" else {"duration": 200}
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    return path


def test_animations_are_read_as_frames_without_opencv(demo, animation, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    arguments = ("--json", tmp_path / "r.json", "--confidence-threshold", 0.05)
    status, out, err = demo("--video-input", animation, *arguments)
    assert status == 0, err
    assert "frame 4/4" in out
    results = json.loads((tmp_path / "r.json").read_text())
    assert {r["image_id"] for r in results} == set(range(4))
    # The same frames as single images give the same results.
    with Image.open(animation) as opened:
        opened.seek(3)
        opened.convert("RGB").save(tmp_path / "last.png")
    assert demo("--input", tmp_path / "last.png", *arguments)[0] == 0
    single = json.loads((tmp_path / "r.json").read_text())
    keys = ("category_id", "score", "segmentation")
    assert [{k: r[k] for k in keys} for r in single] == [
        {k: r[k] for k in keys} for r in results if r["image_id"] == 3
    ]


def test_animations_become_videos_of_their_rate(demo, animation, tmp_path):
    pytest.importorskip("cv2")
    status, _, err = demo("--video-input", animation, "--output", tmp_path / "out")
    assert status == 0, err
    rate = 1 if animation.suffix == ".tif" else 5
    assert frames_and_rate(tmp_path / "out" / "moving.mp4") == (4, rate)
    status, _, err = demo("--video-input", animation, "--output", tmp_path / "new.gif")
    assert status == 2 and "name a folder or a video file" in err


def test_an_animation_is_refused_as_an_image(demo, animation, tmp_path):
    status, _, err = demo("--input", animation, "--json", tmp_path / "r.json")
    assert status == 1
    assert f"SKIPPED {animation}: an animation or a file of several pages" in err
    assert "--video-input" in err


def test_pages_of_several_sizes_cannot_be_one_video(demo, photo, tmp_path):
    pytest.importorskip("cv2")
    pages = [photo.resize(size) for size in ((600, 700), (700, 600))]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    status, _, err = demo("--video-input", tmp_path / "a.tif", "--output", tmp_path / "a.avi")
    assert status == 1
    assert "a frame has 700x600 pixels, the first one 600x700" in err
    assert not (tmp_path / "a.avi").exists()
    status, _, err = demo("--video-input", tmp_path / "a.tif", "--json", tmp_path / "r.json")
    assert status == 0, err


def test_a_full_disk_leaves_the_old_video_and_the_results(run_folder, film, tmp_path):
    drawn, results = tmp_path / "drawn.avi", tmp_path / "r.json"
    drawn.write_bytes(b"an older film")
    program = """
import resource, sys
import cv2  # it opens its own code
from mask2former.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, 15_000))
sys.exit(main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", program, "predict", str(run_folder), str(film)]
    command += ["--output", str(drawn), "--json", str(results), "--threshold", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "of 5 frames could be written: is the disk full?" in done.stderr
    assert drawn.read_bytes() == b"an older film"
    assert json.loads(results.read_text()) == []
    assert {p.name for p in tmp_path.iterdir()} == {film.name, drawn.name, "r.json", "r.coco.json"}


def test_names_that_are_no_text(demo, film, tmp_path):
    """They crash OpenCV."""
    named = tmp_path / os.fsdecode(b"\xff.avi")
    film.rename(named)
    status, _, err = demo("--video-input", named, "--json", tmp_path / "r.json")
    assert status == 1
    assert "\\udcff.avi': OpenCV takes names in UTF-8 only; rename it" in err
    named.rename(film)
    status, _, err = demo("--video-input", film, "--output", named)
    assert status == 1
    assert "OpenCV takes names in UTF-8 only" in err
    (tmp_path / "folder.mp4").mkdir()
    status, _, err = demo("--video-input", tmp_path / "folder.mp4", "--output", tmp_path / "out")
    assert (status, "folder.mp4: not a file" in err) == (1, True)
    status, _, err = demo("--video-input", film, "--output", tmp_path / "folder.mp4")
    assert (status, "folder.mp4 is a folder: name a video file" in err) == (1, True)


def test_damage_is_reported(demo, animation, tmp_path):
    data = animation.read_bytes()
    for name, content in (("cut", data[: len(data) // 2]), ("text", b"no image")):
        path = tmp_path / f"{name}{animation.suffix}"
        path.write_bytes(content)
        status, _, err = demo("--video-input", path, "--json", tmp_path / "r.json")
        assert status == 1
        assert f"error: {path}: " in err
