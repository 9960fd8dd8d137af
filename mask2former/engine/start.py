"""Starting a training or an evaluation, from the command line or from Python."""

from __future__ import annotations

import argparse
import difflib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import Tensor

from ..checkpoint import Checkpointer
from ..inference.exported import ExportedFile, is_exported
from ..report import Report
from .interruption import stop_on_signals
from .loggers.console import LOGGERS
from .setup import argument_parser, setup
from .thresholds import store_thresholds
from .trainer import Trainer


def run_arguments(**given: Any) -> argparse.Namespace:
    """Return the arguments of `argument_parser`, by name, and its defaults for the others.

    Raises:
        ValueError: there is no argument of a name.
    """
    args = argument_parser().parse_args([])
    for name, value in given.items():
        if not hasattr(args, name):
            similar = difflib.get_close_matches(name, vars(args), n=1)
            hint = f": did you mean {similar[0]}?" if similar else ""
            raise ValueError(f"there is no argument {name!r}{hint}")
        setattr(args, name, value)
    return args


def prepare(
    args: argparse.Namespace, state: Mapping[str, Tensor] | None = None
) -> Callable[[], dict[str, Any]]:
    """Set up a run in this process, and load its weights.

    Args:
        args: of `argument_parser` or `run_arguments`; their config file may be an exported file,
            which is evaluated.
        state: the weights to evaluate, instead of ``MODEL.WEIGHTS``.

    Returns:
        A function that trains or evaluates, and returns the results of the (last) evaluation.

    Raises:
        ValueError: see `setup`, or the weights cannot be used.
        ImportError: the evaluation needs a package that is not installed.
        OSError: the output folder cannot be written to.
    """
    if args.started is None:
        args.started = time.monotonic()
    if is_exported(args.config_file):
        if not args.eval_only:
            raise ValueError(f"{args.config_file} is an exported file, which cannot be trained")
        args.exported = ExportedFile.open(
            Path(args.config_file), allow_unsafe=args.allow_unsafe_weights
        )
    cfg = setup(args)
    if not args.eval_only:
        trainer = Trainer(cfg)
        trainer.checkpointer.allow_unsafe = args.allow_unsafe_weights
        trainer.resume_or_load(resume=args.resume)

        def train() -> dict[str, Any]:
            trainer.train()
            return dict(getattr(trainer, "_last_eval_results", None) or {})

        return train

    model = Trainer.build_model(cfg) if args.exported is None else args.exported.model(cfg)
    if state is not None:
        model.load_state_dict(state)
    elif args.exported is None:
        checkpointer = Checkpointer(model, cfg.OUTPUT_DIR)
        checkpointer.allow_unsafe = args.allow_unsafe_weights
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)

    def evaluate() -> dict[str, Any]:
        is_kept = args.report or args.find_thresholds
        report = Report(cfg, "Evaluation") if is_kept else None
        results = Trainer.test(cfg, model, report=report)
        if report is not None and comm.is_main_process():
            if args.find_thresholds:
                store_thresholds(report, cfg, args.config_file, args.wanted_precision)
            if args.report:
                report.write(args.report)
        return results

    return evaluate


def start(args: argparse.Namespace, state: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    """Train or evaluate from Python, and leave the process as it was.

    Ctrl-C saves a checkpoint after the current iteration, and raises `KeyboardInterrupt`; see
    `stop_on_signals`. In a thread other than the main one, signals have no effect here.

    Args and errors are those of `prepare`.

    Raises:
        FloatingPointError: the losses became NaN or infinite.
    """
    is_main = threading.current_thread() is threading.main_thread()
    try:
        with _logging_restored(), stop_on_signals() if is_main else nullcontext():
            return prepare(args, state)()
    except SystemExit as stop:
        if stop.code == 130:
            raise KeyboardInterrupt from None
        raise


@contextmanager
def _logging_restored() -> Iterator[None]:
    """Remove the handlers that a run adds, so that a second run does not log everything twice."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(list(x.handlers), list(x.filters), x.level, x.propagate) for x in loggers]
    raises = logging.raiseExceptions
    try:
        yield
    finally:
        logging.raiseExceptions = raises
        for own, (handlers, filters, level, propagate) in zip(loggers, before, strict=True):
            for handler in own.handlers:
                if handler not in handlers:
                    handler.flush()
            own.handlers, own.filters = handlers, filters
            own.setLevel(level)
            own.propagate = propagate
        setup_logger.cache_clear()
