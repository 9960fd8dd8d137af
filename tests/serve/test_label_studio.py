"""Label Studio's contract, as its documentation and its SDK describe it."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, ImageDraw
from servers import photo, png, running

from mask2former.serve.brush import encode_brush
from mask2former.serve.errors import RequestError
from mask2former.serve.label_studio import read_label_config
from mask2former.serve.limits import Limits
from mask2former.serve.task_images import TaskImages

KEY = "key-of-a-user"
CONFIG = """
<View>
  <Image name="photo" value="$picture"/>
  <{kind} name="tag" toName="photo">
    <Label value="Person" background="red"/>
    <Label value="Pet" predicted_values="dog, cat"/>
    <Label value="road"/>
  </{kind}>
</View>"""


def decode_brush(code: list[int], shape: tuple[int, int]) -> np.ndarray:
    """What Label Studio's editor does, bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in code)
    position = 0

    def take(count: int) -> int:
        nonlocal position
        position += count
        return int(bits[position - count : position], 2)

    number, word = take(32), take(5) + 1
    widths = [take(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < number:
        repeated, length = take(1), take(widths[take(2)]) + 1
        values += [take(word)] * length if repeated else [take(word) for _ in range(length)]
    assert len(bits) - position < 8
    pixels = np.array(values).reshape(*shape, 4)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 3] == 255


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (40, 30), (300, 400)])
def test_brush_masks_survive(shape):
    rng = np.random.default_rng(0)
    noise = rng.random(shape) > 0.5
    for mask in (noise, np.zeros(shape, bool), np.ones(shape, bool), np.tri(*shape) > 0):
        np.testing.assert_array_equal(decode_brush(encode_brush(mask), shape), mask)


@pytest.mark.parametrize(
    ("mask", "code"),
    [
        ([[0]], [0, 0, 0, 4, 57, 27, 252, 96, 0]),
        ([[1]], [0, 0, 0, 4, 57, 27, 252, 127, 224]),
        ([[0] * 5] * 3, [0, 0, 0, 60, 57, 27, 254, 59, 0]),
    ],
)
def test_brush_masks_have_the_bytes_of_the_sdk(mask, code):
    """Those of `label_studio_sdk.converter.brush.encode_rle` 2.1.2, without a last empty byte."""
    assert encode_brush(np.array(mask, bool)) == code


class Studio(http.server.BaseHTTPRequestHandler):
    """Plays the part of a Label Studio server that has one image."""

    image = png(photo(7, 50, 80))
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.headers["Authorization"] != f"Token {KEY}":
            self.send_error(401)
        elif self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/data/a.png")
            self.end_headers()
        elif self.path == "/data/a.png":
            self.reply(self.image)
        elif self.path == "/large":
            self.reply(bytes(3 * 2**20))
        else:
            self.send_error(404)

    def reply(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(content)

    def log_message(self, *arguments) -> None:
        pass


@pytest.fixture(scope="module")
def studio() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Studio) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def as_data(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def ask(server, addresses, kind="BrushLabels", query="?task=semantic", config=CONFIG):
    body = {
        "tasks": [{"id": i, "data": {"picture": a}} for i, a in enumerate(addresses)],
        "label_config": config.format(kind=kind),
        "project": "1.1700000000",
        "params": {"login": None, "password": None, "context": None},
    }
    return server.request(
        "POST", f"/predict{query}", json.dumps(body), {"Content-Type": "application/json"}
    )


def test_health_and_setup(server):
    assert server.get("/health").json()["status"] == "UP"
    body = {
        "project": "1.1700000000",
        "schema": CONFIG.format(kind="BrushLabels"),
        "hostname": "http://127.0.0.1:8080",
        "access_token": KEY,
        "extra_params": None,
    }
    reply = server.request("POST", "/setup", json.dumps(body), {"Content-Type": "application/json"})
    assert reply.status == 200
    version = reply.json()["model_version"]
    content = png(photo(7, 50, 80))
    assert ask(server, [as_data(content)]).json()["results"][0]["model_version"] == version


@pytest.mark.parametrize("kind", ["BrushLabels", "PolygonLabels", "RectangleLabels"])
def test_results(server, model, kind):
    image = photo(7, 50, 80)
    found = model.segmenter("semantic").find(image[:, :, ::-1])
    (result,) = ask(server, [as_data(png(image))], kind).json()["results"]
    labels = {"person": "Person", "dog": "Pet", "road": "road"}  # the sky has no label
    expected = [i for i, name in enumerate(found.names) if name in labels]
    assert "sky" in found.names and expected
    assert {label for r in result["result"] for label in r["value"][kind.lower()]} == {
        labels[found.names[i]] for i in expected
    }
    assert len({r["id"] for r in result["result"]}) == len(result["result"])
    for r in result["result"]:
        assert (r["from_name"], r["to_name"], r["type"]) == ("tag", "photo", kind.lower())
        assert (r["original_width"], r["original_height"], r["image_rotation"]) == (80, 50, 0)
    for i in expected:
        mine = [
            r["value"]
            for r in result["result"]
            if r["value"][kind.lower()] == [labels[found.names[i]]]
        ]
        if kind == "BrushLabels":
            assert mine[0]["format"] == "rle"
            np.testing.assert_array_equal(decode_brush(mine[0]["rle"], (50, 80)), found.mask(i))
        elif kind == "PolygonLabels":
            canvas = Image.new("1", (800, 500))
            for value in mine:
                points = [(8 * x, 5 * y) for x, y in value["points"]]
                ImageDraw.Draw(canvas).polygon(points, fill=1)
            filled = np.asarray(canvas)[5::10, 5::10]
            # Holes are filled, and corners within a pixel of the outline are cut.
            assert (filled & found.mask(i)).sum() > 0.8 * found.mask(i).sum()
        else:
            value = mine[0]
            left, top, right, bottom = found.boxes[i]
            assert value["x"] * 0.8 == pytest.approx(left)
            assert value["y"] * 0.5 == pytest.approx(top)
            assert value["width"] * 0.8 == pytest.approx(right - left)
            assert value["height"] * 0.5 == pytest.approx(bottom - top)


def test_scores_of_instances(server):
    (result,) = ask(server, [as_data(png(photo(7)))], query="?task=instance&threshold=0.05").json()[
        "results"
    ]
    scores = [r["score"] for r in result["result"]]
    assert scores and result["score"] == pytest.approx(np.mean(scores))


def test_images_of_the_allowed_server(run_config, studio, tmp_path):
    elsewhere = studio.replace("127.0.0.1", "localhost")
    log = tmp_path / "log"
    with running(run_config, log, label_studio=studio, key=KEY, upload_bytes=2**21) as server:
        own = ask(server, [as_data(Studio.image)]).json()["results"]
        for address in ("/data/a.png", "data/a.png", f"{studio}/data/a.png"):
            assert ask(server, [address]).json()["results"] == own
        mixed = ask(server, ["/nowhere", "/data/a.png"])
        assert mixed.status == 200
        assert [bool(r["result"]) for r in mixed.json()["results"]] == [False, True]
        for address, status in (
            ("/nowhere", 502),
            ("/redirect", 502),
            ("/large", 413),
            (f"{elsewhere}/data/a.png", 403),
        ):
            reply = ask(server, [address])
            assert (address, reply.status) == (address, status)
            assert KEY not in reply.body.decode()
    assert KEY not in log.read_text()


@pytest.mark.parametrize(
    "address",
    [
        "/etc/passwd", "file:///etc/passwd", "file:/etc/passwd", "../../etc/passwd",
        "http://127.0.0.1:1/a.png", "http://169.254.169.254/latest/meta-data", "//localhost/a.png",
        "ftp://127.0.0.1/a.png", "s3://bucket/a.png", "/data/local-files/?d=a.png",
        "http://[::1", "\x00", "javascript:1",
    ],
)  # fmt: skip
def test_nothing_of_this_machine_or_elsewhere_is_read(server, studio, address):
    """Neither by a server that reads no addresses, nor by one that may ask one other server."""
    assert ask(server, [address]).status == 403
    before = list(Studio.asked)
    images = TaskImages(studio, KEY, Limits())
    with pytest.raises(RequestError) as error:
        images.read(address)
    assert "root:" not in error.value.detail
    if not address.startswith((".", "/etc", "/data", "\x00")):  # those are paths of the studio
        assert error.value.status in (403, 502)
        assert Studio.asked == before


@pytest.mark.parametrize("uri", ["data:", "data:image/png;base64,", "data:image/png;base64,%%%"])
def test_broken_data_uris(server, uri):
    assert ask(server, [uri]).status == 422


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("", "no label_config"),
        ("<View>", "not XML"),
        ("<View>\ud800</View>", "not XML"),
        ("<View><Text name='t' value='$t'/></View>", "no <BrushLabels>"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><View>&a;</View>", "document type"),
        ("<View><BrushLabels name='b' toName='gone'/></View>", "whose toName is an <Image>"),
    ],
)
def test_label_configs_without_masks(config, words):
    with pytest.raises(RequestError, match=words):
        read_label_config(config)


def test_labels_that_the_model_does_not_know(server):
    config = CONFIG.replace("Person", "Car").replace("dog, cat", "bus").replace("road", "bike")
    reply = ask(server, [as_data(png(photo()))], config=config)
    assert reply.status == 422
    assert "none of the model's classes" in reply.json()["detail"]


@pytest.mark.parametrize("task", [None, 3, {}, {"data": []}, {"data": {"picture": 3}}])
def test_tasks_without_images(server, task):
    body = {"tasks": [task], "label_config": CONFIG.format(kind="BrushLabels")}
    reply = server.request(
        "POST", "/predict", json.dumps(body), {"Content-Type": "application/json"}
    )
    assert reply.status == 422


@pytest.mark.parametrize("url", ["ftp://host", "host:8080", "/path", "http://", "file:///etc"])
def test_addresses_of_no_server(url):
    with pytest.raises(ValueError, match="--label-studio-url"):
        TaskImages(url, None, Limits())
