"""Draw training images as the model sees them: augmented, with their targets.

python -m mask2former.cli.visualize_data \\
    --config-file configs/quickstart/panoptic.yaml --output pictures/
python -m mask2former.cli.visualize_data \\
    --config-file config.yaml --num 20 --raw INPUT.MIN_SCALE 0.5

The command also takes the data arguments of train_net.py; those of a validation set alone will do.
The pictures show the first samples of a run with this config, in the same order: the same images
and the same crops. With --raw they show the same images without augmentation. Pixels that belong to
no target are hatched, except for instances, where they are background. Crowds, which training
ignores, are striped in the colour of their class. Padding is dark.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from mask2former_runtime.commands import run_reporting_errors
from mask2former_runtime.files import write_atomically
from mask2former_runtime.image import IMAGE_FORMATS
from mask2former_runtime.stored import STORED_TYPES

from .. import load_config
from ..data.mapper import get_preset
from ..engine.data_flags import FILES, add_data_flags, register_run_datasets
from ..engine.settings.run_settings import set_up_run
from ..engine.start import run_arguments
from ..flags.trust import add_trust_flags
from ..report.training_samples import classes_of, draw, samples, summary
from ..utils.progress import ResultLines


def argument_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="YAML config")
    parser.add_argument(
        "--output", metavar="DIR", help="folder for the pictures (default: data in OUTPUT_DIR)"
    )
    parser.add_argument(
        "--num", type=int, default=16, metavar="N", help="pictures to draw (default: %(default)s)"
    )
    parser.add_argument("--raw", action="store_true", help="without augmentation")
    add_trust_flags(parser, ["config"])
    add_data_flags(parser)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys to change")
    parser.set_defaults(**vars(run_arguments()))
    return parser


def run(args: argparse.Namespace) -> int:
    """Draw the pictures and say where they are; return 0.

    Raises:
        ValueError: the config or the data is not usable; the message says why.
    """
    if args.num < 1:
        raise ValueError(f"--num {args.num}: at least one picture is needed")
    cfg = load_config(args.config_file, args.opts, allow_unsafe=args.allow_unsafe_config)
    if not any(getattr(args, f"train_{name}") for name in FILES):
        for name in FILES:  # the samples are of the only data there is
            setattr(args, f"train_{name}", getattr(args, f"val_{name}"))
            setattr(args, f"val_{name}", None)
    set_up_run(cfg, args, register_run_datasets(cfg, args))
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: name a registered data set")
    if cfg.INPUT.FORMAT not in (*IMAGE_FORMATS, *STORED_TYPES):
        raise ValueError(f"INPUT.FORMAT must be RGB or BGR to be drawn, got {cfg.INPUT.FORMAT!r}")
    targets, classes = get_preset(cfg).targets, classes_of(cfg)
    folder = Path(args.output or os.path.join(cfg.OUTPUT_DIR, "data"))
    found = itertools.islice(samples(cfg, raw=args.raw), args.num)
    with closing(ResultLines(args.num, "pictures")) as lines:
        for number, sample in enumerate(found, start=1):
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{number:05d}_{Path(sample['file_name']).stem}.jpg"
            picture = draw(sample, targets, classes, cfg.INPUT.FORMAT)
            write_atomically(folder / name, partial(picture.save, format="JPEG", quality=92))
            lines.add(f"{name}  {summary(sample, targets, classes)}")
    print(f"Pictures: {folder}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argument_parser()
    return run_reporting_errors(parser.prog, run, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
