"""Command line of the preparations: ``python -m mask2former.data.preparation``."""

from __future__ import annotations

import argparse
import os
import sys

from ..errors import DatasetError
from .ade20k import Ade20kInstance, Ade20kPanoptic, Ade20kSemantic
from .coco import CocoSemantic
from .job import run

PREPARATIONS = {
    "ade20k-semantic": (Ade20kSemantic, "ADEChallengeData2016/annotations_detectron2/"),
    "ade20k-instance": (Ade20kInstance, "ADEChallengeData2016/ade20k_instance_*.json"),
    "ade20k-panoptic": (Ade20kPanoptic, "ADEChallengeData2016/ade20k_panoptic_*, PNG and JSON"),
    "coco-semantic": (CocoSemantic, "coco/panoptic_semseg_*2017/"),
}


def main(args: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m mask2former.data.preparation",
        description="Make the files that data sets need beyond what their authors publish. An "
        "interrupted run continues where it stopped. At the end, all outputs are checked.",
        epilog="\n".join(f"{name:17}{files}" for name, (_, files) in PREPARATIONS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="+", choices=PREPARATIONS, help="what to make, see below")
    default = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))
    parser.add_argument(
        "--datasets",
        default=default,
        help="folder of the data sets, DETECTRON2_DATASETS (%(default)s)",
    )
    parser.add_argument(
        "--splits", nargs="+", choices=("train", "val"), default=["train", "val"], help="(both)"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (%(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.add_argument("--no-check", action="store_true", help="do not check the outputs")
    options = parser.parse_args(args)
    if options.workers < 1:
        parser.error(f"--workers {options.workers}: must be at least 1")
    try:
        for name in options.what:
            for split in options.splits:
                job = PREPARATIONS[name][0](options.datasets, split)
                run(
                    job,
                    workers=options.workers,
                    overwrite=options.overwrite,
                    check=not options.no_check,
                )
    except (DatasetError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. The same command continues from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
