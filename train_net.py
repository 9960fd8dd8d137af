#!/usr/bin/env python
"""Train or evaluate Mask2Former; ``train_net.py --help`` lists the arguments."""

from __future__ import annotations

import argparse
import sys

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import launch

from mask2former.engine import Trainer, argument_parser, setup


def main(args: argparse.Namespace) -> dict | None:
    """Run one process."""
    try:
        cfg = setup(args)
    except ValueError as error:  # what the user can mend; the message says how
        sys.exit(f"error: {error}")
    if args.eval_only:
        model = Trainer.build_model(cfg)
        DetectionCheckpointer(model, save_dir=cfg.OUTPUT_DIR).resume_or_load(
            cfg.MODEL.WEIGHTS, resume=args.resume
        )
        return Trainer.test(cfg, model)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    args = argument_parser().parse_args()
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
