"""Models on the Hugging Face Hub: downloads into its cache, and uploads."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from types import ModuleType

from mask2former_runtime.text import one_line

from ..checkpoint.files import HF_WEIGHT_FILES, WeightsError

logger = logging.getLogger(__name__)


def import_hub() -> ModuleType:
    """Import `huggingface_hub`; if it is missing, raise a `ValueError` that says how to get it."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError(
            'models on the Hugging Face Hub need huggingface_hub: pip install "mask2former[hub]"'
        ) from error
    return huggingface_hub


def download_model(repository: str, revision: str | None = None) -> Path:
    """Return the folder of a model in the Hub's cache, downloaded unless it is there.

    A model in the cache is used as it is, without asking the Hub for a newer one. The Hub's own
    settings apply: ``HF_HOME``, ``HF_HUB_OFFLINE``, ``HF_TOKEN``, ``HF_ENDPOINT`` and others.

    Args:
        repository: "owner/name".
        revision: branch, tag or commit; by default the main branch.

    Raises:
        WeightsError: the model is not in the cache, and cannot be downloaded.
        ValueError: `huggingface_hub` is not installed.
    """
    hub = import_hub()
    try:
        cached = Path(hub.snapshot_download(repository, revision=revision, local_files_only=True))
        if any((cached / name).is_file() for name in HF_WEIGHT_FILES):
            return cached
    except (hub.errors.LocalEntryNotFoundError, FileNotFoundError):
        pass  # not in the cache
    try:
        info = hub.HfApi().model_info(repository, revision=revision)
        files = {sibling.rfilename for sibling in info.siblings or ()}
        weights = next((name for name in HF_WEIGHT_FILES if name in files), None)
        if weights is None:
            raise WeightsError(
                f"{repository} on the Hub holds none of {', '.join(HF_WEIGHT_FILES)}"
            )
        _state_licence(repository, info)
        # Of weights that are there in several formats, only one is needed.
        shards = [f"{weights.split('.')[0]}-*.{suffix}" for suffix in ("safetensors", "bin")]
        wanted = ["*.json", weights, *(shards if weights.endswith(".index.json") else ())]
        folder = hub.snapshot_download(repository, revision=revision, allow_patterns=wanted)
    except WeightsError:
        raise
    except hub.errors.OfflineModeIsEnabled as error:
        raise WeightsError(
            f"{repository} is not in the Hub's cache, and HF_HUB_OFFLINE forbids a download"
        ) from error
    except Exception as error:  # of the HTTP client, which has changed between versions
        raise WeightsError(
            f"{repository} cannot be downloaded from the Hub: {_reason(error)}"
        ) from error
    return Path(folder)


def _state_licence(repository: str, info: object) -> None:
    card = getattr(info, "card_data", None)
    licence = getattr(card, "license", None) or "not stated"
    name = getattr(card, "license_name", None)
    detail = f" ({name})" if name else ""
    logger.warning("Licence of %s: %s%s", repository, one_line(f"{licence}", 100), detail)


def upload_model(folder: str | os.PathLike[str], repository: str, private: bool) -> str:
    """Upload the files of a folder to a model on the Hub, which is created unless it exists.

    Returns:
        The address of the model's page.

    Raises:
        ValueError: `huggingface_hub` is not installed, or the Hub refuses.
    """
    hub = import_hub()
    api = hub.HfApi()
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=url.repo_id, folder_path=folder, commit_message="Upload a Mask2Former model"
        )
    except Exception as error:  # of the HTTP client, which has changed between versions
        raise ValueError(f"{repository} cannot be uploaded to the Hub: {_reason(error)}") from error
    return str(url)


def _reason(error: Exception) -> str:
    text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return one_line(text.strip(), 300)
