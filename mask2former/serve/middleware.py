"""What happens to every request: it is checked, counted, and answered with safe headers."""

from __future__ import annotations

import logging
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import RequestError
from .metrics import Metrics
from .security import HEADERS, Guard

logger = logging.getLogger(__name__)


class Gatekeeper:
    """The outermost layer of the application.

    Args:
        app: the application.
        guard: decides which requests are answered.
        metrics: where they are counted.
    """

    def __init__(self, app: ASGIApp, *, guard: Guard, metrics: Metrics):
        self.app = app
        self.guard = guard
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 500

        async def send_safely(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self.guard.check(scope["path"], Headers(scope=scope))
        except RequestError as error:
            await error_answer(error)(scope, receive, send_safely)
        else:
            await self._answer(scope, receive, send_safely)
        finally:
            path = _known_path(scope)
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - start)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer; a defect of ours ends this request alone."""
        started = False

        async def send_noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, send_noting)
        except Exception:
            logger.exception("An error within the server")
            if started:
                raise
            await error_answer(RequestError(500, "an error within the server"))(
                scope, receive, send
            )


def _known_path(scope: Scope) -> str:
    """Return the path of the server that answered; whatever clients make up is "other"."""
    route: Any = scope.get("route")
    return getattr(route, "path", "other")


def error_answer(error: RequestError) -> Response:
    """Return the answer to a request that cannot be answered as asked."""
    headers = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse({"detail": error.detail}, error.status, headers)
