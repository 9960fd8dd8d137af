"""Train or evaluate a model: ``python train_net.py --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..checkpoint import Checkpointer
from ..data import DatasetError
from ..engine import Trainer, argument_parser, launch, setup, stop_on_signals


def main(arguments: Sequence[str] | None = None) -> None:
    """Train or evaluate in as many processes as the arguments say."""
    args = argument_parser().parse_args(arguments)
    launch(
        train,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )


def train(args: argparse.Namespace) -> dict | None:
    """Train or evaluate in one process."""
    try:
        with stop_on_signals():
            return _train(args)
    except OSError as error:  # a full disk or a folder that cannot be written to
        sys.exit(f"error: {error}. Checkpoints written before are whole: continue with --resume")
    except DatasetError as error:  # an image that cannot be used
        sys.exit(f"error: {error.reason}")
    except FloatingPointError as error:  # the losses became NaN or infinite
        sys.exit(f"error: {error}. Checkpoints written before are kept")


def _train(args: argparse.Namespace) -> dict | None:
    """Train or evaluate; mistakes that the user can fix end the process with one line."""
    try:
        cfg = setup(args)
        if args.eval_only:
            model = Trainer.build_model(cfg)
            checkpointer = Checkpointer(model, cfg.OUTPUT_DIR)
            checkpointer.allow_unsafe = args.allow_unsafe_weights
            checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        else:
            trainer = Trainer(cfg)
            trainer.checkpointer.allow_unsafe = args.allow_unsafe_weights
            trainer.resume_or_load(resume=args.resume)
    except (ValueError, ImportError) as error:  # the message says how to fix them
        sys.exit(f"error: {error}")
    return Trainer.test(cfg, model) if args.eval_only else trainer.train()


if __name__ == "__main__":
    main()
