"""What the server answers equals what the model finds in this process."""

from __future__ import annotations

import io
import shutil
from concurrent.futures import ThreadPoolExecutor

import hotcoco
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from servers import multipart, photo, png, running

TASKS = ("panoptic", "instance", "semantic")


def decoded(answer):
    return [hotcoco.mask.decode(o["segmentation"]).astype(bool) for o in answer["objects"]]


@pytest.mark.parametrize("task", TASKS)
def test_objects_are_those_of_the_model(server, model, task):
    image = photo()
    threshold = {"instance": 0.05}.get(task)
    found = model.segmenter(task, threshold).find(image[:, :, ::-1])
    assert len(found) > 1
    query = f"?task={task}" + (f"&threshold={threshold}" if threshold else "")
    answer = server.predict(png(image), query).json()
    assert (answer["task"], answer["width"], answer["height"]) == (task, 90, 60)
    objects = answer["objects"]
    assert [o["name"] for o in objects] == found.names
    assert [o["category_id"] for o in objects] == [found.classes.ids[i] for i in found.labels]
    assert [o["score"] for o in objects] == [segment["score"] for segment in found.segments]
    assert [o["isthing"] for o in objects] == found.things
    np.testing.assert_array_equal([o["box"] for o in objects], found.boxes)
    np.testing.assert_array_equal(decoded(answer), found.masks)
    assert [o["area"] for o in objects] == found.masks.sum((1, 2)).tolist()


def test_forms_and_bodies_give_the_same(server):
    content = png(photo(1))
    expected = server.predict(content, "?task=semantic").json()
    for field in ("image", "file", "whatever"):
        body, kind = multipart(field, content)
        reply = server.request("POST", "/predict?task=semantic", body, {"Content-Type": kind})
        assert reply.json() == expected
    for kind in ("application/octet-stream", "IMAGE/JPEG; x=y", ""):
        reply = server.predict(content, "?task=semantic", **{"Content-Type": kind})
        assert reply.json() == expected


@pytest.mark.parametrize("task", TASKS)
def test_polygons(server, model, task):
    image = photo(5)
    found = model.segmenter(task).find(image[:, :, ::-1])
    answer = server.predict(png(image), f"?task={task}&format=polygons").json()
    for i, o in enumerate(answer["objects"]):
        rles = hotcoco.mask.frPyObjects(o["segmentation"], 60, 90)
        drawn = hotcoco.mask.decode(hotcoco.mask.merge(rles)).astype(bool)
        filled = ndimage.binary_fill_holes(found.mask(i), np.ones((3, 3)))
        np.testing.assert_array_equal(drawn, filled)


@pytest.mark.parametrize("task", TASKS)
def test_pictures(server, model, task):
    image = photo(2)
    found = model.segmenter(task).find(image[:, :, ::-1])
    reply = server.predict(png(image), f"?format=overlay&task={task}")
    assert reply.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(reply.body))), found.plot())
    reply = server.predict(png(image), f"?format=labels&task={task}")
    labels = np.asarray(Image.open(io.BytesIO(reply.body))).astype(int)
    np.testing.assert_array_equal(np.where(labels == 255, -1, labels), found.label_map)


def test_most_and_threshold(server):
    content = png(photo(3))
    everything = server.predict(content, "?task=instance&threshold=0").json()["objects"]
    scores = [o["score"] for o in everything]
    assert scores == sorted(scores, reverse=True)
    some = server.predict(content, f"?task=instance&threshold={scores[2]}").json()["objects"]
    assert [o["score"] for o in some] == [s for s in scores if s >= scores[2]]
    two = server.predict(content, "?task=instance&threshold=0&max=2").json()["objects"]
    assert two == everything[:2]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("?task=depth", "task: "),
        ("?threshold=2", "threshold: "),
        ("?threshold=x", "threshold: "),
        ("?max=0", "max: "),
        ("?format=gif", "format: "),
        ("?task=semantic&threshold=0.5", "threshold means nothing for semantic maps"),
        ("?task=semantic&max=3", "max means nothing for semantic maps"),
    ],
)
def test_parameters_are_checked(server, query, words):
    reply = server.predict(png(photo()), query)
    assert reply.status == 422
    assert reply.json()["detail"].startswith(words)


def test_rotated_photographs_are_upright(server):
    image = Image.fromarray(photo(4))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    answer = server.predict(file.getvalue(), "?task=semantic").json()
    assert (answer["width"], answer["height"]) == (60, 90)


def test_64_requests_at_once(server):
    """All are answered, each as if it were alone."""
    contents = [png(photo(seed, 40 + seed % 3, 60)) for seed in range(16)]
    query = "?task=instance&threshold=0"
    alone = [server.predict(content, query).json() for content in contents]
    with ThreadPoolExecutor(64) as threads:
        replies = list(threads.map(lambda i: server.predict(contents[i % 16], query), range(64)))
    assert [reply.status for reply in replies] == [200] * 64
    for i, reply in enumerate(replies):
        assert reply.json() == alone[i % 16]
    assert server.metric("mask2former_queue_depth") == 0


def test_batches_give_what_single_images_give(run_config, server, tmp_path):
    contents = [png(photo(seed, 60 + seed % 2, 90)) for seed in range(12)]
    query = "?task=instance&threshold=0.02"
    alone = [server.predict(content, query).json()["objects"] for content in contents]
    with running(run_config, tmp_path / "log", batch=4) as batched:
        with ThreadPoolExecutor(12) as threads:
            replies = list(threads.map(lambda content: batched.predict(content, query), contents))
        assert batched.metric("mask2former_batch_size_sum") == 12
        assert batched.metric("mask2former_batch_size_count") < 12
    for reply, expected in zip(replies, alone, strict=True):
        objects = reply.json()["objects"]
        assert [o["name"] for o in objects] == [o["name"] for o in expected]
        # Masked attention has a threshold, which turns a rounding error into another pixel.
        for key, most in (("score", 5e-3), ("area", 50)):
            np.testing.assert_allclose(
                [o[key] for o in objects], [o[key] for o in expected], rtol=0, atol=most
            )


def test_an_image_of_nan_fails_alone(run_config, tmp_path):
    """The other images of its batch are answered."""
    config = shutil.copytree(run_config.parent, tmp_path / "run") / "config.yaml"
    pixels = "  PIXEL_MEAN: [0.0, 0.0, 0.0]\n  PIXEL_STD: [1.0e-35, 1.0e-35, 1.0e-35]\n"
    config.write_text(config.read_text().replace("  RESNETS:", f"{pixels}  RESNETS:", 1))
    sound, overflowing = (png(np.full((60, 90, 3), value, np.uint8)) for value in (0, 255))
    contents = [sound, overflowing, sound, sound, overflowing, sound, sound, sound]
    query = "?task=instance&threshold=0"
    with running(config, tmp_path / "log", batch=4) as server:
        expected = server.predict(sound, query).json()["objects"]
        with ThreadPoolExecutor(8) as threads:
            replies = list(threads.map(lambda content: server.predict(content, query), contents))
        assert "images go one by one: the network gives NaN" in (tmp_path / "log").read_text()
    assert "Traceback" not in (tmp_path / "log").read_text()
    for reply, content in zip(replies, contents, strict=True):
        if content == sound:
            assert reply.status == 200
            assert len(reply.json()["objects"]) == len(expected)
        else:
            assert reply.status == 500
            assert "the network gives NaN or infinity" in reply.json()["detail"]
