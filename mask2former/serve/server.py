"""Run the application until a signal ends it."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
from collections.abc import Iterator

import uvicorn

from mask2former_runtime.text import one_line

from .app import build_app
from .connections import protocol_class
from .limits import Limits
from .model import ServedModel
from .security import Guard, check_token, is_loopback
from .task_images import TaskImages

logger = logging.getLogger(__name__)


def serve(
    model: ServedModel,
    *,
    host: str,
    port: int,
    token: str | None,
    limits: Limits,
    task_images: TaskImages,
) -> None:
    """Serve a model until SIGTERM or Ctrl-C, then finish the requests that were accepted.

    Args:
        model: what to serve.
        host: the address to listen on.
        port: the port; 0 takes a free one.
        token: what clients must send; see `Guard`.
        limits: of the server.
        task_images: gets the images of Label Studio's tasks.

    Raises:
        ValueError: `host` needs a token.
        OSError: the address cannot be listened on.
    """
    check_token(token, host)
    guard = Guard(token, local_only=is_loopback(host))
    app = build_app(model, guard=guard, limits=limits, task_images=task_images)
    listener = _listen(host, port)
    config = uvicorn.Config(
        app,
        http=protocol_class(limits),
        ws="none",
        loop="asyncio",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=limits.shutdown_seconds,
    )
    shown = f"[{host}]" if ":" in host else host
    print(
        f"Serving {model.name} ({', '.join(model.tasks)}) on "
        f"http://{shown}:{listener.getsockname()[1]}/  Ctrl-C ends it.",
        flush=True,
    )
    with _quiet_signals():
        uvicorn.Server(config).run([listener])
    print("Stopped.", flush=True)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(2048)  # clients that come before the application is ready wait
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(f"cannot listen on {one_line(host, 100)}:{port}: {reason}") from error
    listener.set_inheritable(True)
    return listener


@contextlib.contextmanager
def _quiet_signals() -> Iterator[None]:
    """Let a block return after a signal, which uvicorn sends again once it has stopped."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: None) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
