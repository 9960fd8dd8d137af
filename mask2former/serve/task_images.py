"""The images of Label Studio's tasks, which come from there or from the request itself.

No file of this machine is read, and no other server is asked than the one that was allowed.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import SplitResult, unquote_to_bytes, urljoin, urlsplit

from mask2former_runtime.text import one_line

from .errors import RequestError
from .limits import Limits

KEY_VARIABLE = "LABEL_STUDIO_API_KEY"
_SECONDS = 30.0
_CHUNK = 2**16


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Leaves redirects alone, which could lead to another server."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class TaskImages:
    """Gets the images of tasks.

    Args:
        url: of the Label Studio server that images may come from; None allows only ``data:`` URIs.
        key: a user's key for it.
        limits: of the server.

    Raises:
        ValueError: the URL cannot be used.
    """

    def __init__(self, url: str | None, key: str | None, limits: Limits):
        self._limits = limits
        self._key = key
        self._base = None if url is None else _base_url(url)
        # No proxies: the environment must not lead requests elsewhere.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)

    def read(self, address: str) -> bytes:
        """Return the content of an image.

        Args:
            address: a ``data:`` URI, or an address on the allowed server.

        Raises:
            RequestError: 403, it is elsewhere; 413, it is too large; 422, it cannot be read; 502,
                the server does not give it.
        """
        if address[:5].lower() == "data:":
            return self._decode(address)
        shown = one_line(address, 200)
        if self._base is None:
            raise RequestError(
                403,
                f"{shown}: this server reads no addresses; start it with --label-studio-url URL to "
                "let it read the images of that Label Studio",
            )
        try:
            url = urljoin(self._base.geturl(), address)
            is_allowed = _origin(urlsplit(url)) == _origin(self._base)
        except ValueError:  # brackets or ports that no address has
            is_allowed = False
        if not is_allowed:
            raise RequestError(
                403, f"{shown}: images are read from {self._base.netloc} only (--label-studio-url)"
            )
        return self._download(url, shown)

    def _decode(self, uri: str) -> bytes:
        head, separator, text = uri.partition(",")
        try:
            if head.lower().endswith(";base64"):
                content = base64.b64decode(unquote_to_bytes(text), validate=True)
            else:
                content = unquote_to_bytes(text)
        except (binascii.Error, ValueError) as error:
            raise RequestError(422, "a data: URI is not base64") from error
        if not separator or not content:
            raise RequestError(422, "a data: URI has no content")
        return content

    def _download(self, url: str, shown: str) -> bytes:
        headers = {} if self._key is None else {"Authorization": f"Token {self._key}"}
        end = time.monotonic() + _SECONDS
        content = bytearray()
        try:
            request = urllib.request.Request(url, headers=headers)
            with self._opener.open(request, timeout=_SECONDS) as response:
                while chunk := response.read1(_CHUNK):
                    content += chunk
                    if len(content) > self._limits.upload_bytes:
                        raise RequestError(
                            413,
                            f"{shown}: larger than {self._limits.upload_bytes / 2**20:g} MiB",
                        )
                    if time.monotonic() > end:
                        raise RequestError(502, f"{shown}: not sent within {_SECONDS:g} s")
        except urllib.error.HTTPError as error:
            error.close()
            hint = f"; is {KEY_VARIABLE} set?" if error.code in (401, 403) else ""
            raise RequestError(502, f"{shown}: Label Studio answers {error.code}{hint}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise RequestError(502, f"{shown}: {one_line(str(reason), 200)}") from error
        return bytes(content)


def _base_url(url: str) -> SplitResult:
    try:
        base = urlsplit(url.rstrip("/") + "/")
        usable = base.scheme in ("http", "https") and bool(base.hostname) and base.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(f"--label-studio-url {one_line(url, 200)}: not an http(s) URL")
    return base


def _origin(url: SplitResult) -> tuple[str, str, int]:
    port = url.port or {"http": 80, "https": 443}.get(url.scheme, 0)
    return url.scheme, url.hostname or "", port
