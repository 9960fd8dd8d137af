"""When evaluations say that more training does not help."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm


class EarlyStopping:
    """Counts the evaluations since the best value of a metric.

    All processes count alike.

    Args:
        metric: name as in ``metrics.json``, such as "segm/AP". The better of the weights and
            their average counts.
        patience: stop after so many evaluations without a better value, at least 1.
    """

    def __init__(self, metric: str, patience: int) -> None:
        self._metric = metric
        self._patience = patience
        self._best = -math.inf
        self._waited = 0
        self.evaluated = -1  # the iteration of the last evaluation

    @property
    def reached(self) -> bool:
        """Whether it is time to stop."""
        return self._waited >= self._patience

    @property
    def may_be_next(self) -> bool:
        """Whether it is time to stop if the next evaluation is not better."""
        return self._waited + 1 >= self._patience

    def update(self, results: Mapping[str, Any], iteration: int) -> None:
        """Take an evaluation into account; NaN is not better than anything.

        Args:
            results: of the evaluation, in the main process.
            iteration: of the weights.

        Raises:
            ValueError: the metric is not among the results.
        """
        found = flatten_results_dict(dict(results))
        found = comm.all_gather(found)[0]
        names = [name for name in (self._metric, f"ema/{self._metric}") if name in found]
        if not names:
            raise ValueError(
                f"SOLVER.EARLY_STOPPING_PATIENCE watches SOLVER.BEST_METRIC {self._metric!r}, but "
                f"the evaluation gives {', '.join(found) or 'nothing'}"
            )
        self.evaluated = iteration
        self._waited += 1
        for name in names:
            if found[name] > self._best:
                self._best, self._waited = float(found[name]), 0

    def reason(self) -> str:
        """Say how long there has been no improvement."""
        return f"{self._waited} evaluations did not improve {self._metric} {self._best:.4f}"

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to stop where it would have without interruption."""
        names = {"metric": self._metric, "best": self._best}
        return {**names, "waited": self._waited, "evaluated": self.evaluated}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the result of `state_dict`, unless it is of another metric."""
        if state["metric"] == self._metric:
            self._best, self._waited = state["best"], state["waited"]
            self.evaluated = state["evaluated"]
