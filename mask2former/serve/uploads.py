"""The bodies of requests: read within limits of size and time, and searched for their image."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from mask2former_runtime.text import one_line

from .errors import ClientGoneError, RequestError
from .limits import Limits

FIELDS = ("image", "file")
"""Names of the field of a form that holds the image."""


@dataclass(frozen=True)
class Upload:
    """A file that a client sent.

    Attributes:
        content: its bytes.
        name: what the client calls it, on one line.
    """

    content: bytes
    name: str = "image"


class _InMemory(MultiPartParser):
    """Keeps files in memory, whose size `read_body` has limited, rather than on the disk."""

    spool_max_size = 2**40


def content_type(headers: Headers) -> str:
    """Return the type of a request's body, in lower case and without parameters."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(request: Request, limits: Limits) -> bytes:
    """Read the body of a request.

    Raises:
        RequestError: 413, it is too large; 408, it does not arrive in time.
        ClientGoneError: the client closed its connection.
    """
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated[:20]) > limits.upload_bytes:
        raise _too_large(limits)
    try:
        return await asyncio.wait_for(_collect(request, limits), limits.upload_seconds)
    except asyncio.TimeoutError:
        raise RequestError(
            408, f"the body did not arrive within {limits.upload_seconds:g} s"
        ) from None
    except ClientDisconnect:
        raise ClientGoneError from None


async def _collect(request: Request, limits: Limits) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limits.upload_bytes:
            raise _too_large(limits)
    return bytes(body)


def _too_large(limits: Limits) -> RequestError:
    return RequestError(413, f"the body is larger than {limits.upload_bytes / 2**20:g} MiB")


async def find_image(headers: Headers, body: bytes) -> Upload:
    """Return the image in a body: the body itself or, in a form, the file in it.

    Raises:
        RequestError: there is none, or the body is of another type.
    """
    kind = content_type(headers)
    if kind == "multipart/form-data":
        return await _form_image(headers, body)
    if kind.startswith("image/") or kind in ("", "application/octet-stream"):
        if not body:
            raise RequestError(422, "the body is empty: send an image in it")
        return Upload(body)
    raise RequestError(
        415,
        f"content type {one_line(kind, 60)}: send an image (image/jpeg, image/png, ...), or a form "
        f"(multipart/form-data) with an image in the field {FIELDS[0]!r}",
    )


async def _form_image(headers: Headers, body: bytes) -> Upload:
    async def stream() -> AsyncIterator[bytes]:
        yield body

    parser = _InMemory(headers, stream(), max_files=8, max_fields=32)  # type: ignore[arg-type]
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        reason = getattr(error, "message", None) or "it has no boundary"
        raise RequestError(400, f"the form cannot be read: {one_line(reason, 200)}") from error
    try:
        files = [(key, value) for key, value in form.multi_items() if isinstance(value, UploadFile)]
        chosen = [value for key, value in files if key in FIELDS] or [v for _, v in files]
        if len(chosen) != 1:
            found = f"{len(chosen)} files" if chosen else "no file"
            raise RequestError(
                422, f"the form has {found}: send one image, in the field {FIELDS[0]!r}"
            )
        content = await chosen[0].read()
        if not content:
            raise RequestError(422, "the image is empty")
        return Upload(content, one_line(chosen[0].filename or "image", 100))
    finally:
        await form.close()


def parse_json(body: bytes) -> Mapping[str, Any]:
    """Return the JSON object in a body.

    Raises:
        RequestError: 400, there is none.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "the body is not JSON") from error
    if not isinstance(value, dict):
        raise RequestError(400, "the body is JSON, but not an object")
    return value
