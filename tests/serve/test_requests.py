"""Requests that cannot be answered as asked get one line that says why, and harm nobody else."""

from __future__ import annotations

import io
import json
import socket
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image
from servers import multipart, photo, png, running


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(side: int) -> bytes:
    """A PNG file of `side` x `side` white pixels, whose size is a thousandth of that."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    rows = zlib.compress((b"\0" + b"\xff" * (side // 8)) * side, 9)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def as_format(name: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(photo()).save(file, name)
    return file.getvalue()


def animation() -> bytes:
    file = io.BytesIO()
    frames = [Image.fromarray(photo(seed)) for seed in range(3)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


BROKEN = {
    "empty": (b"", 422, "empty"),
    "text": (b"this is no image " * 50, 422, "not an image of a known format"),
    "cut JPEG": (as_format("JPEG")[:600], 422, "damaged"),
    "cut PNG": (png(photo())[:400], 422, "damaged"),
    "EPS called PNG": (as_format("EPS"), 422, "not an image of a known format"),
    "PDF": (as_format("PDF"), 422, "not an image of a known format"),
    "AVIF without pixels": (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(40), 422, "image"),
    "animation": (animation(), 422, "animation"),
    "PNG bomb": (png_bomb(8000), 413, "8000 x 8000 pixels"),
    "Pillow's bomb": (png_bomb(20_000), 422, "more than 178 million pixels"),
    "too large": (b"\xff" * (2**20 + 1), 413, "larger than 1 MiB"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("form", [False, True], ids=["body", "form"])
def test_broken_uploads(server, name, form):
    content, status, words = BROKEN[name]
    kind = "image/png"
    if form:
        content, kind = multipart("image", content)
    start = time.monotonic()
    reply = server.request("POST", "/predict", content, {"Content-Type": kind})
    assert time.monotonic() - start < 5
    assert reply.status == status
    detail = reply.json()["detail"]
    assert words in detail
    assert "\n" not in detail


def test_bombs_are_refused_before_they_are_decoded(server):
    before = server.metric("process_resident_memory_bytes")
    for _ in range(3):
        assert server.predict(png_bomb(8000)).status == 413
    assert server.metric("process_resident_memory_bytes") - before < 20e6  # it has 64 million


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("text/plain", b"x", 415),
        ("application/x-www-form-urlencoded", b"image=/etc/passwd", 415),
        ("multipart/form-data", b"x", 400),
        ("multipart/form-data; boundary=0123456789abcdef", b"nonsense", 400),
        ("multipart/form-data; boundary=0123456789abcdef", b"--0123456789abcdef--\r\n", 422),
        ("application/json", b"{", 400),
        ("application/json", b"[" * 200_000, 400),
        ("application/json", b"[]", 400),
        ("application/json", b"{}", 422),
    ],
)
def test_bodies_of_other_types(server, kind, body, status):
    reply = server.request("POST", "/predict", body, {"Content-Type": kind})
    assert reply.status == status
    assert "\n" not in reply.json()["detail"]


def test_forms_that_end_early(server):
    body, kind = multipart("image", png(photo()))
    for end in (40, 60, 200, len(body) - 30):
        reply = server.request("POST", "/predict", body[:end], {"Content-Type": kind})
        assert reply.status in (400, 422), reply.body


def test_two_images_are_refused(server):
    body, kind = multipart("image", png(photo()))
    twice = body[: body.rindex(b"--0123456789abcdef--")] + body
    reply = server.request("POST", "/predict", twice, {"Content-Type": kind})
    assert (reply.status, reply.json()["detail"][:16]) == (422, "the form has 2 f")


def test_a_length_beyond_the_limit_is_refused_before_the_body(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
            b"Content-Length: 9999999999999\r\n\r\n"
        )
        assert client.recv(4096).startswith(b"HTTP/1.1 413")


def test_a_chunked_body_beyond_the_limit(server):
    chunks = (bytes(2**16) for _ in range(40))
    try:
        reply = server.request("POST", "/predict", chunks, {"Content-Type": "image/png"})
    except (BrokenPipeError, ConnectionResetError):  # refused while it was still sent
        return
    assert reply.status == 413


def test_unknown_paths_and_methods(server):
    assert server.get("/etc/passwd").status == 404
    assert server.get("/../../../etc/passwd").status == 404
    assert server.get("/docs").status == 404
    assert server.get("/predict").status == 405


def test_what_clients_make_up_is_no_metric(server):
    server.get("/made-up-by-a-client")
    assert b"made-up" not in server.get("/metrics").body


def test_a_full_queue_says_when_to_come_back(run_config, tmp_path):
    """Clients that are slow to send hold the places."""
    head = (
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
        b"Content-Length: 1000\r\n\r\n"
    )
    with running(run_config, tmp_path / "log", queue=2, upload_seconds=30) as server:
        clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)]
        for client in clients:
            client.sendall(head)
        while server.metric("mask2former_queue_depth") < 2:
            time.sleep(0.02)
        reply = server.predict(png(photo()))
        assert reply.status == 503
        assert int(reply.headers["retry-after"]) >= 1
        assert "busy" in reply.json()["detail"]
        for client in clients:
            client.close()
        while server.metric("mask2former_queue_depth"):
            time.sleep(0.02)
        assert server.predict(png(photo())).status == 200


def test_a_request_does_not_wait_for_ever(run_config, tmp_path):
    content = png(photo())
    with running(run_config, tmp_path / "log", queue_seconds=1e-3) as server:
        with ThreadPoolExecutor(24) as threads:
            replies = list(threads.map(lambda _: server.predict(content), range(24)))
        assert {reply.status for reply in replies} == {200, 503}
        assert server.predict(content).status == 200


def test_openapi(server):
    description = json.loads(server.get("/openapi.json").body)
    predict = description["paths"]["/predict"]["post"]
    assert {p["name"] for p in predict["parameters"]} == {"task", "threshold", "format", "max"}
    assert set(predict["requestBody"]["content"]) > {"multipart/form-data", "image/*"}
    assert set(predict["responses"]) > {"200", "401", "413", "503"}


def test_metrics(server):
    before = server.metric("mask2former_requests_total")
    assert server.predict(png(photo())).status == 200
    assert server.metric("mask2former_requests_total") - before == 2  # and the one before it
    assert server.metric("mask2former_model_seconds_count") > 0
    assert server.get("/metrics").headers["content-type"].startswith("text/plain")
