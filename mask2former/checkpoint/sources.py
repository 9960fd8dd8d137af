"""Addresses of weights: what `MODEL.WEIGHTS` may be besides the path of a file.

    torchvision://resnet50                        torchvision's ImageNet weights, first version
    torchvision://ResNet50_Weights.IMAGENET1K_V2  any of torchvision's, by its own name
    swin://swin_tiny_patch4_window7_224           the Swin Transformer's original releases
    timm://swin_tiny_patch4_window7_224.ms_in1k   timm's, on the Hugging Face Hub
    detectron2://..., https://...                 as in Detectron2

A file is downloaded into Detectron2's cache (`$FVCORE_CACHE`, or ~/.torch/iopath_cache) the first
time it is used. Where its SHA-256 is published, it enters the cache only if the two agree. Append
`#sha256=<64 hexadecimal digits>` to any address to accept exactly that file.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import http.client
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlparse

import torchvision
from detectron2.utils.file_io import Detectron2Handler, PathHandler, PathManager
from iopath.common.download import download
from iopath.common.file_io import file_lock, get_cache_dir

from .files import WeightsError

PYTORCH_URL = "https://download.pytorch.org/models/"
SWIN_URL = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
HUGGING_FACE_URL = "https://huggingface.co/"
# The trained models of the Mask2Former paper.
PUBLISHED_URL = "https://dl.fbaipublicfiles.com/maskformer/mask2former/"

SWIN_RELEASES = (
    "swin_tiny_patch4_window7_224",
    "swin_small_patch4_window7_224",
    *(
        f"swin_{size}{pretrained}"
        for size in ("base_patch4_window7_224", "base_patch4_window12_384")
        for pretrained in ("", "_22k", "_22kto1k")
    ),
    *(
        f"swin_large_{size}{pretrained}"
        for size in ("patch4_window7_224", "patch4_window12_384")
        for pretrained in ("_22k", "_22kto1k")
    ),
)
# The models that `convert_backbone` can rename.
_TORCHVISION_MODEL = re.compile(r"(resnet|resnext|wide_resnet)\d+\w*|swin_[tsb]")
_PIN = "#sha256="

logger = logging.getLogger(__name__)


class WeightsHandler(PathHandler):
    """Lets Detectron2's `PathManager` open those of the addresses above that it does not know."""

    PREFIXES = ("torchvision://", "swin://", "timm://")

    def _get_supported_prefixes(self) -> list[str]:
        return list(self.PREFIXES)

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        self._check_kwargs(kwargs)
        return local_weights(path)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        self._check_kwargs(kwargs)
        if mode not in ("r", "rb"):
            raise ValueError(f"{path} is a download, to be read only, not opened as {mode!r}")
        return open(local_weights(path), mode, buffering)


PathManager.register_handler(WeightsHandler())


def local_weights(address: str) -> str:
    """Download weights unless they are in the cache already, and check them.

    Args:
        address: an address as above, or the path of a file or folder.

    Returns:
        The path of a local file or folder.

    Raises:
        WeightsError: the file or name does not exist, the file cannot be downloaded, or its SHA-256
            is not the published or the requested one.
    """
    plain, pin = _split_pin(address)
    if plain.startswith(PUBLISHED_URL):
        _state_licence_once()
    url = web_address(plain)
    if url is not None:
        return str(_download(url, address, pin))
    path = PathManager.get_local_path(plain)
    if not os.path.exists(path):
        raise WeightsError(f"there are no weights {plain}{_hint(plain)}")
    if pin and not (found := _sha256(Path(path))).startswith(pin):
        raise WeightsError(f"{plain} has the SHA-256 {found}, not the requested {pin}")
    return path


@functools.cache
def _state_licence_once() -> None:
    logger.warning(
        "The published weights are licensed CC BY-NC 4.0 (no commercial use), unlike this code."
    )


def web_address(address: str) -> str | None:
    """Return the URL of an address, or None if it is a local path.

    Raises:
        WeightsError: the name in the address is unknown.
    """
    prefix, separator, name = address.partition("://")
    if prefix in ("http", "https"):
        return address
    if address.startswith(Detectron2Handler.PREFIX):
        return Detectron2Handler.S3_DETECTRON2_PREFIX + name
    if prefix + separator not in WeightsHandler.PREFIXES:
        return None
    if prefix == "torchvision":
        return _torchvision_url(name)
    if prefix == "swin":
        if name not in SWIN_RELEASES:
            raise _unknown(address, name, SWIN_RELEASES)
        return f"{SWIN_URL}{name}.pth"
    if not re.fullmatch(r"[\w.-]+", name):
        raise WeightsError(
            f"{address}: timm:// is followed by the name of a model in timm, such as "
            "timm://swin_tiny_patch4_window7_224.ms_in1k"
        )
    return f"{HUGGING_FACE_URL}timm/{name}/resolve/main/model.safetensors"


def _torchvision_url(name: str) -> str:
    urls = {}
    for model in filter(_TORCHVISION_MODEL.fullmatch, torchvision.models.list_models()):
        weights = torchvision.models.get_model_weights(model)
        urls[model] = next(iter(weights)).url  # IMAGENET1K_V1
        # __members__ also has the alias DEFAULT.
        urls.update((f"{weights.__name__}.{k}", v.url) for k, v in weights.__members__.items())
    if name not in urls:
        raise _unknown(f"torchvision://{name}", name, urls)
    return urls[name]


def _unknown(address: str, name: str, known: Iterable[str]) -> WeightsError:
    close = difflib.get_close_matches(name, known) or [n for n in known if "." not in n]
    prefix = address.removesuffix(name)
    return WeightsError(
        f"{address}: no such weights. Did you mean {', '.join(prefix + n for n in close)}?"
    )


def _hint(path: str) -> str:
    """Suggest what to write instead of a path that does not exist."""
    name = Path(path).stem
    resnet = re.fullmatch(r"R-(18|34|50|101|152)", name)
    if name in SWIN_RELEASES:
        return f". To download them, write swin://{name}"
    if resnet:
        return f". To download them, write torchvision://resnet{resnet[1]}"
    if "://" in path:
        known = (*WeightsHandler.PREFIXES, Detectron2Handler.PREFIX, "https://")
        return f": addresses begin with one of {', '.join(known)}"
    return f": no such file or folder (looked for at {Path(path).absolute()})"


def _split_pin(address: str) -> tuple[str, str | None]:
    plain, separator, pin = address.partition(_PIN)
    if not separator:
        return plain, None
    if not re.fullmatch("[0-9a-fA-F]{64}", pin):
        raise WeightsError(f"{address}: {_PIN} must be followed by 64 hexadecimal digits")
    return plain, pin.lower()


def _download(url: str, address: str, pin: str | None) -> Path:
    """Return the cached file of a URL, downloading it first if there is none."""
    path = PurePosixPath(urlparse(url).path.lstrip("/"))
    if not path.name or ".." in path.parts:
        raise WeightsError(f"{address}: {url} names no file")
    # Detectron2 caches in the same place: what it downloaded is not downloaded again.
    cached = Path(get_cache_dir(), path)
    cached.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(str(cached)):
        if cached.is_file():
            _check(cached, pin or _hash_in_name(url), url, address)
            return cached
        new = cached.with_name(f"{cached.name}.unchecked")
        try:
            expected = pin or _hash_in_name(url) or _hash_on_hub(url)
            # This removes the partial file if it is interrupted.
            download(url, str(cached.parent), filename=new.name)
        except (OSError, http.client.HTTPException) as error:
            raise _not_downloaded(url, address, cached, error) from error
        _check(new, expected, url, address)
        if expected is None:
            logger.info(
                "No hash of %s is known. To accept only this file from now on, write %s%s%s",
                url, address, _PIN, _sha256(new),
            )  # fmt: skip
        new.replace(cached)
    return cached


def _not_downloaded(url: str, address: str, cached: Path, error: Exception) -> WeightsError:
    # The Hugging Face Hub answers 401 for names that it does not have.
    if isinstance(error, urllib.error.HTTPError) and error.code in (401, 404):
        return WeightsError(f"{address}: there is no {url} (HTTP {error.code}); check the name")
    return WeightsError(
        f"{address} cannot be downloaded from {url}: {error or type(error).__name__}. "
        f"On a machine without a connection, put the file at {cached}, or set MODEL.WEIGHTS to "
        "the path of a copy"
    )


def _check(path: Path, expected: str | None, url: str, address: str) -> None:
    """Remove a file and raise `WeightsError` unless its SHA-256 begins with `expected`."""
    if expected is None or (found := _sha256(path)).startswith(expected):
        return
    path.unlink()
    raise WeightsError(
        f"{address}: the file from {url} has the SHA-256 {found}, expected {expected}. It was "
        "removed from the cache. Try again; if the hash is still wrong, do not trust the source"
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _hash_in_name(url: str) -> str | None:
    """Return the first digits of the SHA-256, which end the names of PyTorch's own files."""
    match = re.search(r"-([0-9a-f]{8,})\.pth$", url)
    return match[1] if match and url.startswith(PYTORCH_URL) else None


def _hash_on_hub(url: str) -> str | None:
    """Ask the Hugging Face Hub for the SHA-256 of a file of weights."""
    if not url.startswith(HUGGING_FACE_URL):
        return None
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.build_opener(_StopAtHash).open(request, timeout=60) as response:
            headers = response.headers
    except urllib.error.HTTPError as error:
        headers = error.headers
        if headers.get(_HUB_HASH) is None:
            raise
    tag = headers.get(_HUB_HASH, "").strip('"')
    return tag if re.fullmatch("[0-9a-f]{64}", tag) else None


_HUB_HASH = "X-Linked-Etag"


class _StopAtHash(urllib.request.HTTPRedirectHandler):
    """Follows redirects up to the one that states the hash, which the storage does not repeat."""

    def redirect_request(
        self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any
    ) -> urllib.request.Request | None:
        if headers.get(_HUB_HASH) is not None:
            return None
        return super().redirect_request(req, fp, code, msg, headers, newurl)
