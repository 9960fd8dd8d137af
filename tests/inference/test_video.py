"""The demo turns video files into video files and results."""

import json
import sys

import numpy as np
import pycocotools.mask as mask_util
import pytest


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
