"""Why a request is not answered as asked."""

from __future__ import annotations


class RequestError(Exception):
    """A request cannot be answered.

    Args:
        status: of the answer.
        detail: one line for the person who sent the request.
        retry_after: seconds after which the same request may succeed.
    """

    def __init__(self, status: int, detail: str, retry_after: int | None = None):
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after = retry_after


class ClientGoneError(Exception):
    """The client closed its connection, and nobody waits for the answer."""
