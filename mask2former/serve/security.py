"""Who may use the server, and what browsers may do with its answers."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Mapping

from starlette.datastructures import Headers

from .errors import RequestError

TOKEN_VARIABLE = "MASK2FORMER_TOKEN"
LEAST_TOKEN = 16

OPEN_PATHS = frozenset({"/", "/healthz", "/health", "/openapi.json"})
"""Paths that need no token: they tell nothing about images, and do no work."""

HEADERS: Mapping[str, str] = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""Headers of all answers."""


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server on this address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, of which nobody knows where it leads
        return False


def check_token(token: str | None, host: str) -> None:
    """Raise `ValueError` if a server on `host` needs a token, or a better one."""
    if token is None:
        if not is_loopback(host):
            raise ValueError(
                f"--host {host} lets other machines use the server, which needs --token TOKEN (or "
                f"the environment variable {TOKEN_VARIABLE}); a good one: openssl rand -hex 16"
            )
    elif len(token) < LEAST_TOKEN or not all("!" <= c <= "~" for c in token):
        raise ValueError(
            f"--token: at least {LEAST_TOKEN} letters, digits and signs of ASCII, without spaces; "
            "a good one: openssl rand -hex 16"
        )


class Guard:
    """Decides whether a request may be answered.

    Args:
        token: what clients must send, as ``Authorization: Bearer TOKEN`` or as the password of
            ``Authorization: Basic``; None accepts all.
        local_only: whether requests must name this machine as their host. A page on the web could
            otherwise give its own name the address 127.0.0.1 and use the server from there.
    """

    def __init__(self, token: str | None, *, local_only: bool):
        self._token = None if token is None else token.encode()
        self._local_only = local_only

    def check(self, path: str, headers: Headers) -> None:
        """Raise `RequestError` (401 or 403) if a request may not be answered."""
        host = headers.get("host", "")
        if self._local_only and not is_loopback(_without_port(host)):
            raise RequestError(403, "this server is for 127.0.0.1 and localhost only")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise RequestError(403, "this server is not for pages of other sites")
        if self._token is None or path in OPEN_PATHS:
            return
        if not hmac.compare_digest(_sent_token(headers), self._token):
            raise RequestError(401, "send the server's token: Authorization: Bearer TOKEN")


def _without_port(host: str) -> str:
    if host.startswith("["):  # IPv6
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _sent_token(headers: Headers) -> bytes:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except binascii.Error:
            pass
    return b""
