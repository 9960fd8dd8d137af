from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from demo_runs import ALL_IDS, ALL_NAMES, PANOPTIC_CONFIG, THINGS, make_run
from servers import Server, running

from mask2former.api import Mask2Former

METADATA = {
    "thing_classes": [ALL_NAMES[i] for i in THINGS],
    "thing_dataset_id_to_contiguous_id": {ALL_IDS[i]: i for i in THINGS},
    "stuff_classes": ALL_NAMES,
    "stuff_dataset_id_to_contiguous_id": {id_: i for i, id_ in enumerate(ALL_IDS)},
}


@pytest.fixture(scope="session")
def make_config(tmp_path_factory) -> Callable[..., Path]:
    """Writes a small panoptic model with random weights, which finds several objects.

    It takes more metadata, and returns the config.
    """
    config = PANOPTIC_CONFIG.replace("OBJECT_MASK_THRESHOLD: 0.3", "OBJECT_MASK_THRESHOLD: 0.0")

    def make(**metadata: object) -> Path:
        folder = tmp_path_factory.mktemp("served")
        return make_run(folder, config, {**METADATA, **metadata}, varied=True)

    return make


@pytest.fixture(scope="session")
def run_config(make_config) -> Path:
    """The config of such a model."""
    return make_config()


@pytest.fixture(scope="session")
def model(run_config) -> Mask2Former:
    """The same model in this process."""
    return Mask2Former.from_pretrained(run_config)


@pytest.fixture(scope="session")
def server(run_config, tmp_path_factory) -> Iterator[Server]:
    """A server that all tests may use, and that survives all of them."""
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with running(run_config, log, upload_bytes=2**20, pixels=1_000_000, upload_seconds=2) as server:
        yield server
        assert server.get("/healthz").status == 200
    assert server.process.exitcode == 0
    assert "Traceback" not in log.read_text()


@pytest.fixture(autouse=True)
def _as_many_threads_as_the_server():
    """Rounding depends on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
