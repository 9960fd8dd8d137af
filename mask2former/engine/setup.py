"""From command-line arguments to a checked config and its data sets."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..config import load_config
from ..data import register_custom_datasets
from ..data.metadata import METADATA_FILE, class_names, read_metadata, write_metadata

EPILOG = """
examples:
  train on your own COCO-format data, on a machine without a GPU:
    train_net.py --config-file configs/quickstart/instance.yaml \\
      --train-json train.json --train-images train/ --val-json val.json --val-images val/
  continue after an interruption (the same command and):
    ... --resume
  evaluate:
    train_net.py --config-file output/config.yaml --eval-only \\
      --val-json val.json --val-images val/ MODEL.WEIGHTS output/model_final.pth
"""


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's training arguments, and those for one's own data."""
    parser = default_argument_parser(epilog=EPILOG)
    parser.description = "Train or evaluate Mask2Former."
    data = parser.add_argument_group(
        "your own data", "COCO instance JSON; replaces DATASETS.TRAIN and DATASETS.TEST"
    )
    for split in ("train", "val"):
        data.add_argument(f"--{split}-json", metavar="FILE", help=f"{split} annotations")
        data.add_argument(f"--{split}-images", metavar="DIR", help=f"{split} images")
    add_trust_flags(parser)
    return parser


def add_trust_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that let files run code."""
    parser.add_argument(
        "--allow-unsafe-config",
        action="store_true",
        help="let YAML tags in the config file run Python code; only for files that you trust",
    )
    parser.add_argument(
        "--allow-unsafe-weights",
        action="store_true",
        help="let a pickle of weights run Python code; only for files that you trust",
    )


def setup(args: argparse.Namespace) -> CfgNode:
    """Load and check the config, register the data sets, set up logging and the output folder.

    Raises:
        ValueError: if the config, the device or the data do not fit; the message says how.
    """
    if not args.config_file:
        raise ValueError("no config: give --config-file, such as configs/quickstart/instance.yaml")
    cfg = load_config(args.config_file, args.opts, allow_unsafe=args.allow_unsafe_config)
    check_device(cfg)
    register_run_datasets(cfg, args)
    cfg.freeze()
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="mask2former")
    if comm.is_main_process() and not args.eval_only:
        save_metadata(cfg)
    return cfg


def check_device(cfg: CfgNode) -> None:
    """Fail early, with what to do, if ``MODEL.DEVICE`` is not there."""
    device = torch.device(cfg.MODEL.DEVICE)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"MODEL.DEVICE is '{cfg.MODEL.DEVICE}', but PyTorch finds no CUDA device here. "
            "To run on the CPU, add: MODEL.DEVICE cpu"
        )


def register_run_datasets(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Point ``cfg`` at the data sets of the command line, if it names any."""
    given = {
        f"--{split}-{kind}": getattr(args, f"{split}_{kind}")
        for split in ("train", "val")
        for kind in ("json", "images")
    }
    if not any(given.values()):
        return
    needed = [flag for flag in given if not (args.eval_only and flag.startswith("--train"))]
    missing = [flag for flag in needed if not given[flag]]
    if missing:
        raise ValueError(f"your own data needs {' and '.join(missing)} too")
    train, val, classes = register_custom_datasets(
        None if args.eval_only else (args.train_json, args.train_images),
        (args.val_json, args.val_images),
        saved_categories(Path(args.config_file).parent) if args.eval_only else None,
    )
    head = cfg.MODEL.SEM_SEG_HEAD
    if args.eval_only and len(classes) != head.NUM_CLASSES:
        raise ValueError(
            f"the model has {head.NUM_CLASSES} classes (MODEL.SEM_SEG_HEAD.NUM_CLASSES), but "
            f"{args.val_json} has {len(classes)}: {', '.join(classes)}"
        )
    # In a set of one's own, images without objects are negatives; in COCO they are unlabelled.
    if "DATALOADER.FILTER_EMPTY_ANNOTATIONS" not in args.opts:
        cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.DATASETS.TRAIN = (train,) if train else ()
    cfg.DATASETS.TEST = (val,)
    head.NUM_CLASSES = len(classes)


def saved_categories(run_folder: Path) -> dict[int, str] | None:
    """Category ids and names of the run whose ``config.yaml`` lies in ``run_folder``, if any."""
    path = run_folder / METADATA_FILE
    if not path.exists():
        return None
    metadata = read_metadata(path)
    names, ids = metadata["thing_classes"], metadata["thing_dataset_id_to_contiguous_id"]
    return {i: names[contiguous] for i, contiguous in ids.items()}


def save_metadata(cfg: CfgNode) -> None:
    """Write the classes' names and ids beside the checkpoints, for the demo to find."""
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    if not names:
        return
    path = os.path.join(cfg.OUTPUT_DIR, METADATA_FILE)
    write_metadata(path, names[0])
    logger = logging.getLogger(__name__)
    if class_names(MetadataCatalog.get(names[0]), cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES) is None:
        logger.warning(
            "Data set %r does not name %d classes, as many as MODEL.SEM_SEG_HEAD.NUM_CLASSES is",
            names[0], cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        )  # fmt: skip
    logger.info("Class names saved to %s", path)
