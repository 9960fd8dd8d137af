"""A Hugging Face folder without weights, which the tests of its files change."""

from pathlib import Path

import pytest
from hf_models import model_config, swin_config, write_folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_folder(
        tmp_path / "model", model_config(swin_config(), mask2former_task="instance")
    )
