"""What is wrong with the settings of a run is said before anything is written."""

import importlib.util

import pytest
from support import REPOSITORY, TINY

from mask2former.engine.setup import argument_parser, setup

PHOTOS = REPOSITORY / "configs/quickstart/photos.yaml"


def message(shapes, output, *keys):
    """The error of a run with these keys, which does not make its folder."""
    words = ["--config-file", PHOTOS, "--data", shapes, "--task", "instance", "OUTPUT_DIR", output]
    args = argument_parser().parse_args([*map(str, words), *map(str, TINY), *map(str, keys)])
    with pytest.raises((ValueError, ImportError)) as error:
        setup(args)
    assert not output.exists()
    return str(error.value)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["MODEL.TIMM.NAME", "efficientnet_lite"], "Did you mean efficientnet_lite"),
        (["MODEL.TIMM.FROZEN_STAGES", 99], "MODEL.TIMM.FROZEN_STAGES is 99, but"),
        (["SOLVER.REFERENCE_WORLD_SIZE", 8], "but SOLVER.IMS_PER_BATCH, 2, must be a multiple"),
        (["INPUT.ALBUMENTATIONS", "absent.json"], "INPUT.ALBUMENTATIONS absent.json cannot be"),
    ],
)
def test_keys_that_name_nothing_or_do_not_fit(keys, expected, shapes, tmp_path):
    pytest.importorskip("timm")
    assert expected in message(shapes, tmp_path / "run", *keys)


def test_a_tracker_that_is_not_installed(shapes, tmp_path, monkeypatch):
    pytest.importorskip("timm")
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda n: None if n == "trackio" else find(n))
    found = message(shapes, tmp_path / "run", "LOGGERS", '["csv", "trackio"]')
    assert found == 'LOGGERS trackio needs trackio: pip install "mask2former[trackio]"'


def test_mlflow_without_the_package_for_its_database(shapes, tmp_path, monkeypatch):
    pytest.importorskip("timm")
    pytest.importorskip("mlflow")
    if importlib.util.find_spec("sqlalchemy") is not None:
        pytest.skip("mlflow has its databases")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
    found = message(shapes, tmp_path / "run", "LOGGERS", '["mlflow"]')
    assert "mlflow-skinny alone cannot" in found and "MLFLOW_TRACKING_URI" in found
    assert not (tmp_path / "runs.db").exists()
