"""Compile the attention operator for onnxruntime and OpenVINO.

python -m mask2former.cli.build_operator onnxruntime openvino --output operators/

This writes libmask2former_onnxruntime.so and libmask2former_openvino.so, which run models that were
exported with the operator as one node. It needs a C++ compiler (g++ 12 or newer, or clang++; the
environment variable CXX names another) and, for its library, OpenVINO of the same version as where
the library will run. onnxruntime may be any version from 1.17 on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mask2former_runtime.commands import run_reporting_errors

from ..modeling.ops.runtime_libraries import RUNTIMES, build_libraries


def argument_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runtimes", nargs="+", choices=RUNTIMES, metavar="RUNTIME", help=" or ".join(RUNTIMES)
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder for the libraries"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Build the libraries, and print their paths."""
    for path in build_libraries(args.runtimes, args.output):
        print(path)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    args = argument_parser().parse_args(arguments)
    return run_reporting_errors("build_operator", run, args)


if __name__ == "__main__":
    sys.exit(main())
