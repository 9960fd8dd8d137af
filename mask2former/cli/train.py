"""Train a model on a folder of your own data.

The annotations determine the task, and the machine the model: Mask2Former with a ResNet-50 on a
GPU with at least 12 GB of memory, and a small one on other machines. Length, sizes, batch and
learning rate follow from the data; the command prints each with its reason, and --opts sets it to
another value. The data is checked first. An interrupted run continues with --resume.

Examples:
  mask2former train --data my_data
  mask2former train --data my_data --output output/mine --epochs 50
  mask2former train --data my_data --output output/mine --resume
  mask2former train --data my_data --num-gpus 4 \\
      --model coco/instance-segmentation/swin/maskformer2_swin_tiny_bs16_50ep
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..flags.folder import add_split
from ..flags.length import add_length_flags
from ..tasks import TaskName
from .flags import add_config_flags, add_data, recognised_data, run_of

if TYPE_CHECKING:
    from ..engine.processes import Mistake

MODEL_CHOICE_HELP = (
    "a name of `mask2former zoo` or a YAML file (default: by the task and the machine)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the data, the model and the length of the run."""
    add_data(parser)
    add_split(parser)
    parser.add_argument("--model", metavar="NAME", help=MODEL_CHOICE_HELP)
    parser.add_argument("--output", metavar="DIR", help="of the run (default: output/NAME of data)")
    add_length_flags(parser)
    parser.add_argument("--resume", action="store_true", help="continue the run in DIR")
    parser.add_argument(
        "--num-gpus", type=int, default=1, metavar="N", help="processes (default: %(default)s)"
    )
    add_config_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Choose a model for the data, say so, and train it as `train_net.py` does."""
    import torch

    from mask2former_runtime.text import one_line

    from ..config import load_config

    found = recognised_data(args)
    output = args.output or str(Path("output", Path(args.data).resolve().name))
    before = Path(output, "config.yaml")
    if args.resume and args.model is None and before.is_file():
        config_file, why = str(before), ""  # the machine may have changed, but not the model
    else:
        config_file, why = choose_config(args.model, args.task)
    changes = ["OUTPUT_DIR", output]
    changes += ["MODEL.DEVICE", "cuda" if torch.cuda.is_available() else "cpu", *args.opts]
    cfg = load_config(config_file, changes, args.allow_unsafe_config)
    print(
        f"Model: {one_line(config_file)}, on {cfg.MODEL.DEVICE}{why}\n"
        f"Run: {one_line(cfg.OUTPUT_DIR)}",
        flush=True,
    )
    launch_run(run_of(args, config_file, changes, found=found))
    print(f"Done. Try it: mask2former predict {shlex.quote(cfg.OUTPUT_DIR)} photo.jpg")
    return 0


def choose_config(model: str | None, task: TaskName) -> tuple[str, str]:
    """Return the config of the user's choice, or of the machine's and why it is the one."""
    from .. import model_zoo
    from ..engine.settings.default_model import default_model

    if model is not None:
        return model if Path(model).is_file() else model_zoo.get_config_file(model), ""
    name, why = default_model(task)
    return model_zoo.get_config_file(name), f" ({why})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line of `train_net.py`."""
    from ..engine import argument_parser

    launch_run(argument_parser().parse_args(arguments))


def launch_run(args: argparse.Namespace) -> None:
    """Train or evaluate with the arguments of `train_net.py`, in their processes."""
    from ..engine import launch
    from ..utils.resources import process_age

    args.started = time.monotonic() - process_age()
    try:
        launch(
            train,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except SystemExit as stop:
        if args.verb is None or not isinstance(stop.code, str):
            raise
        print(f"{args.verb}: {stop.code}", file=sys.stderr)
        sys.exit(getattr(stop, "status", 1))


def train(args: argparse.Namespace) -> dict | None:
    """Train or evaluate in one process."""
    from mask2former_runtime.errors import ExportError

    from ..data.errors import DatasetError
    from ..engine import LostFolderError, stop_on_signals

    try:
        with stop_on_signals():
            return _train(args)
    except LostFolderError as error:
        raise _mistake(str(error)) from None
    except OSError as error:  # a full disk or a folder that cannot be written to
        raise _mistake(
            f"{error}. Checkpoints written before are whole: continue with --resume"
        ) from None
    except DatasetError as error:  # an image that cannot be used
        raise _mistake(error.reason) from None
    except ExportError as error:  # an exported file that is evaluated cannot take an image
        raise _mistake(str(error)) from None
    except FloatingPointError as error:  # the losses or predictions became NaN or infinite
        if args.eval_only:
            raise _mistake(str(error), 2) from None
        raise _mistake(f"{error}. Checkpoints written before are kept") from None


def _train(args: argparse.Namespace) -> dict | None:
    """Train or evaluate; mistakes that the user can fix end the process with one line."""
    import torch

    from ..data.errors import DatasetError
    from ..engine.start import prepare
    from ..utils.memory import reuse_freed_memory

    if not torch.cuda.is_available():
        reuse_freed_memory()
    try:
        run = prepare(args)
    except (ValueError, ImportError) as error:  # the message says how to fix them
        raise _mistake(str(error), 1 if isinstance(error, DatasetError) else 2) from None
    except OSError as error:  # nothing was trained yet
        raise _mistake(str(error)) from None
    return run()


def _mistake(message: str, status: int = 1) -> Mistake:
    """Return what ends the process with one line; verbs have the exit status of `mask2former`."""
    from ..engine.processes import Mistake

    return Mistake(f"error: {message}", status)
