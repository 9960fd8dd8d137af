"""The bar of a training run on a terminal."""

from __future__ import annotations

import logging
from contextlib import ExitStack

from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ...report.run_metrics import LOSSES, METRICS
from .console import LOGGERS, console_filter

_PERIODIC = "detectron2.utils.events"  # writes a line per period, which the bar replaces
_WINDOW = 20  # iterations that shown losses are medians of, as those of the lines are


class ProgressBar(HookBase):
    """Shows how far the run is, the time left, the losses and the last metric.

    Other messages come above it. The lines per period go into ``log.txt`` alone. It comes last.
    """

    def __init__(self) -> None:
        self._open = ExitStack()
        self._bar: tqdm | None = None

    def before_train(self) -> None:
        """Show the bar."""
        loggers = [logging.getLogger(name) for name in LOGGERS]
        before = {id(handler) for each in loggers for handler in each.handlers}
        self._open.enter_context(logging_redirect_tqdm(loggers))
        for handler in {handler for each in loggers for handler in each.handlers}:
            if id(handler) not in before:  # in the place of one that writes to the console
                handler.addFilter(console_filter)
                handler.addFilter(lambda record: record.name != _PERIODIC)
        trainer = self.trainer
        self._bar = self._open.enter_context(
            tqdm(
                desc="Training",
                total=trainer.max_iter,
                initial=trainer.start_iter,
                dynamic_ncols=True,
            )
        )

    def after_step(self) -> None:
        """Move the bar."""
        bar = self._bar
        if bar is not None:
            bar.total = self.trainer.max_iter  # which an early end lowers
            bar.set_postfix_str(numbers(self.trainer.storage), refresh=False)
            bar.update()

    def after_train(self) -> None:
        """Leave the bar as it is."""
        self._open.close()


def numbers(storage: EventStorage) -> str:
    """Return the losses and the last value of the main metric in words."""
    found = storage.histories()

    def loss(name: str) -> str:
        return f"{found[name].median(storage.count_samples(name, _WINDOW)):.3g}"

    parts = [f"loss {loss('total_loss')}"] if "total_loss" in found else []
    parts += [f"{name.removeprefix('loss_')} {loss(name)}" for name in LOSSES if name in found]
    metric = next((name for name in METRICS if name in found), None)
    if metric is not None:
        parts.append(f"{metric} {found[metric].latest():.1f}")
    return ", ".join(parts)
