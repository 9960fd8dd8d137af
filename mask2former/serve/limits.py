"""What a server accepts, and how long it waits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of a server; a request beyond one of them gets an answer that names it.

    Attributes:
        upload_bytes: of the body of a request.
        pixels: of an image.
        queue: requests with an image that are in the server at the same time, from their first
            byte to the last step of their answer.
        batch: images that the model takes at once.
        upload_seconds: for the body of a request to arrive.
        queue_seconds: for a request to wait for the model.
        header_seconds: for the headers of a request to arrive.
        stall_seconds: without progress in the sending of an answer.
        shutdown_seconds: for accepted requests to finish after SIGTERM.
        connections: open at the same time.
    """

    upload_bytes: int = 20 * 2**20
    pixels: int = 50_000_000
    queue: int = 64
    batch: int = 1
    upload_seconds: float = 30
    queue_seconds: float = 120
    header_seconds: float = 10
    stall_seconds: float = 30
    shutdown_seconds: int = 60
    connections: int = 512
