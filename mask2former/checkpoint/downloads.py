"""Downloads into a cache whose files belong to one URL each and are verified at every use.

The cache is in Detectron2's (`$FVCORE_CACHE`, or ~/.torch/iopath_cache). A file lies at
`weights/<hash of the whole URL>/<name of the file>`, with its SHA-256 beside it.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import http.client
import logging
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from iopath.common.file_io import file_lock, get_cache_dir

from mask2former_runtime.files import sha256_of, unfinished_files, write_atomically

from ..utils.progress import with_progress
from .files import WeightsError

STALL_SECONDS = 30.0
"""How long a server may take to answer, and to send each further `LEAST_BYTES`."""
LEAST_BYTES = 30_000
MOST_BYTES = 2**35

_HUB_HASH = "X-Linked-Etag"

logger = logging.getLogger(__name__)


def cached_download(
    url: str, address: str, expected: str | None, pinned: bool = False, hub: str | None = None
) -> Path:
    """Return the verified file of a URL, from the cache if it is there.

    Args:
        url: what to download. It begins with "https://", or also "http://" if it is pinned.
        address: what the user wrote, for messages.
        expected: the first digits of the file's SHA-256, if they are known.
        pinned: whether the user gave the whole SHA-256.
        hub: the beginning of URLs whose server states the SHA-256 as Hugging Face's does.

    Raises:
        WeightsError: the file cannot be downloaded, or its SHA-256 is another.
    """
    if not url.startswith(("https://", "http://") if pinned else "https://"):
        raise WeightsError(
            f"{address}: anyone on the way can change what comes from {url}. Use https://, or "
            "append #sha256= and the SHA-256 of the file"
        )
    cached = cached_path(url, address)
    cached.parent.mkdir(parents=True, exist_ok=True)
    recorded = cached.with_name(f"{cached.name}.sha256")
    with file_lock(str(cached)):
        if cached.is_file():
            known = recorded.read_text(errors="replace") if recorded.is_file() else ""
            try:
                _check(sha256_of(cached), [expected, known], url, address)
            except WeightsError as error:
                cached.unlink()
                raise WeightsError(f"{error}. It was removed from the cache: try again") from None
            return cached
        for unfinished in unfinished_files(cached.parent, cached.name):
            unfinished.unlink()

        def fetch(file: BinaryIO) -> None:
            found, published = _fetch(url, file, hub)
            _check(found, [expected, published], url, address)
            write_atomically(recorded, lambda record: record.write(found.encode()))
            if expected is None and published is None:
                logger.info(
                    "No hash of %s is known. To accept only this file from now on, write "
                    "%s#sha256=%s",
                    url, address, found,
                )  # fmt: skip

        try:
            write_atomically(cached, fetch)
        except WeightsError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _not_downloaded(url, address, cached, error) from error
    return cached


def cached_path(url: str, address: str) -> Path:
    """Return where the cache holds the file of a URL: in a folder for this whole URL alone."""
    try:
        name = urlsplit(url).path.rpartition("/")[2]
    except ValueError:
        name = ""
    if not name.strip("."):
        raise WeightsError(f"{address}: {url} names no file")
    folder = hashlib.sha256(url.encode("utf-8", "backslashreplace")).hexdigest()[:32]
    return Path(get_cache_dir(), "weights", folder, re.sub(r"[^\w.-]", "_", name)[-100:])


def _check(found: str, wanted: list[str | None], url: str, address: str) -> None:
    for digits in wanted:
        if digits and not found.startswith(digits):
            raise WeightsError(
                f"{address}: the file from {url} has the SHA-256 {found}, expected {digits}. If "
                "this happens again, do not trust the source"
            )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects that stay encrypted, and keeps the hash that Hugging Face states in one.

    The storage, to which the last redirect leads, does not repeat the hash.
    """

    def __init__(self, hub: str | None) -> None:
        self.hub = hub
        self.published: str | None = None

    def note_hash(self, url: str, headers: Any) -> None:
        tag = headers.get(_HUB_HASH, "").strip('"')
        if self.hub and url.startswith(self.hub) and re.fullmatch("[0-9a-f]{64}", tag):
            self.published = tag

    def redirect_request(
        self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        self.note_hash(req.full_url, headers)
        allowed = ("https://", "http://") if req.full_url.startswith("http://") else ("https://",)
        if not newurl.startswith(allowed):
            raise urllib.error.URLError(f"it redirects to {newurl[:200]}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _within_time(call: Callable[[], Any]) -> Any:
    """Call in a thread: looking up names, and headers that trickle, obey no limit of sockets."""
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return future.result(STALL_SECONDS)
    except concurrent.futures.TimeoutError as error:
        raise TimeoutError from error  # another class in Python 3.10


def _fetch(url: str, file: BinaryIO, hub: str | None) -> tuple[str, str | None]:
    """Download a URL; return the SHA-256 of the content, and the published one, if any."""
    redirects = _Redirects(hub)
    opener = urllib.request.build_opener(redirects)
    digest, received = hashlib.sha256(), 0
    with _within_time(lambda: opener.open(url, timeout=STALL_SECONDS)) as response:
        redirects.note_hash(response.url, response.headers)
        length = response.headers.get("Content-Length")
        total = int(length) if length and length.isascii() and length.isdigit() else None
        since, before = time.monotonic(), 0
        with with_progress(
            description=url.rpartition("/")[2], total=total, unit="B", scale=True
        ) as bar:
            while chunk := response.read1(2**20):
                file.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
                received += len(chunk)
                if received > MOST_BYTES:
                    raise OSError(f"it sends more than {MOST_BYTES} bytes")
                if time.monotonic() - since > STALL_SECONDS:
                    if received - before < LEAST_BYTES:
                        raise TimeoutError
                    since, before = time.monotonic(), received
    if total is not None and received != total:
        raise OSError(f"it sent {received} of {total} bytes")
    return digest.hexdigest(), redirects.published


def _not_downloaded(url: str, address: str, cached: Path, error: Exception) -> WeightsError:
    # The Hugging Face Hub answers 401 for names that it does not have.
    if isinstance(error, urllib.error.HTTPError) and error.code in (401, 404):
        return WeightsError(f"{address}: there is no {url} (HTTP {error.code}); check the name")
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError):
        reason = f"the server is silent or very slow for {STALL_SECONDS:g} s"
    text = " ".join(str(reason or type(error).__name__).split())[:300]
    return WeightsError(
        f"{address} cannot be downloaded from {url}: {text}. "
        f"On a machine without a connection, put the file at {cached}, or set MODEL.WEIGHTS to "
        "the path of a copy"
    )
