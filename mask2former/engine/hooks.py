"""When a run is evaluated, and what it writes at its end."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any

from detectron2.engine import HookBase
from detectron2.engine.hooks import EvalHook, PeriodicWriter
from detectron2.utils import comm

from ..data import SeededMapDataset
from ..report import Report
from .early_stopping import EarlyStopping
from .loggers.writers import RunWriter
from .run_folder import LostFolderError
from .saving import SaveCheckpoints

logger = logging.getLogger(__name__)


class Evaluate(EvalHook):
    """Detectron2's hook, but a run that ends by an error or a signal is not evaluated.

    It lets the run end early, too, where it saves the final checkpoint.

    Args:
        period: iterations between evaluations; 0 evaluates at the end only.
        function: evaluates, and returns the results.
        saves: the run's checkpoints.
        stopping: whether to end early; `function` keeps it up to date.
    """

    def __init__(
        self,
        period: int,
        function: Callable[[], dict[str, Any]],
        *,
        saves: SaveCheckpoints,
        stopping: EarlyStopping | None = None,
    ) -> None:
        super().__init__(period, function)
        self._saves = saves
        self._stopping = stopping
        self._ended_early = False

    def before_train(self) -> None:
        """Evaluate what an earlier part of the run has saved, but may not have evaluated."""
        trainer, done = self.trainer, self.trainer.start_iter
        if self._stopping is None or self._stopping.evaluated >= done - 1:
            return
        if 0 < done < trainer.max_iter and self._period and done % self._period == 0:
            trainer.iter = trainer.storage.iter = done - 1
            self._evaluate()
            trainer.iter = trainer.storage.iter = done

    def after_step(self) -> None:
        """Evaluate where it is time; then end the run if it is not worthwhile."""
        done = self.trainer.iter + 1
        if self._period and done % self._period == 0 and done != self.trainer.max_iter:
            self._evaluate()

    def after_train(self) -> None:
        """Evaluate at the end of the schedule, unless the last step was just evaluated."""
        if sys.exc_info()[1] is None and not self._ended_early:
            super().after_train()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of early stopping."""
        return {} if self._stopping is None else self._stopping.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the result of `state_dict`."""
        if self._stopping is not None:
            self._stopping.load_state_dict(state)

    def _evaluate(self) -> None:
        self._do_eval()
        if self._stopping is not None and self._stopping.reached:
            self._ended_early = True
            self.trainer.max_iter = self.trainer.iter + 1
            logger.info(
                "Training ends early, after iteration %d: %s",
                self.trainer.iter, self._stopping.reason(),
            )  # fmt: skip
            self._saves.save_final(state_changed=True)


class WriteMetrics(PeriodicWriter):
    """Detectron2's hook, but an error while writing does not hide the one that ended the run."""

    def before_train(self) -> None:
        """Prepare the writers, and connect to trackers.

        Raises:
            OSError: a tracker cannot be used.
        """
        for writer in self._writers:
            if isinstance(writer, RunWriter):
                writer.start(self.trainer.start_iter)

    def after_train(self) -> None:
        """Write what is not written yet, after a stop too."""
        ending = sys.exc_info()[1]
        try:
            if isinstance(ending, LostFolderError):  # the folder may be that of another run
                for writer in self._writers:
                    writer.close()
            else:
                super().after_train()
        except Exception as error:
            if ending is None:
                raise
            logger.warning("The last metrics could not be written: %s", error)


class WriteReport(HookBase):
    """Writes a report at the end of the schedule; it comes after the metrics are written.

    Training is done by then, so what goes wrong is logged. It does not end the run with an error.

    Args:
        report: what the last evaluation found. It can be replaced.
        folder: where to write.
    """

    def __init__(self, report: Report, folder: str) -> None:
        self.report = report
        self._folder = folder

    def after_train(self) -> None:
        """Write the report in the main process."""
        trainer = self.trainer
        finished = sys.exc_info()[1] is None and trainer.iter + 1 >= trainer.max_iter
        if not finished or not comm.is_main_process():
            return
        dataset = getattr(trainer.data_loader, "dataset", None)
        if isinstance(dataset, SeededMapDataset):  # a subclass may have another loader
            self.report.add_training(dataset, trainer._trainer.seed)
        try:
            self.report.write(self._folder)
        except Exception as error:
            unknown = not isinstance(error, OSError)
            logger.warning("The report could not be written: %s", error, exc_info=unknown)
