"""Output folders of small models, a photograph, and a function that runs the command."""

from collections.abc import Callable
from pathlib import Path

import pytest
from demo_runs import ALL_NAMES, SEMANTIC_CONFIG, instance_run, make_run, panoptic_run
from matplotlib import cbook
from PIL import Image

from mask2former.cli.demo import main


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Path:
    """The output folder of an instance model."""
    return instance_run(tmp_path_factory.mktemp("run")).parent


@pytest.fixture(scope="session")
def panoptic_config(tmp_path_factory) -> Path:
    """The config in the output folder of a model that does all three tasks."""
    return panoptic_run(tmp_path_factory.mktemp("panoptic"))


@pytest.fixture(scope="session")
def segmentor_config(tmp_path_factory) -> Path:
    """The config in the output folder of a semantic model of Detectron2's kind."""
    metadata = {"stuff_classes": ALL_NAMES}
    return make_run(tmp_path_factory.mktemp("segmentor"), SEMANTIC_CONFIG, metadata)


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        return Image.open(file).convert("RGB")


@pytest.fixture
def demo(run_folder, capfd) -> Callable[..., tuple[int, str, str]]:
    """A function that runs the command and returns its exit status, stdout and stderr."""

    def run(*arguments: object, config: Path = run_folder / "config.yaml"):
        try:
            status = main(["--config-file", str(config), *map(str, arguments)])
        except SystemExit as exit_:
            status = exit_.code
        return status, *capfd.readouterr()

    return run
