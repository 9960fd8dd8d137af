"""`Mask2Former`: loading models of every kind, and predicting on images of every kind."""

import copy
import math
import pickle
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from demo_runs import instance_run, panoptic_run
from matplotlib import cbook
from PIL import Image

from mask2former import Mask2Former
from mask2former.data.image import read_image
from mask2former.inference.segmenters import load_model
from mask2former_runtime.image import ImageReadError
from mask2former_runtime.predictions import InstancePrediction, PanopticPrediction

TASKS = ("instance", "panoptic", "semantic")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a run whose model does all tasks."""
    return panoptic_run(tmp_path_factory.mktemp("panoptic")).parent


@pytest.fixture(scope="module")
def model(run) -> Mask2Former:
    return Mask2Former.from_pretrained(run)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        return Image.open(file).convert("RGB").resize((128, 150))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photo) -> Path:
    """Two images in a folder."""
    folder = tmp_path_factory.mktemp("images")
    photo.save(folder / "a.png")
    photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "b.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def same(one, other) -> bool:
    return (
        type(one) is type(other)
        and np.array_equal(one.masks, other.masks)
        and np.array_equal(one.scores, other.scores, equal_nan=True)
        and np.array_equal(one.labels, other.labels)
    )


def test_every_kind_of_one_image(model, folder, photo):
    path = folder / "a.png"
    expected = model.predict(path)
    assert isinstance(expected, PanopticPrediction) and len(expected) >= 2
    assert repr(expected).startswith("PanopticPrediction(a.png, 150\u00d7128: ")
    array = np.array(photo)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    for image, options in [
        (str(path), {}),
        (photo, {}),
        (array, {}),
        (array.astype(np.float64) / 255, {}),
        (array[:, :, ::-1], {"channel_order": "BGR"}),
        (read_image(path, "BGR"), {"channel_order": "BGR"}),
        (np.dstack([array, np.full(array.shape[:2], 255, np.uint8)]), {}),
        (tensor, {}),
        (tensor.float() / 255, {}),
        (tensor.flip(0), {"channel_order": "BGR"}),
    ]:
        found = model.predict(image, **options)
        assert same(found, expected)
        np.testing.assert_array_equal(found.image, array)
        np.testing.assert_array_equal(np.asarray(found.plot()), np.asarray(expected.plot()))
    assert not same(model.predict(array[:, :, ::-1]), expected)  # the order matters
    grey = np.array(photo.convert("L"))
    of_grey = model.predict(Image.fromarray(grey))
    assert same(model.predict(grey), of_grey)
    assert same(model.predict(torch.from_numpy(grey)[None]), of_grey)
    # Half of the photograph is blended with white, as in a file.
    half = np.dstack([array, np.full(array.shape[:2], 128, np.uint8)])
    Image.fromarray(half).save(folder / "half.tga")
    assert same(model.predict(half), model.predict(folder / "half.tga"))
    (folder / "half.tga").unlink()


def test_several_images_and_streams(model, folder, photo):
    one, two = (model.predict(folder / name) for name in ("a.png", "b.png"))
    assert not same(one, two)
    arrays = [np.array(Image.open(folder / name)) for name in ("a.png", "b.png")]
    batch = np.stack(arrays)
    for images in (
        folder,
        str(folder / "*.png"),
        [folder / "a.png", arrays[1]],
        tuple(arrays),
        [folder],
        batch,
        torch.from_numpy(batch).permute(0, 3, 1, 2),
    ):
        found = model.predict(images)
        assert isinstance(found, list) and len(found) == 2
        assert same(found[0], one) and same(found[1], two)
    for stream in (model.predict(iter(arrays)), model.predict(folder, stream=True)):
        assert same(next(stream), one)
        assert same(next(stream), two)
        with pytest.raises(StopIteration):
            next(stream)
    assert model.predict([]) == []


def test_a_stream_reads_images_when_it_is_asked(model, folder):
    taken = []

    def images():
        for name in ("a.png", "b.png"):
            taken.append(name)
            yield folder / name

    stream = model.predict(images())
    assert taken == []
    next(stream)
    assert taken == ["a.png"]


def test_videos_are_streams(model, photo, tmp_path):
    cv2 = pytest.importorskip("cv2")
    path = str(tmp_path / "film.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 12, (128, 150))
    for _ in range(3):
        writer.write(np.asarray(photo)[:, :, ::-1])
    writer.release()
    stream = model.predict(path)
    assert not isinstance(stream, list)
    found = list(stream)
    assert len(found) == 3
    assert "frame 2" in repr(found[2])
    assert found[0].image.shape == (150, 128, 3)


@pytest.mark.parametrize("suffix", ["gif", "tif"])
def test_animations_are_streams_and_no_images(model, photo, tmp_path, suffix):
    frames = [photo.rotate(10 * i) for i in range(3)]
    path = tmp_path / f"moving.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    stream = model.predict(path)
    assert not isinstance(stream, list)
    found = list(stream)
    assert ["frame 2" in repr(one) for one in found] == [False, False, True]
    frames[0].save(tmp_path / f"still.{suffix}")
    assert same(found[0], model.predict(tmp_path / f"still.{suffix}"))
    with Image.open(path) as opened:
        with pytest.raises(ValueError, match="an animation or has several pages"):
            model.predict(opened)
        opened.seek(2)
        assert same(found[2], model.predict(opened.convert("RGB")))


def test_images_that_cannot_be_used(model, folder, tmp_path):
    (tmp_path / "bad.jpg").write_text("no image")
    (tmp_path / "empty").mkdir()
    array = np.zeros((20, 30, 3), np.uint8)
    for image, message in [
        (tmp_path / "bad.jpg", "bad.jpg: not an image"),
        (tmp_path / "no.jpg", "no.jpg: no such file"),
        (tmp_path / "empty", "there is no image in the folder"),
        (str(tmp_path / "*.gif"), "matches no image"),
        ([folder / "a.png", tmp_path / "bad.jpg"], "bad.jpg: not an image"),
        ("https://example.com/a.jpg", "allow_url=True"),
        ("", "the path of an image is empty"),
        (7, "cannot predict on a int"),
        (b"GIF89a", "cannot predict on a bytes"),
        (Image.new("RGB", (0, 5)), "the image has no pixels: it is 0 x 5"),
        (torch.zeros(3, 4, 4).to_sparse(), "a dense tensor"),
        (torch.zeros(3, 4, 4, device="meta"), "a dense tensor"),
        (array.transpose(2, 0, 1), r"(H, W, 3) as array; this one has (3, 20, 30)"),
        (torch.from_numpy(array), r"(3, H, W) as tensor; this one has (20, 30, 3)"),
        (array[:0], r"this one has (0, 30, 3)"),
        (array.astype(np.uint16), "these are uint16: scale them"),
        (array + 200.0, "from 0 to 1; these are from 200 to 200"),
        (np.full((4, 4, 3), np.nan), "from 0 to 1"),
        (array.astype(bool), "these are bool"),
    ]:
        with pytest.raises(ValueError) as error:
            model.predict(image)
        assert message in str(error.value), image
        assert "\n" not in str(error.value)
    with pytest.raises(ImageReadError, match="control characters"):  # http.client.InvalidURL
        model.predict("http://127.0.0.1/a b.jpg", allow_url=True)
    for arguments, message in [
        ({"channel_order": "GBR"}, "channel_order"),
        ({"threshold": 50}, "threshold is 50: a number from 0 to 1"),
        ({"threshold": math.nan}, "threshold is nan"),
        ({"threshold": "0.5"}, "threshold is '0.5'"),
        ({"tile": "a"}, "tile 'a'"),
        ({"tile": 64.5}, "tile 64.5"),
        ({"tile": 64, "overlap": "a"}, "overlap 'a'"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.predict(array, **arguments)


def test_tasks_and_thresholds_equal_models_of_one_task(run, model, photo):
    image = np.array(photo)
    for task in TASKS:
        for threshold in (None, 0.2) if task != "semantic" else (None,):
            alone = load_model(str(run / "config.yaml"), ["MODEL.DEVICE", "cpu"], task=task)
            expected = alone.segmenter(threshold=threshold).find(image[:, :, ::-1])
            assert same(model.predict(image, task=task, threshold=threshold), expected)
    assert len(model.predict(image, threshold=0.95)) < len(model.predict(image, threshold=0.2))
    assert same(model.predict(image), model.predict(image, task="panoptic"))
    with pytest.raises(ValueError, match="threshold means nothing"):
        model.predict(image, task="semantic", threshold=0.5)
    with pytest.raises(ValueError, match="no task 'depth'"):
        model.predict(image, task="depth")


def test_sources_of_one_model(run, model, photo, tmp_path):
    expected = model.predict(photo)
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/model_final.pth").rename(tmp_path / "run/model_0000009.pth")
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(run / "model_final.pth", tmp_path / "elsewhere/w.pth")
    shutil.copy(run / "metadata.json", tmp_path / "elsewhere")
    for source, options in [
        (str(run), {}),
        (run / "config.yaml", {}),
        (run / "model_final.pth", {}),
        (tmp_path / "run", {}),
        (tmp_path / "elsewhere/w.pth", {"config_file": run / "config.yaml"}),
    ]:
        loaded = Mask2Former.from_pretrained(source, **options)
        assert loaded.names == ["sky", "dog", "road", "person"]
        assert same(loaded.predict(photo), expected)
    smaller = Mask2Former.from_pretrained(
        run, overrides=["INPUT.MIN_SIZE_TEST", 64], task="semantic"
    )
    assert smaller.task == "semantic" and smaller.cfg.INPUT.MIN_SIZE_TEST == 64


def test_sources_that_cannot_be_meant(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "output/mine")
    Path("empty").mkdir()
    Path("both").mkdir()
    for name in ("config.yaml", "config.json"):
        Path("both", name).touch()
    Path("young").mkdir()
    shutil.copy(run / "config.yaml", "young")
    Path("lonely.pth").touch()
    Path("photo.jpg").touch()
    zoo = "coco/instance-segmentation/maskformer2_R50_bs16_50ep"
    for source, message in [
        ("output", "Did you mean output/mine?"),
        ("output/mime", "no such file or folder, and no published model has this name. Did you"),
        ("output/mime", "output/mine"),
        ("empty", "neither the folder of a training run"),
        ("both", "name the file of weights, such as both/model_final.pth or"),
        ("young", "neither model_final.pth nor another checkpoint"),
        ("lonely.pth", "beside lonely.pth there is no config.yaml"),
        ("photo.jpg", "is not a model: files of weights end in"),
        ("https://example.com/m.pth", "give their config too, as config_file"),
        (f"{zoo}s", f"Did you mean {zoo}"),
        ("maskformer2_R50_bs16_50ep", f"or {zoo}?"),
        ("hf://one", "named hf://owner/name"),
        (None, "by its path or name, not by a NoneType"),
        (b"output/mine", "not by a bytes"),
    ]:
        with pytest.raises(ValueError) as error:
            Mask2Former.from_pretrained(source)
        assert message in str(error.value), source
        assert "\n" not in str(error.value)
    for device in ("meta", *(() if torch.backends.mps.is_available() else ("mps",))):
        with pytest.raises(ValueError, match="this machine does not have"):
            Mask2Former.from_pretrained("output/mine", device=device)
    with pytest.raises(ValueError, match="config_file is for"):
        Mask2Former.from_pretrained("output/mine", config_file=run / "config.yaml")
    with pytest.raises(ValueError, match="without panoptic"):
        instance_run(Path("empty"))
        Mask2Former.from_pretrained("empty", task="panoptic")


def test_threads_find_what_one_finds(model):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (int(h), 100, 3), np.uint8) for h in rng.integers(60, 140, 12)]
    tasks = [TASKS[i % 3] for i in range(len(images))]
    expected = [model.predict(x, task=task) for x, task in zip(images, tasks, strict=True)]
    found = [None] * len(images)
    gate = threading.Barrier(4)

    def work(number):
        gate.wait()
        for i in range(number, len(images), 4):
            found[i] = model.predict(images[i], task=tasks[i])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(a, b) for a, b in zip(found, expected, strict=True))


def test_copies_are_equal_and_apart(model, photo):
    expected = model.predict(photo)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert same(other.predict(photo), expected)
        assert repr(other) == repr(model)
        with torch.no_grad():
            for parameter in other.network.parameters():
                parameter.zero_()
    assert same(model.predict(photo), expected)


def test_precision(run, photo, monkeypatch, caplog):
    from mask2former.utils import device

    model = Mask2Former.from_pretrained(run, precision="float32")
    exact = model.predict(photo, task="instance", threshold=0)
    monkeypatch.setattr(device, "has_fast_bfloat16", lambda: True)
    assert model.bfloat16() is model and model.precision == torch.bfloat16
    rounded = model.predict(photo, task="instance", threshold=0)
    assert rounded.scores.dtype == np.float32
    assert 0 < np.abs(rounded.scores[:5] - exact.scores[:5]).max() < 0.2
    assert same(model.float().predict(photo, task="instance", threshold=0), exact)
    for speed, chosen in ((2.0, torch.bfloat16), (0.5, torch.float32)):
        monkeypatch.setattr(device, "bfloat16_speed", lambda speed=speed: speed)
        assert Mask2Former.from_pretrained(run, precision="auto").precision == chosen
    monkeypatch.setattr(device, "has_fast_bfloat16", lambda: False)
    assert model.bfloat16().precision == torch.float32
    assert "float32: this CPU is not faster with bfloat16" in caplog.text
    with pytest.raises(ValueError, match="float16 is for GPUs"):
        model.half()
    with pytest.raises(ValueError, match="precision is 'int8'"):
        Mask2Former.from_pretrained(run, precision="int8")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="add: --opts MODEL"):
            Mask2Former.from_pretrained(run, device="cuda")
        with pytest.raises(ValueError, match="finds no CUDA"):
            model.to("cuda")
    assert model.to("cpu").device == torch.device("cpu")


def test_what_users_type(run, model, folder, tmp_path):
    """The names that users type."""
    result = model.predict(folder / "a.png", task="instance", threshold=0.1)
    assert isinstance(result, InstancePrediction)
    count = len(result)
    assert result.masks.shape == (count, 150, 128)
    assert result.boxes.shape == (count, 4)
    assert len(result.scores) == len(result.labels) == len(result.names) == count > 0
    assert result.label_map.shape == (150, 128) and len(result.segments) == count
    result.save(tmp_path / "out.jpg")
    assert Image.open(tmp_path / "out.jpg").format == "JPEG"
