"""When a run saves, and which checkpoints it keeps."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from torch import Tensor, nn

from ..checkpoint import Checkpointer, WeightsError, read_checkpoint
from ..checkpoint.resume import BEST, FINAL, numbered_checkpoints
from .averaging import WeightAverage
from .interruption import request, requested_signal
from .run_folder import LOCK, LostFolderError, is_lost

AVERAGE_FILE = "model_final_ema.pth"

logger = logging.getLogger(__name__)


class _Untagged(Checkpointer):
    """Saves weights alone, which training does not continue from."""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        pass


class SaveCheckpoints(HookBase):
    """Saves every so many iterations or minutes, at the end, and when a signal asks to stop.

    Checkpoints, which are named by their iteration, hold the weights and everything else that
    training needs to continue. At the end, `FINAL` holds the weights alone.

    It comes after the schedule and before the evaluation. See `stop_on_signals`.

    Args:
        checkpointer: saves in the main process.
        period: iterations between checkpoints.
        minutes: the longest time between checkpoints; 0 sets no limit.
        keep: how many numbered checkpoints to keep; 0 keeps all. An older one is deleted after
            the newer one is on the disk.
        device: where the processes exchange that one of them has received a signal.
        average: what a checkpoint has beside the weights, if it has.
    """

    def __init__(
        self,
        checkpointer: Checkpointer,
        *,
        period: int,
        minutes: float,
        keep: int,
        device: str,
        average: WeightAverage | None = None,
    ) -> None:
        self._checkpointer = checkpointer
        self._final = _Untagged(checkpointer.model, checkpointer.save_dir)
        self._average = average
        self._period = period
        self._seconds = 60 * minutes if minutes else math.inf
        self._keep = keep
        self._device = device
        self._saved_at = time.monotonic()
        self._saved = True
        self._in_iteration = False

    def before_train(self) -> None:
        """Start the clock, delete what a killed run had not deleted yet, and let signals wait."""
        self._saved_at = time.monotonic()
        if comm.is_main_process():
            self._delete_older(self.trainer.iter - 1)
        request.deferred = True

    def before_step(self) -> None:
        """Note that the weights are about to change."""
        self._saved, self._in_iteration = False, True

    def after_step(self) -> None:
        """Save where it is time; then stop if a signal has come.

        Raises:
            FloatingPointError: a weight is not finite. The checkpoints before it are kept.
            OSError: the disk is full, or the folder cannot be written to or is lost.
        """
        self._in_iteration = False
        self.check_folder()
        done = self.trainer.iter + 1
        if done % self._period == 0 or time.monotonic() - self._saved_at >= self._seconds:
            self._save()
        if done >= self.trainer.max_iter:
            self.save_final()
        if number := requested_signal(self._device):
            raise SystemExit(128 + number)

    def after_train(self) -> None:
        """Save what a stop would lose."""
        request.deferred = False
        error = sys.exc_info()[1]
        stopped = isinstance(error, SystemExit) or (error is not None and request.raised)
        if stopped and not self._in_iteration:
            if not self._saved:
                self._save()
            logger.info("Stopped; continue with --resume")

    def save_final(self, *, state_changed: bool = False) -> None:
        """Save what a finished run has: a checkpoint to continue from, then the weights alone.

        Args:
            state_changed: replace the checkpoint of this iteration.
        """
        if state_changed or not self._saved:
            self._save()
        if comm.is_main_process():
            number = self.trainer.iter
            final = {"iterations": number + 1, "continue_from": f"{_name(number)}.pth"}
            self._final.save(Path(FINAL).stem, iteration=number, final=final)

    def complete_final(self, resumed_from: str) -> None:
        """Save the weights that a run which was killed at its end lacks.

        Args:
            resumed_from: the checkpoint of the last iteration, whose weights the model has.
        """
        path = Path(self._checkpointer.save_dir, FINAL)
        if not comm.is_main_process() or Path(resumed_from) == path:
            return
        try:
            if path.exists() and read_checkpoint(path).get("iteration") == self.trainer.iter:
                return
        except WeightsError as error:
            logger.warning("%s: it is written again", error)
        self.save_final()

    def check_folder(self) -> None:
        """Check that the folder is still the one that the run began in.

        Raises:
            LostFolderError: it is not, and the run is to end. The weights, which are nowhere else
                then, are saved anew, unless a step had begun or another run has the folder.
        """
        folder = Path(self._checkpointer.save_dir)
        if not comm.is_main_process() or not is_lost(folder):
            return
        problem = f"{folder} was deleted, moved or replaced during training"
        if (folder / LOCK).exists():
            raise LostFolderError(f"{problem}. It belongs to another run now: nothing is saved")
        if self._in_iteration:
            raise LostFolderError(f"{problem}, and its weights are lost")
        trainer = self.trainer
        trainer.iter = min(trainer.iter, trainer.max_iter - 1)  # after the last, it is one more
        try:
            self._save()
        except OSError as error:
            raise LostFolderError(f"{problem}, and its weights are lost: {error}") from error
        raise LostFolderError(
            f"{problem}, and what the run had written with it. The weights after iteration "
            f"{trainer.iter} are saved there anew: continue with --resume"
        )

    def _save(self) -> None:
        if not comm.is_main_process():
            return
        check_finite(self._checkpointer.model.state_dict(), self.trainer.iter)
        if self._average is not None:
            check_finite(self._average.state_dict()["values"], self.trainer.iter)
        self._checkpointer.save(_name(self.trainer.iter), iteration=self.trainer.iter)
        self._saved, self._saved_at = True, time.monotonic()
        self._delete_older(self.trainer.iter)

    def _delete_older(self, newest: int) -> None:
        numbers = numbered_checkpoints(Path(self._checkpointer.save_dir))
        # Later ones are of an earlier run that was resumed from a checkpoint in its middle.
        past = sorted((number, path) for path, number in numbers.items() if number <= newest)
        for _, path in past[: -self._keep] if self._keep else ():
            path.unlink()
            logger.info("Deleted the older checkpoint %s", path)


def _name(iteration: int) -> str:
    """Return the name, without ".pth", of the checkpoint after an iteration."""
    return f"model_{iteration:07d}"


def check_finite(weights: Mapping[str, Tensor], iteration: int) -> None:
    """Raise `FloatingPointError` if a weight or buffer is NaN or infinite."""
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise FloatingPointError(
                f"after iteration {iteration}, {name} holds NaN or infinite values; nothing is "
                "saved. The weights have most likely diverged: continue from an earlier checkpoint "
                "with a lower SOLVER.BASE_LR"
            )


class AverageWeights(HookBase):
    """Averages the weights after each step, and writes the average when training is done.

    It comes after what changes weights and buffers, and before the checkpoints.

    Args:
        average: of the trained model.
        model: the model.
        folder: where to write `AVERAGE_FILE`, from which training does not continue.
    """

    def __init__(self, average: WeightAverage, model: nn.Module, folder: str) -> None:
        self._average = average
        self._checkpointer = _Untagged(model, folder)

    def before_train(self) -> None:
        """Start the average, unless it was loaded."""
        self._average.start()

    def after_step(self) -> None:
        """Take the weights of this step into the average."""
        self._average.update()

    def after_train(self) -> None:
        """Write the average in the main process."""
        finished = sys.exc_info()[1] is None and self.trainer.iter >= self.trainer.max_iter
        if finished and comm.is_main_process():
            with self._average.applied():
                check_finite(self._checkpointer.model.state_dict(), self.trainer.iter - 1)
                self._checkpointer.save(Path(AVERAGE_FILE).stem)


class BestCheckpoint:
    """The weights with the highest value of a metric so far, in ``model_best.pth``.

    The file holds the metric, the iteration and whether the weights are averaged ones, too.
    Training does not continue from it.

    Args:
        model: the model.
        folder: where to write.
        metric: name as in ``metrics.json``, such as "segm/AP".
    """

    def __init__(self, model: nn.Module, folder: str, metric: str) -> None:
        self._checkpointer = _Untagged(model, folder)
        self._path = Path(folder, BEST)
        self._metric = metric
        self._value = -math.inf

    def restore(self) -> None:
        """Go on from the value of an earlier part of the run."""
        try:
            best = read_checkpoint(self._path)["best"] if self._path.exists() else {}
        except (WeightsError, KeyError) as error:
            logger.warning("The next evaluation replaces %s: %s", self._path, error)
            return
        if best.get("metric") == self._metric:
            self._value = best["value"]

    def update(self, results: dict[str, Any], iteration: int, *, averaged: bool = False) -> bool:
        """Save the model if the results of its evaluation are the best so far.

        Args:
            results: of the evaluation.
            iteration: of the weights.
            averaged: whether the model has averaged weights now.

        Returns:
            Whether this process, the main one, saved it.
        """
        if not comm.is_main_process():
            return False
        values = flatten_results_dict(results)
        if self._metric not in values:
            logger.warning(
                "No best checkpoint: SOLVER.BEST_METRIC is %r, but the evaluation gives %s",
                self._metric, ", ".join(values) or "nothing",
            )  # fmt: skip
        value = float(values.get(self._metric, math.nan))
        if not value > self._value:  # true for NaN
            return False
        check_finite(self._checkpointer.model.state_dict(), iteration)
        best = {"metric": self._metric, "value": value, "averaged": averaged}
        self._checkpointer.save(self._path.stem, iteration=iteration, best=best)
        self._value = value
        return True
