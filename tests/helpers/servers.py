"""Real servers of a model, each in a process of its own, and a client for them."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from support import SOURCES

from mask2former.api import Mask2Former
from mask2former.serve.limits import Limits
from mask2former.serve.model import ServedModel
from mask2former.serve.server import serve
from mask2former.serve.task_images import TaskImages

START_SECONDS = 180


@dataclass
class Server:
    """A server that runs.

    Attributes:
        port: on 127.0.0.1.
        process: its process.
        log: what it printed.
        headers: that the client sends with each request.
    """

    port: int
    process: BaseProcess
    log: Path
    headers: Mapping[str, str] = field(default_factory=dict)

    def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send a request over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        with contextlib.closing(connection):
            connection.request(method, path, body, {**self.headers, **(headers or {})})
            response = connection.getresponse()
            return Reply(response.status, dict(response.headers.items()), response.read())

    def get(self, path: str, **headers: str) -> Reply:
        """Ask for a path."""
        return self.request("GET", path, headers=headers)

    def predict(self, image: bytes, query: str = "", **headers: str) -> Reply:
        """Send the content of an image file as the body."""
        return self.request(
            "POST", f"/predict{query}", image, {"Content-Type": "image/png", **headers}
        )

    def metric(self, name: str) -> float:
        """Return the sum of a metric over all its labels."""
        lines = self.get("/metrics").body.decode().splitlines()
        pattern = re.compile(rf"{re.escape(name)}(\{{.*\}})? (\S+)")
        return sum(float(m[2]) for m in map(pattern.fullmatch, lines) if m)


@dataclass
class Reply:
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body's JSON."""
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


def multipart(name: str, content: bytes, filename: str = "a.png") -> tuple[bytes, str]:
    """Return a form with one file, and its content type."""
    boundary = "0123456789abcdef"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"'
    body = f"{head}\r\nContent-Type: image/png\r\n\r\n".encode() + content
    return body + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


@contextlib.contextmanager
def running(
    config_file: Path, log: Path, *, token: str | None = None, host: str = "127.0.0.1",
    label_studio: str | None = None, key: str | None = None, **limits: Any,
) -> Iterator[Server]:  # fmt: skip
    """Run a server for a block; it is killed if it does not end after it.

    Args:
        config_file: of a run's folder.
        log: the file for what it prints.
        token: that clients must send.
        host: to listen on.
        label_studio: address of the Label Studio server that images may come from.
        key: for that.
        limits: entries of `Limits`.
    """
    environment = {"PYTHONPATH": f"{SOURCES}:{Path(__file__).parent}"}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["servers"])
    arguments = (config_file, log, host, token, label_studio, key, Limits(**limits))
    process = context.Process(target=_serve, args=arguments)
    with mock.patch.dict(os.environ, environment):
        process.start()
    try:
        server = Server(_port(process, log), process, log)
        if token is not None:
            server.headers = {"Authorization": f"Bearer {token}"}
        yield server
    finally:
        process.terminate()
        process.join(START_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()


def _port(process: BaseProcess, log: Path) -> int:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.is_alive():
        found = re.search(r"http://\S+:(\d+)/", log.read_text() if log.exists() else "")
        if found:
            return int(found[1])
        time.sleep(0.05)
    raise AssertionError(f"the server did not start:\n{log.read_text() if log.exists() else ''}")


def _serve(
    config_file: Path, log: Path, host: str, token: str | None, label_studio: str | None,
    key: str | None, limits: Limits,
) -> None:  # fmt: skip
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    torch.set_num_threads(1)
    model = ServedModel(Mask2Former.from_pretrained(config_file), "model")
    images = TaskImages(label_studio, key, limits)
    serve(model, host=host, port=0, token=token, limits=limits, task_images=images)


def photo(seed: int = 0, height: int = 60, width: int = 90) -> np.ndarray:
    """Return an image (height, width, 3), uint8, RGB, of soft shapes."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def png(image: np.ndarray) -> bytes:
    """Return the content of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()
