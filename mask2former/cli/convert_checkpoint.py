"""Convert Mask2Former models between Hugging Face folders and Detectron2 checkpoints.

python -m mask2former.cli.convert_checkpoint \\
    --from hf mask2former-swin-base-coco-instance/ --to d2 swin.pth
python -m mask2former.cli.convert_checkpoint \\
    --from d2 output/model_final.pth --to hf output/hf/

The first command writes swin.pth (or .pkl, .safetensors), swin.yaml and metadata.json, which names
the classes. Training and the demo do not need it: they take a Hugging Face folder as --config-file.

The second command also reads the config and metadata.json beside the weights. It writes a folder
for transformers' Mask2FormerForUniversalSegmentation.from_pretrained("output/hf/").
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from torch import Tensor

from mask2former_runtime.commands import run_reporting_errors
from mask2former_runtime.files import moved_at_the_end, write_atomically

from .. import add_maskformer2_config, load_config
from ..checkpoint import (
    WeightsError,
    local_weights,
    read_checkpoint,
    to_model_names,
    write_checkpoint,
)
from ..checkpoint.huggingface import merge_hf_config, task_of_cfg
from ..checkpoint.huggingface.save import FILES, refuse_existing, save_hf_folder
from ..checkpoint.matching import compare, report
from ..data.metadata import METADATA_FILE, find_classes, find_thresholds, write_metadata
from ..flags.folder import add_task
from ..flags.trust import add_trust_flags
from ..inference.run_folder import config_beside
from ..structures import Classes

FORMS = ("hf", "d2")
EMPTY_WEIGHT = "criterion.empty_weight"


def argument_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for flag, name, text in (
        ("--from", "source", "what to convert: 'hf' and a folder, or 'd2' and a file"),
        ("--to", "target", "what to write: the other form, and a new file or folder"),
    ):
        parser.add_argument(
            flag, dest=name, nargs=2, required=True, metavar=("{hf,d2}", "PATH"), help=text
        )
    add_task(parser, "default: what the Hugging Face folder says")
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        help="config of a Detectron2 checkpoint (default, beside it: the YAML file of its name, or "
        "config.yaml)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    add_trust_flags(parser)
    return parser


def from_hf(
    folder: Path, file: Path, *, task: str | None, overwrite: bool, allow_unsafe: bool
) -> str:
    """Write a Detectron2 checkpoint, its config and the names of its classes.

    Returns:
        A summary for the user.

    Raises:
        WeightsError: the folder does not hold a Mask2Former of a known kind, or a file exists.
    """
    config_file, metadata_file = file.with_suffix(".yaml"), file.with_name(METADATA_FILE)
    refuse_existing([file, config_file, metadata_file], overwrite)
    cfg = get_cfg()
    add_maskformer2_config(cfg)
    merge_hf_config(cfg, folder, task)
    state = to_model_names(read_checkpoint(folder, allow_unsafe)["model"])
    _complete(state, cfg)
    _check_fit(state, cfg, folder)
    data_set = cfg.DATASETS.TEST[0]
    cfg.MODEL.WEIGHTS = str(file.resolve())
    with moved_at_the_end(file.parent) as new:
        write_checkpoint({"model": state}, new / file.name)
        text = cfg.dump().encode()
        write_atomically(new / config_file.name, lambda config: config.write(text))
        write_metadata(new / METADATA_FILE, data_set)
    classes = Classes.from_metadata(MetadataCatalog.get(data_set))
    summary = _summary(state, cfg, classes.names if classes else ())
    return f"{file}: {summary}\n{config_file}: its config\n{metadata_file}: its classes"


def to_hf(
    file: str,
    folder: Path,
    *,
    config_file: str | None,
    overwrite: bool,
    allow_unsafe_config: bool,
    allow_unsafe: bool,
) -> str:
    """Write a Hugging Face folder.

    Returns:
        A summary for the user.

    Raises:
        ValueError: the config, the weights and the names of the classes do not fit one another,
            Hugging Face's Mask2Former cannot be such a model, or a file exists.
    """
    refuse_existing([folder / name for name in FILES], overwrite)
    weights = Path(local_weights(file))
    config_path = Path(config_file) if config_file else config_beside(weights)
    cfg = load_config(str(config_path), allow_unsafe=allow_unsafe_config)
    state = to_model_names(read_checkpoint(weights, allow_unsafe)["model"])
    _complete(state, cfg)
    _check_fit(state, cfg, weights)
    cfg.MODEL.WEIGHTS = str(weights)
    classes = find_classes(cfg, str(config_path), required=True)
    assert classes is not None
    thresholds = find_thresholds(cfg, str(config_path))
    theirs = save_hf_folder(folder, state, cfg, classes, thresholds=thresholds, overwrite=overwrite)
    return f"{folder}: {_summary(theirs, cfg, classes.names)}"


def _complete(state: dict[str, Tensor], cfg: CfgNode) -> None:
    """Add the weights of the classes in the loss, which follow from the config."""
    weights = torch.ones(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES + 1)
    weights[-1] = cfg.MODEL.MASK_FORMER.NO_OBJECT_WEIGHT
    state.setdefault(EMPTY_WEIGHT, weights)


def _check_fit(state: dict[str, Tensor], cfg: CfgNode, source: Path) -> None:
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "meta"  # only names and shapes matter
    test = cfg.MODEL.MASK_FORMER.TEST
    test.PANOPTIC_ON, test.SEMANTIC_ON = False, True  # panoptic needs the things
    with torch.device("meta"):
        model = build_model(cfg).state_dict()
    fit = compare(state, model)
    if not fit:
        raise WeightsError(report(fit, str(source), state, model))


def _summary(state: dict[str, Tensor], cfg: CfgNode, names: Sequence[str]) -> str:
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return (
        f"{len(state)} tensors of a model for {task_of_cfg(cfg)} segmentation of {len(names)} "
        f"classes ({shown})"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argument_parser()
    args = parser.parse_args(arguments)
    source_form, target_form = args.source[0], args.target[0]
    if {source_form, target_form} != set(FORMS):
        parser.error("convert --from hf DIR --to d2 FILE, or --from d2 FILE --to hf DIR")
    if args.task and source_form == "d2":
        parser.error("--task goes with --from hf: a Detectron2 checkpoint has its config")
    if args.config_file and source_form == "hf":
        parser.error("--config-file goes with --from d2: a Hugging Face folder has its own config")
    return run_reporting_errors(parser.prog, run, args)


def run(args: argparse.Namespace) -> int:
    """Convert, and print a summary; return 0."""
    (form, source), (_, target) = args.source, args.target
    if form == "hf":
        summary = from_hf(
            Path(source),
            Path(target),
            task=args.task,
            overwrite=args.overwrite,
            allow_unsafe=args.allow_unsafe_weights,
        )
    else:
        summary = to_hf(
            source,
            Path(target),
            config_file=args.config_file,
            overwrite=args.overwrite,
            allow_unsafe_config=args.allow_unsafe_config,
            allow_unsafe=args.allow_unsafe_weights,
        )
    print(summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
