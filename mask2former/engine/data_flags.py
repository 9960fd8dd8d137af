"""Command-line arguments for a user's own data, and how they change the config."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils import comm

from ..data.checks.coco_file import kind_of_json
from ..data.checks.report import ImageContent
from ..data.mapper import MAPPER_PRESETS
from ..data.metadata import saved_metadata
from ..data.own_data import OWN_DATA, OwnData, Registered, SemanticData, register_own_data
from ..data.own_folder import png_folder, recognise_folder
from ..data.split import SPLIT_FILE, Split, check_split, draw_split, read_split
from ..flags.folder import add_folder_flags, add_split
from ..structures import Classes
from ..tasks import TASKS
from .settings.run_settings import is_evaluated

SPLITS = ("train", "val")
# What the arguments of a split name: --train-json and so on
FILES = ("json", "images", "panoptic", "labels")
ChooseSplit = Callable[[Mapping[str, ImageContent]], Split | None]


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a user's own data."""
    parser.set_defaults(found=None)  # what a verb of the command has recognised in the folder
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
        help="folder of annotations and their images, with splits",
    )
    add_folder_flags(data, "that of the config")
    add_split(data)
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
    choose_split = _choose_split(cfg, args, data)
    evaluated = is_evaluated(cfg, args)
    if not evaluated and data["val"] is not None and comm.is_main_process():
        print("TEST.EVAL_PERIOD 0: the validation set is not used", flush=True)
    registered = register_own_data(
        None if args.eval_only else data["train"],
        data["val"] if evaluated else None,
        trained=trained,
        pixels=args.pixel_check,
        choose_split=choose_split,
    )
    head = cfg.MODEL.SEM_SEG_HEAD
    if args.eval_only and len(registered.classes) != head.NUM_CLASSES:
        raise ValueError(
            f"the model has {head.NUM_CLASSES} classes (MODEL.SEM_SEG_HEAD.NUM_CLASSES), but "
            f"{args.val_json or args.classes or args.data} has {len(registered.classes)}: "
            f"{', '.join(registered.classes.names)}"
        )
    if registered.split is not None and comm.is_main_process():
        print(registered.split.summary(), flush=True)
    _set_config(cfg, args, registered, evaluated)
    return registered


def _choose_split(
    cfg: CfgNode, args: argparse.Namespace, data: Mapping[str, OwnData | None]
) -> ChooseSplit | None:
    """Return what divides data that comes as one set; None if nothing does."""
    is_one = data["val"] is (data["train"] if args.eval_only else None)
    if not is_one:
        if args.split:
            raise ValueError("--split divides a single set of images, but there are two sets")
        return None
    if args.eval_only:
        beside = Path(args.config_file).parent / SPLIT_FILE
    else:
        if not is_evaluated(cfg, args) and not args.split:
            return None
        beside = Path(cfg.OUTPUT_DIR) / SPLIT_FILE

    def choose(images: Mapping[str, ImageContent]) -> Split | None:
        if args.split or beside.is_file():
            path = args.split or beside
            split = read_split(path)
            if args.eval_only and not args.split and not images.keys() & set(split.val):
                return None  # the model was trained on other data
            check_split(split, images, path)
            return split
        return None if args.eval_only else draw_split(images, max(cfg.SEED, 0))

    return choose


def _set_config(
    cfg: CfgNode, args: argparse.Namespace, registered: Registered, evaluated: bool
) -> None:
    # A user's images without objects are negative examples; in COCO they are unlabelled.
    if "DATALOADER.FILTER_EMPTY_ANNOTATIONS" not in args.opts:
        cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.DATASETS.TRAIN = (registered.train,) if registered.train else ()
    cfg.DATASETS.TEST = (registered.val,) if registered.val and evaluated else ()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = len(registered.classes)
    if registered.classes.ignore_label is not None:
        cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = registered.classes.ignore_label


def _from_folder(cfg: CfgNode, args: argparse.Namespace) -> tuple[str, dict[str, OwnData | None]]:
    """Recognise the data in the folder of ``--data``, for the task of the arguments or the config.

    Raises:
        ValueError: other arguments name data too, or the folder lacks what is needed.
    """
    others = [flag for name in FILES for flag in _given(args, name)]
    if others:
        raise ValueError(f"--data and {others[0]}: give one or the other")
    preset = MAPPER_PRESETS.get(cfg.INPUT.DATASET_MAPPER_NAME)
    found = args.found or recognise_folder(
        args.data,
        args.task or (preset.targets if preset else None),
        format=args.format,
        class_file=args.classes,
        ignore_label=args.ignore_label,
    )
    data: dict[str, OwnData | None] = {"train": found.train, "val": found.val}
    is_divided = args.split or Path(args.config_file).with_name(SPLIT_FILE).is_file()
    if args.eval_only and found.val is None and (is_divided or not found.has_splits):
        data["val"] = found.train
    missing = "val" if args.eval_only else "train"
    if data[missing] is None:
        raise ValueError(f"{args.data} has no {'validation' if args.eval_only else 'training'} set")
    if comm.is_main_process():
        print(found.summary(), flush=True)
    return found.task, data


def _from_files(args: argparse.Namespace) -> tuple[str, dict[str, OwnData | None]] | None:
    """Return the data whose files the arguments name one by one, or None if they name none."""
    task = _task(args)
    if task is None:
        return None
    _check_flags(args, task)
    is_given = {split: getattr(args, f"{split}_images") for split in SPLITS}
    return task, {s: _own_data(args, s, task) if is_given[s] else None for s in SPLITS}


def _given(args: argparse.Namespace, name: str) -> list[str]:
    """Return which of ``--train-name`` and ``--val-name`` are given."""
    return [f"--{split}-{name}" for split in SPLITS if getattr(args, f"{split}_{name}")]


def _task(args: argparse.Namespace) -> str | None:
    """Return the task of the data, from the arguments and the JSON, or None without arguments."""
    flags = {name: _given(args, name) for name in FILES}
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
    splits = ["val"] if args.eval_only else ["train"]
    if any(getattr(args, f"val_{name}") for name in TASKS[task].flags) and not args.eval_only:
        splits.append("val")
    for split in splits:
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
    known: Iterator[Classes | None] = (
        Classes.from_metadata(metadata, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
        for _, metadata in saved_metadata(cfg, args.config_file)
    )
    if args.exported is not None:
        known = iter([args.exported.metadata.classes])
    classes = next(filter(None, known), None)
    if classes is not None and task == "semantic":  # label maps hold the indices of classes
        classes = replace(classes, ids=range(len(classes)))
    return classes


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
