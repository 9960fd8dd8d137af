"""Convert a model to or from Hugging Face's format, or an ImageNet backbone.

- A folder as TARGET gets the form that `transformers` loads with
  Mask2FormerForUniversalSegmentation.from_pretrained(TARGET).
- A file as TARGET (.pth, .pkl or .safetensors) becomes a Detectron2 checkpoint, with its config and
  the names of its classes beside it. Training and prediction do not need it: they take a Hugging
  Face folder as it is.

Examples:
  mask2former convert output/mine my_hf_model/
  mask2former convert mask2former-swin-base-coco-instance/ swin.pth
  mask2former convert torchvision://resnet50 R-50.pkl
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..flags.folder import add_task
from ..flags.trust import add_trust_flags

FILE_SUFFIXES = (".pkl", ".pth", ".safetensors")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the source, the target and what the source does not say."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="folder of a run, weights with their config beside them, Hugging Face folder or Hub "
        "id; for a backbone, a file, URL, or torchvision://, swin:// or timm:// and a name",
    )
    parser.add_argument("target", type=Path, metavar="TARGET", help="new folder or file")
    add_task(parser, "default: what the Hugging Face folder says")
    parser.add_argument("--config-file", metavar="FILE", help="of weights without a config beside")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    add_trust_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Convert, as the kinds of source and target say."""
    if args.target.suffix.lower() not in FILE_SUFFIXES:
        print(_to_hugging_face(args))
    elif _is_backbone(args.source):
        print(_backbone(args))
    else:
        print(_from_hugging_face(args))
    return 0


def _is_backbone(source: str) -> bool:
    """Tell by its address or its neighbours whether a source is no whole model."""
    from ..checkpoint.files import HF_WEIGHT_FILES
    from ..checkpoint.huggingface.config import CONFIG_FILE
    from ..inference.model_sources import HUB

    if "://" in source:
        return not source.startswith(HUB)
    path = Path(source)
    of_hf = path.name in HF_WEIGHT_FILES and path.with_name(CONFIG_FILE).is_file()
    return path.is_file() and not of_hf


def _to_hugging_face(args: argparse.Namespace) -> str:
    from ..inference.model_sources import find_model
    from .convert_checkpoint import to_hf

    if args.task is not None:
        raise ValueError("--task is for a Hugging Face source: the config here says what it does")
    found = find_model(args.source, config_file=args.config_file)
    found.refuse_exported("converted")
    if Path(found.config_file).is_dir():
        raise ValueError(
            f"{args.source} has Hugging Face's format already; for a Detectron2 checkpoint, name a "
            f"file as TARGET, such as {args.target}.pth"
        )
    weights = dict(zip(found.overrides[::2], found.overrides[1::2], strict=True))["MODEL.WEIGHTS"]
    return to_hf(
        str(weights),
        args.target,
        config_file=found.config_file,
        overwrite=args.overwrite,
        allow_unsafe_config=args.allow_unsafe_config,
        allow_unsafe=args.allow_unsafe_weights,
    )


def _from_hugging_face(args: argparse.Namespace) -> str:
    from ..inference.model_sources import find_model
    from .convert_checkpoint import from_hf

    found = find_model(args.source, config_file=args.config_file)
    found.refuse_exported("converted")
    if not Path(found.config_file).is_dir():
        raise ValueError(
            f"{args.source} is a Detectron2 checkpoint already; for Hugging Face's format, name a "
            "folder as TARGET"
        )
    return from_hf(
        Path(found.config_file),
        args.target,
        task=args.task,
        overwrite=args.overwrite,
        allow_unsafe=args.allow_unsafe_weights,
    )


def _backbone(args: argparse.Namespace) -> str:
    from .convert_backbone import write_backbone

    if args.task is not None or args.config_file is not None:
        raise ValueError(
            f"--task and --config-file are for whole models; {args.source} becomes a backbone, as "
            f"{args.target} is a file"
        )
    return write_backbone(
        args.source,
        args.target,
        overwrite=args.overwrite,
        allow_unsafe=args.allow_unsafe_weights,
    )
