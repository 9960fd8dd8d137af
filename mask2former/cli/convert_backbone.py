"""Write an ImageNet backbone under the names of this package's models.

python -m mask2former.cli.convert_backbone torchvision://resnet50 R-50.pkl
python -m mask2former.cli.convert_backbone \\
    swin_tiny_patch4_window7_224.pth swin_tiny_patch4_window7_224.pkl

Training needs no conversion: MODEL.WEIGHTS takes the same sources. Convert to keep one file of
known content, or to use the weights with other code that has these names.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mask2former_runtime.commands import run_reporting_errors

from ..checkpoint import WeightsError, local_weights, read_checkpoint, write_checkpoint
from ..checkpoint.backbones import convert_backbone
from ..flags.trust import add_trust_flags


def write_backbone(
    source: str, output: Path, *, overwrite: bool = False, allow_unsafe: bool = False
) -> str:
    """Write a backbone under this package's names, and return a summary for the user.

    Args:
        source: see `local_weights`.
        output: the new file.
        overwrite: whether to replace an existing file.
        allow_unsafe: see `read_checkpoint`.

    Raises:
        WeightsError: the source is not an ImageNet backbone of a known kind, or `output` exists.
    """
    state = convert_backbone(read_checkpoint(local_weights(source), allow_unsafe)["model"])
    if state is None:
        raise WeightsError(f"{source} is not an ImageNet backbone of a known kind")
    write_checkpoint({"model": state}, output, overwrite=overwrite)
    return f"{output}: {len(state)} tensors"


def argument_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "source",
        help="file, https:// URL, or torchvision://, swin:// or timm:// and a name; append "
        "#sha256=... to accept exactly that file",
    )
    parser.add_argument("output", type=Path, help="new file: .pkl, .pth or .safetensors")
    add_trust_flags(parser, ["weights"])
    return parser


def run(args: argparse.Namespace) -> int:
    """Write the backbone; return 0."""
    print(write_backbone(args.source, args.output, allow_unsafe=args.allow_unsafe_weights))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argument_parser()
    return run_reporting_errors(parser.prog, run, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
