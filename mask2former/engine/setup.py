"""From command-line arguments to a checked config and its data sets."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm

from ..config import load_config
from ..config.validate import check_early_stopping, check_world_size
from ..data.mapper import MAPPER_PRESETS, build_mapper
from ..data.metadata import METADATA_FILE, write_metadata
from ..data.own_data import CUSTOM_PREFIX, Registered
from ..data.training_set import require_registered
from ..evaluation import check_evaluation
from ..flags.length import add_length_flags
from ..flags.precision import add_precision
from ..flags.thresholds import add_threshold_flags
from ..flags.trust import add_trust_flags
from ..modeling.registries import check_encoder, check_names
from ..structures import Classes
from ..utils.device import check_device
from .data_flags import add_data_flags, register_run_datasets
from .loggers.console import start_logging
from .loggers.trackers import check_loggers
from .precision import set_precision
from .run_folder import check_run_folder, claim_run_folder
from .settings.run_settings import Settings, check_length, set_up_run
from .settings.time_budget import fit_to_budget
from .thresholds import check_threshold_flags

logger = logging.getLogger(__name__)

EPILOG = """
examples:
  train on your own data, here on a machine without a GPU:
    COCO instance JSON
      train_net.py --config-file configs/quickstart/instance.yaml \\
        --train-json train.json --train-images train/ --val-json val.json --val-images val/
    COCO panoptic JSON with its folder of PNG files
      train_net.py --config-file configs/quickstart/panoptic.yaml \\
        --train-json panoptic_train.json --train-images train/ --train-panoptic panoptic_train/ \\
        --val-json panoptic_val.json --val-images val/ --val-panoptic panoptic_val/
    images and label maps of the same names; classes.txt names class 0, 1, 2 ..., one per line
      train_net.py --config-file configs/quickstart/semantic.yaml --classes classes.txt \\
        --train-images train/ --train-labels labels_train/ \\
        --val-images val/ --val-labels labels_val/
  continue after an interruption (the same command and):
    ... --resume
  evaluate:
    train_net.py --config-file output/config.yaml --eval-only \\
      --val-json val.json --val-images val/ MODEL.WEIGHTS output/model_final.pth
"""


def argument_parser() -> argparse.ArgumentParser:
    """Build a parser of Detectron2's training arguments and of those for the user's own data."""
    parser = default_argument_parser(epilog=EPILOG)
    parser.description = "Train or evaluate Mask2Former."
    parser.add_argument(
        "--report",
        metavar="DIR",
        help="with --eval-only: write report.html there, with tables, curves, kinds of errors and "
        "the best and worst images",
    )
    add_precision(parser, "that of training; only with --eval-only")
    add_threshold_flags(parser)
    add_length_flags(parser)
    add_data_flags(parser)
    add_trust_flags(parser)
    parser.set_defaults(started=None, exported=None, verb=None)
    return parser


def checked_config(
    args: argparse.Namespace,
) -> tuple[CfgNode, Registered | None, Settings]:
    """Load and check the config, and register the data sets. This writes no file.

    Returns:
        The frozen config, the user's own data if there is any, and what was chosen for it.

    Raises:
        ValueError: the config, the device or the data do not fit; the message says what to do.
        ImportError: a package that the config needs is not installed.
    """
    if not args.config_file:
        raise ValueError("no config: give --config-file, such as configs/quickstart/instance.yaml")
    if args.exported is not None:
        cfg = args.exported.config(args.opts)
    else:
        cfg = load_config(
            args.config_file, args.opts, allow_unsafe=args.allow_unsafe_config, task=args.task
        )
        check_device(cfg.MODEL.DEVICE)
        check_names(cfg)
        check_encoder(cfg)
    if not args.eval_only:
        check_length(args)
        check_loggers(cfg.LOGGERS)
    has_weights = cfg.MODEL.WEIGHTS or args.resume or args.exported is not None
    if args.eval_only and not has_weights:
        raise ValueError("--eval-only needs weights: add MODEL.WEIGHTS FILE, or --resume")
    if args.report:
        check_report_folder(args)
    if args.precision is not None:
        if not args.eval_only:
            raise ValueError("--precision needs --eval-only: training has SOLVER.AMP.ENABLED")
        if args.exported is not None:
            raise ValueError(f"--precision: {args.config_file} has that of its export")
        set_precision(cfg, args.precision)
    check_threshold_flags(args, cfg)
    own = register_run_datasets(cfg, args)
    check_datasets(cfg, args.eval_only)
    settings = set_up_run(cfg, args, own)
    check_evaluation(cfg)
    if not args.eval_only:
        if cfg.INPUT.DATASET_MAPPER_NAME in MAPPER_PRESETS:  # a trainer may have one of its own
            build_mapper(cfg)  # reads the file of INPUT.ALBUMENTATIONS
        check_early_stopping(cfg)
        check_world_size(cfg)
    cfg.freeze()
    return cfg, own, settings


def setup(args: argparse.Namespace) -> CfgNode:
    """Load and check the config, register the data sets, set up logging and the output folder.

    Raises:
        ValueError: the config, the device, the data or the output folder do not fit; the
            message says what to do.
        ImportError: the evaluation needs a package that is not installed.
        OSError: the output folder cannot be written to.
    """
    is_writer = comm.is_main_process() and not args.eval_only
    with _interruption_reported():
        cfg, own, settings = checked_config(args)
        if is_writer:
            check_run_folder(Path(cfg.OUTPUT_DIR), args.resume)
        is_timed = args.time_budget is not None and not args.eval_only
        if is_timed and not settings.has_length:
            settings = fit_to_budget(cfg, args, settings)
    if is_writer:
        claim_run_folder(Path(cfg.OUTPUT_DIR), args.resume)
        if own is not None and own.split is not None:
            own.split.save(cfg.OUTPUT_DIR)
    logging.raiseExceptions = False  # on a full disk each message would print a traceback
    start_logging(cfg.OUTPUT_DIR, comm.get_rank())
    shown = argparse.Namespace(**vars(args))
    if args.exported is not None:
        shown.config_file = ""  # Detectron2 would print it
    default_setup(cfg, shown)
    if cfg.INPUT.MAX_SIZE_TEST < cfg.INPUT.MIN_SIZE_TEST:
        logger.warning(
            "INPUT.MIN_SIZE_TEST %d has no effect: INPUT.MAX_SIZE_TEST %d limits the longer side "
            "of images, and so the shorter side, too",
            cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST,
        )  # fmt: skip
    if text := str(settings):
        logger.info("%s", text)
    for warning in settings.warnings:
        logger.warning("%s", warning)
    if is_timed and settings.has_length:
        logger.info("--time-budget set the length of this run when it began")
    if is_writer:
        save_metadata(cfg)
    return cfg


@contextmanager
def _interruption_reported() -> Iterator[None]:
    """Say that nothing is written yet where a signal ends the process within the block."""
    try:
        yield
    except SystemExit as stop:
        if isinstance(stop.code, int) and stop.code > 128 and comm.is_main_process():
            print("interrupted before training began; nothing was written", file=sys.stderr)
        raise


def check_report_folder(args: argparse.Namespace) -> None:
    """Make the folder of ``--report``, so that a long evaluation is not in vain.

    Raises:
        ValueError: the folder cannot be written to, or nothing is evaluated.
    """
    if not args.eval_only:
        raise ValueError("--report needs --eval-only")
    try:
        os.makedirs(args.report, exist_ok=True)
        sound = os.access(args.report, os.W_OK)
    except OSError as error:
        raise ValueError(f"--report {args.report}: {error.strerror or error}") from error
    if not sound:
        raise ValueError(f"--report {args.report}: the folder cannot be written to")


def check_datasets(cfg: CfgNode, eval_only: bool) -> None:
    """Raise `ValueError` if the config names data that is not registered."""
    for key in ("TEST",) if eval_only else ("TRAIN", "TEST"):
        for name in cfg.DATASETS[key]:
            if name.startswith(CUSTOM_PREFIX) and name not in DatasetCatalog:
                raise ValueError(
                    f"{name!r} in DATASETS was your own data in an earlier run: give its files "
                    "again, such as --val-json and --val-images"
                )
            require_registered(name, f"DATASETS.{key}")


def save_metadata(cfg: CfgNode) -> None:
    """Write the names and ids of the classes beside the checkpoints, where the demo finds them."""
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    if not names:
        return
    path = os.path.join(cfg.OUTPUT_DIR, METADATA_FILE)
    write_metadata(path, names[0])
    count = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if Classes.from_metadata(MetadataCatalog.get(names[0]), count) is None:
        logger.warning(
            "Data set %r does not name %d classes, the value of MODEL.SEM_SEG_HEAD.NUM_CLASSES",
            names[0], count,
        )  # fmt: skip
    logger.info("Class names saved to %s", path)
