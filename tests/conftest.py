"""What several test modules need: a data set on disk and a model that trains in seconds."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from support import QUICKSTART, REPOSITORY, TINY
from wheels import build_wheels

# Before anything imports onnxruntime: sets what keeps it from reporting its models
import mask2former_runtime.networks  # noqa: F401
from mask2former import Mask2Former, load_config
from mask2former.data import register_synthetic
from mask2former.data.preparation.synthetic import generate
from mask2former.modeling.ops.runtime_libraries import RUNTIMES, build_libraries, library_name


@pytest.fixture(scope="session")
def datasets(tmp_path_factory) -> Path:
    """The folder of the synthetic data set, 12 images to train on and 4 to validate."""
    root = tmp_path_factory.mktemp("datasets")
    generate(root / "synthetic_shapes", train=12, val=4, size=64, seed=0, progress=False)
    return root


@pytest.fixture
def shapes(datasets) -> Path:
    """The synthetic data set, registered by name, whatever earlier tests have registered."""
    register_synthetic(datasets)
    return datasets / "synthetic_shapes"


@pytest.fixture
def tiny_cfg(shapes, tmp_path) -> CfgNode:
    """The quickstart's config with everything smaller still."""
    torch.manual_seed(0)
    return load_config(str(QUICKSTART), [*TINY, "OUTPUT_DIR", str(tmp_path / "run")])


@pytest.fixture(scope="session")
def shared() -> Path:
    """The data and reference files beside the checkout; skips the test where they are missing."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder of data beside the checkout")
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The quickstart's panoptic model after 400 iterations, about 80 s, and its data."""
    root = tmp_path_factory.mktemp("trained")
    data = root / "synthetic_shapes"
    generate(data, train=200, val=40, size=128, seed=0, progress=False)
    model = Mask2Former.from_config(
        "quickstart/panoptic",
        overrides=["SOLVER.IMS_PER_BATCH", 4, "SOLVER.WARMUP_ITERS", 20, "TEST.REPORT", False,
                   "DATALOADER.NUM_WORKERS", 0, "TEST.EVAL_PERIOD", 0,
                   "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD", 0.3],
    )  # fmt: skip
    model.train(data, output=root / "run", iterations=400, task="panoptic")
    return model, data


@pytest.fixture(scope="session")
def wheels(tmp_path_factory) -> list[Path]:
    """The wheels of the checkout: the package, then its runtime."""
    return build_wheels(tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def operator_libraries(tmp_path_factory) -> dict[str, Path]:
    """The attention operator's library for each runtime, built once for all processes."""
    if not any(map(shutil.which, ("g++", "clang++", "c++"))):
        pytest.skip("no C++ compiler")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "operator_libraries"
    folder.mkdir(exist_ok=True)
    libraries = {runtime: folder / library_name(runtime) for runtime in RUNTIMES}
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not all(path.exists() for path in libraries.values()):
            build_libraries(RUNTIMES, folder)
    return libraries


@pytest.fixture(scope="session")
def onnxruntime_headers() -> Path:
    """The folder of onnxruntime's headers, which its packages for Python do not bring."""
    folders = [os.environ.get("ONNXRUNTIME_INCLUDE"), "/usr/include/onnxruntime"]
    for folder in [*filter(None, folders), "/usr/local/include/onnxruntime"]:
        if Path(folder, "onnxruntime_cxx_api.h").exists():
            return Path(folder)
    pytest.skip("no headers of onnxruntime: ONNXRUNTIME_INCLUDE names their folder")
