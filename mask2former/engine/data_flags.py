"""Command-line arguments for a user's own data, and how they change the config."""

from __future__ import annotations

import argparse
from dataclasses import replace

from detectron2.config import CfgNode
from detectron2.utils import comm

from ..data.checks.coco_file import kind_of_json
from ..data.mapper import MAPPER_PRESETS
from ..data.metadata import saved_metadata
from ..data.own_data import OWN_DATA, OwnData, Registered, SemanticData, register_own_data
from ..data.own_folder import png_folder, recognise_folder
from ..structures import Classes
from ..tasks import TASKS

SPLITS = ("train", "val")


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a user's own data."""
    data = parser.add_argument_group(
        "your own data",
        "Replaces DATASETS.TRAIN and DATASETS.TEST; checked before training.\n"
        "instance: --*-json, --*-images; panoptic: --*-json, --*-images, --*-panoptic;\n"
        "semantic: --*-images, --*-labels, --classes.\n"
        "--data FOLDER finds all of these by their usual names",
    )
    data.add_argument(
        "--data",
        metavar="FOLDER",
        help="folder of COCO JSON, COCO panoptic JSON or label maps and their images, with splits",
    )
    data.add_argument(
        "--task",
        choices=TASKS,
        help="task whose annotations in FOLDER to use (default: that of the config)",
    )
    for split in SPLITS:
        for name, metavar, text in (
            ("json", "FILE", "COCO instance or panoptic annotations"),
            ("images", "DIR", "images"),
            ("panoptic", "DIR", "PNG files of COCO panoptic annotations"),
            (
                "labels",
                "DIR",
                "label maps named like their images: PNG or TIFF whose pixels are class numbers",
            ),
        ):
            data.add_argument(f"--{split}-{name}", metavar=metavar, help=f"{split}: {text}")
    data.add_argument(
        "--classes", metavar="FILE", help="class names of label maps, one per line or a JSON list"
    )
    data.add_argument(
        "--ignore-label",
        type=int,
        metavar="N",
        help="label of pixels without a class in label maps (default: 255, or 65535 in 16 bits)",
    )
    pixels = data.add_mutually_exclusive_group()
    pixels.add_argument(
        "--skip-pixel-check",
        action="store_false",
        dest="pixel_check",
        default=None,
        help="before training, read only the headers of images, label maps and panoptic PNG files",
    )
    pixels.add_argument(
        "--full-pixel-check",
        action="store_true",
        dest="pixel_check",
        default=None,
        help="before training, decode every image however long it takes (default: decode images if "
        "this takes less than about half a minute)",
    )


def register_run_datasets(cfg: CfgNode, args: argparse.Namespace) -> Registered | None:
    """Point `cfg` at the data sets of the command line; return them if it names any.

    Raises:
        ValueError: arguments are missing or contradict each other or the config.
        DatasetError: the data has errors; the message lists all of them.
    """
    found = _from_folder(cfg, args) if args.data else _from_files(args)
    if found is None:
        return None
    task, data = found
    check_task(cfg, task, args.eval_only)
    trained = _trained(cfg, args, task) if args.eval_only else None
    first = data["val" if args.eval_only else "train"]
    if isinstance(first, SemanticData) and first.class_file is None and trained is None:
        reason = ": no metadata.json beside config and weights names them" if args.eval_only else ""
        raise ValueError(f"label maps need --classes FILE, the names of the classes{reason}")
    registered = register_own_data(
        None if args.eval_only else data["train"],
        data["val"],
        trained=trained,
        pixels=args.pixel_check,
    )
    head = cfg.MODEL.SEM_SEG_HEAD
    if args.eval_only and len(registered.classes) != head.NUM_CLASSES:
        raise ValueError(
            f"the model has {head.NUM_CLASSES} classes (MODEL.SEM_SEG_HEAD.NUM_CLASSES), but "
            f"{args.val_json or args.classes or args.data} has {len(registered.classes)}: "
            f"{', '.join(registered.classes.names)}"
        )
    _set_config(cfg, args, registered)
    return registered


def _set_config(cfg: CfgNode, args: argparse.Namespace, registered: Registered) -> None:
    # A user's images without objects are negative examples; in COCO they are unlabelled.
    if "DATALOADER.FILTER_EMPTY_ANNOTATIONS" not in args.opts:
        cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.DATASETS.TRAIN = (registered.train,) if registered.train else ()
    cfg.DATASETS.TEST = (registered.val,) if registered.val else ()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = len(registered.classes)
    if registered.classes.ignore_label is not None:
        cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = registered.classes.ignore_label


def _from_folder(cfg: CfgNode, args: argparse.Namespace) -> tuple[str, dict[str, OwnData | None]]:
    """Recognise the data in the folder of ``--data``, for the task of the arguments or the config.

    Raises:
        ValueError: other arguments name data too, or the folder lacks what is needed.
    """
    names = ("json", "images", "panoptic", "labels")
    others = [flag for name in names for flag in _given(args, name)]
    if others:
        raise ValueError(f"--data and {others[0]}: give one or the other")
    preset = MAPPER_PRESETS.get(cfg.INPUT.DATASET_MAPPER_NAME)
    found = recognise_folder(
        args.data,
        args.task or (preset.targets if preset else None),
        class_file=args.classes,
        ignore_label=args.ignore_label,
    )
    lines = [found.summary()]
    data: dict[str, OwnData | None] = {"train": found.train, "val": found.val}
    if args.eval_only and not found.has_splits:
        data["val"] = found.train
    missing = "val" if args.eval_only else "train"
    if data[missing] is None:
        raise ValueError(f"{args.data} has no {'validation' if args.eval_only else 'training'} set")
    if data["val"] is None:
        lines.append("  no validation set: the model is not evaluated")
    if comm.is_main_process():
        print("\n".join(lines), flush=True)
    return found.task, data


def _from_files(args: argparse.Namespace) -> tuple[str, dict[str, OwnData | None]] | None:
    """Return the data whose files the arguments name one by one, or None if they name none."""
    task = _task(args)
    if task is None:
        return None
    _check_flags(args, task)
    return task, {split: _own_data(args, split, task) for split in SPLITS}


def _given(args: argparse.Namespace, name: str) -> list[str]:
    """Return which of ``--train-name`` and ``--val-name`` are given."""
    return [f"--{split}-{name}" for split in SPLITS if getattr(args, f"{split}_{name}")]


def _task(args: argparse.Namespace) -> str | None:
    """Return the task of the data, from the arguments and the JSON, or None without arguments."""
    flags = {name: _given(args, name) for name in ("json", "images", "panoptic", "labels")}
    semantic = flags["labels"] + ["--classes"] * (args.classes is not None)
    if args.ignore_label is not None:
        semantic.append("--ignore-label")
    others = flags["json"] + flags["panoptic"]
    if semantic and others:
        raise ValueError(
            f"{semantic[0]} is for label maps and {others[0]} for COCO JSON: give one of them"
        )
    if semantic:
        return "semantic"
    if flags["panoptic"]:
        return "panoptic"
    if flags["json"]:
        files = [getattr(args, f"{split}_json") for split in SPLITS]
        kinds = [kind_of_json(file) for file in files if file]
        return "panoptic" if "panoptic" in kinds else "instance"
    if flags["images"]:
        raise ValueError(
            f"{flags['images'][0]} needs annotations too: COCO JSON (--train-json FILE) or a "
            "folder of label maps (--train-labels DIR)"
        )
    return None


def _check_flags(args: argparse.Namespace, task: str) -> None:
    """Raise `ValueError` unless all arguments of the task are given."""
    missing, hints = [], []
    for split in ("val",) if args.eval_only else SPLITS:
        for name in TASKS[task].flags:
            if getattr(args, f"{split}_{name}"):
                continue
            missing.append(f"--{split}-{name}")
            folder = png_folder(getattr(args, f"{split}_json"))
            if name == "panoptic" and folder:
                hints.append(f"{missing[-1]} {folder}")
    if missing:
        hint = f" (perhaps {' '.join(hints)})" if hints else ""
        raise ValueError(
            f"your own data, {TASKS[task].files}, needs {' and '.join(missing)} too{hint}"
        )


def _own_data(args: argparse.Namespace, split: str, task: str) -> OwnData:
    files = [getattr(args, f"{split}_{name}") for name in TASKS[task].flags]
    if task == "semantic":
        files += [args.classes, args.ignore_label]
    return OWN_DATA[task](*files)


def _trained(cfg: CfgNode, args: argparse.Namespace, task: str) -> Classes | None:
    """Return the classes of the evaluated model, if its run saved them."""
    for _, metadata in saved_metadata(cfg, args.config_file):
        classes = Classes.from_metadata(metadata, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
        if classes is not None:  # label maps hold the indices of classes
            return replace(classes, ids=range(len(classes))) if task == "semantic" else classes
    return None


def check_task(cfg: CfgNode, task: str, eval_only: bool) -> None:
    """Raise `ValueError` unless the config suits data for `task`; the message names one that does.

    Args:
        cfg: the config.
        task: the task of the data.
        eval_only: whether the data only evaluates a trained model.
    """
    reasons, remedy = [], []
    preset = MAPPER_PRESETS.get(cfg.INPUT.DATASET_MAPPER_NAME)
    if preset is not None and preset.targets != task and not eval_only:
        reasons.append(
            f"INPUT.DATASET_MAPPER_NAME is {cfg.INPUT.DATASET_MAPPER_NAME!r}, which takes "
            f"{TASKS[preset.targets].files}"
        )
        remedy.append(f"INPUT.DATASET_MAPPER_NAME {TASKS[task].mapper}")
    if cfg.MODEL.META_ARCHITECTURE == "MaskFormer":
        test = cfg.MODEL.MASK_FORMER.TEST
        # Panoptic data can evaluate a model of each task.
        wanted = {} if task == "panoptic" and eval_only else {TASKS[task].switch: True}
        if task == "semantic":  # label maps do not separate things
            wanted[TASKS["panoptic"].switch] = False
        for key, value in wanted.items():
            if test[key] != value:
                reasons.append(f"MODEL.MASK_FORMER.TEST.{key} is {test[key]}")
                remedy.append(f"MODEL.MASK_FORMER.TEST.{key} {value}")
    if reasons:
        raise ValueError(
            f"the data are for {task} segmentation ({TASKS[task].files}), but the config is not: "
            f"{'; '.join(reasons)}. Use one that is, such as configs/{TASKS[task].config}.yaml or "
            f"configs/quickstart/{task}.yaml, or add: {' '.join(remedy)}"
        )
