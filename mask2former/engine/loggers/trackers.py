"""Trackers of experiments in other packages: Weights & Biases, MLflow and Trackio."""

from __future__ import annotations

import importlib.util
import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from mask2former_runtime.text import one_line

# The project, or experiment, unless the tracker's own environment variable names another.
PROJECT = "mask2former"
# Kinds of MLflow's stores that are databases
_DATABASES = ("sqlite", "mysql", "postgresql", "mssql")


class Tracker(ABC):
    """A run in a tracker of experiments.

    Attributes:
        run_id: finds this run again.
    """

    run_id: str

    @abstractmethod
    def __init__(self, cfg: CfgNode, name: str, run_id: str | None) -> None:
        """Start a run with its config, or continue the one of an id."""

    @abstractmethod
    def log(self, values: Mapping[str, float], iteration: int) -> None:
        """Send the values of an iteration."""

    @abstractmethod
    def finish(self, *, failed: bool) -> None:
        """End the run, and wait until everything is sent."""


class WeightsAndBiases(Tracker):
    """https://wandb.ai, or with ``WANDB_MODE=offline`` the folder ``wandb`` in ``OUTPUT_DIR``."""

    def __init__(self, cfg: CfgNode, name: str, run_id: str | None) -> None:
        import wandb

        self.run_id = run_id or uuid.uuid4().hex[:8]
        environment = wandb.Settings()  # reads WANDB_PROJECT
        self._run = wandb.init(
            project=environment.project or PROJECT,
            name=name,
            id=self.run_id,
            dir=cfg.OUTPUT_DIR,
            config=_as_dict(cfg),
            resume="allow",
        )

    def log(self, values: Mapping[str, float], iteration: int) -> None:
        """Send the values of an iteration."""
        self._run.log(dict(values), step=iteration)

    def finish(self, *, failed: bool) -> None:
        """End the run."""
        self._run.finish(exit_code=int(failed))


class MLflow(Tracker):
    """An MLflow server or store: that of ``MLFLOW_TRACKING_URI``, or MLflow's default."""

    def __init__(self, cfg: CfgNode, name: str, run_id: str | None) -> None:
        from mlflow import MlflowClient
        from mlflow.environment_variables import MLFLOW_EXPERIMENT_NAME

        self._client = MlflowClient()
        if run_id is not None:
            self.run_id = run_id
            self._client.update_run(run_id, status="RUNNING")
            return
        experiment = MLFLOW_EXPERIMENT_NAME.get() or PROJECT
        found = self._client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self._client.create_experiment(experiment)
        self.run_id = self._client.create_run(number, run_name=name).info.run_id
        self._client.log_text(self.run_id, cfg.dump(), "config.yaml")
        for key, value in _flat(_as_dict(cfg)):
            self._client.log_param(self.run_id, key, str(value)[:500])  # servers take no more

    def log(self, values: Mapping[str, float], iteration: int) -> None:
        """Send the values of an iteration."""
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        now = get_current_time_millis()
        metrics = [
            Metric(re.sub(r"[^\w\-. :/]", "_", name), value, now, iteration)
            for name, value in values.items()
        ]
        self._client.log_batch(self.run_id, metrics=metrics)

    def finish(self, *, failed: bool) -> None:
        """End the run."""
        self._client.set_terminated(self.run_id, status="FAILED" if failed else "FINISHED")


class Trackio(Tracker):
    """Hugging Face's local tracker; ``TRACKIO_DIR`` says where its files are."""

    def __init__(self, cfg: CfgNode, name: str, run_id: str | None) -> None:
        import trackio

        # It finds runs by their name.
        self.run_id = run_id or f"{name}-{uuid.uuid4().hex[:8]}"
        self._run = trackio.init(
            project=PROJECT,
            name=self.run_id,
            config=_as_dict(cfg),
            resume="never" if run_id is None else "must",
            embed=False,
        )

    def log(self, values: Mapping[str, float], iteration: int) -> None:
        """Send the values of an iteration."""
        self._run.log(dict(values), step=iteration)

    def finish(self, *, failed: bool) -> None:
        """End the run."""
        self._run.finish()


TRACKERS: dict[str, type[Tracker]] = {
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
    "trackio": Trackio,
}


def check_loggers(names: Sequence[str]) -> None:
    """Check that what trackers need is installed.

    Raises:
        ImportError: it is not; the message says how to install it.
    """
    for name in names:
        if name in TRACKERS and importlib.util.find_spec(name) is None:
            raise ImportError(f'LOGGERS {name} needs {name}: pip install "mask2former[{name}]"')
    if "mlflow" in names:
        _check_store()


def _check_store() -> None:
    """Check that MLflow has what its store needs: ``mlflow-skinny`` does not have databases."""
    import mlflow

    store = mlflow.get_tracking_uri()
    is_database = store.partition(":")[0].partition("+")[0] in _DATABASES
    if is_database and importlib.util.find_spec("sqlalchemy") is None:
        raise ImportError(
            f"LOGGERS mlflow keeps runs in {store}, which mlflow-skinny alone cannot: "
            'pip install "mask2former[mlflow]", or set MLFLOW_TRACKING_URI to the address of a '
            "server (http://HOST:PORT)"
        )


def start_tracker(name: str, cfg: CfgNode, run_id: str | None) -> Tracker:
    """Start a run in a tracker.

    Args:
        name: of `TRACKERS`.
        cfg: the config of the run; the name of its ``OUTPUT_DIR`` is that of the run.
        run_id: of the run to continue, or None to start one.

    Raises:
        OSError: the tracker cannot be used, for instance without a network or an account.
    """
    try:
        return TRACKERS[name](cfg, Path(cfg.OUTPUT_DIR).resolve().name, run_id)
    except Exception as error:  # each package has kinds of its own
        reason = one_line(str(error)).strip(" .")
        raise OSError(f"LOGGERS {name} cannot be used: {reason}") from error


def _as_dict(cfg: CfgNode) -> dict[str, Any]:
    return yaml.safe_load(cfg.dump())


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
