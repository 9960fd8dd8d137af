"""Connections that end when their client is too slow, and not before it has its answer.

uvicorn waits without end for the headers of a request, and for a client to read its answer. Here
both have a limit. The time for the body of a request is limited where it is read.

uvicorn also gives up a client that closes its half of the connection after the request. Here it is
answered.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from .limits import Limits

STALL_BYTES = 2**16
"""A client that reads fewer bytes of an answer than this in `Limits.stall_seconds` is cut off."""


_FIRST_PROBE_SECONDS, _MOST_PROBE_SECONDS = 0.05, 5.0


def protocol_class(limits: Limits) -> type[asyncio.Protocol]:
    """Return the protocol for uvicorn, with these limits."""

    class Connection(_Connection):
        header_seconds = limits.header_seconds
        stall_seconds = limits.stall_seconds

    return Connection


class _Connection(H11Protocol):
    header_seconds: float
    stall_seconds: float

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._header_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._is_half_closed = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the client time to send headers."""
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        """Take data, and end the time for headers if these are complete.

        The rest of a body that nobody reads any more counts as slow headers too.
        """
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_header_timer()
        elif not self.transport.is_closing():
            self._expect_headers()

    def on_response_complete(self) -> None:
        """Begin anew; between requests, uvicorn's timer of idle connections runs."""
        self._stop_header_timer()
        super().on_response_complete()
        if self._is_half_closed and self.cycle.response_complete:  # no further request is there
            self.transport.close()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection if the client waits for the answer to a complete request.

        A client that has gone away looks the same until something is sent to it.
        """
        if self.cycle is None or self.cycle.more_body or self.cycle.response_complete:
            return False
        if not self._is_half_closed:
            self._is_half_closed = True
            self._probe(_FIRST_PROBE_SECONDS)
        return True

    def pause_writing(self) -> None:
        """Watch a client that does not read as fast as the server writes."""
        super().pause_writing()
        self._watch(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """End the watch."""
        self._stop_stall_timer()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        self._stop_header_timer()
        self._stop_stall_timer()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def _probe(self, seconds: float) -> None:
        """Send ``100 Continue``, which clients skip, at growing intervals.

        If the client has gone, its system answers with a reset, and the next write closes the
        connection.
        """
        if self.transport.is_closing() or self.cycle.response_started:
            return
        if self.conn.their_http_version != b"1.0":  # which does not know it
            skipped = h11.InformationalResponse(status_code=100, headers=[], reason="Continue")
            self.transport.write(self.conn.send(skipped))
        self.loop.call_later(seconds, self._probe, min(2 * seconds, _MOST_PROBE_SECONDS))

    def _expect_headers(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(self.header_seconds, self._too_slow)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _watch(self, unread: int) -> None:
        self._stall_timer = self.loop.call_later(self.stall_seconds, self._check_progress, unread)

    def _check_progress(self, unread_before: int) -> None:
        unread = self.transport.get_write_buffer_size()
        if unread_before - unread < STALL_BYTES:
            self._too_slow()
        else:
            self._watch(unread)

    def _too_slow(self) -> None:
        self.transport.abort()
