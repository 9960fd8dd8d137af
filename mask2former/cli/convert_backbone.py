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
from pathlib import Path

from ..checkpoint import WeightsError, local_weights, read_checkpoint, write_checkpoint
from ..checkpoint.backbones import convert_backbone


def main() -> None:
    """Convert."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "source",
        help="file, https:// URL, or torchvision://, swin:// or timm:// and a name; "
        "#sha256=... after it asks for exactly that file",
    )
    parser.add_argument("output", type=Path, help="new file: .pkl, .pth or .safetensors")
    args = parser.parse_args()
    try:
        state = convert_backbone(read_checkpoint(local_weights(args.source))["model"])
        if state is None:
            raise WeightsError(f"{args.source} holds no ImageNet backbone of a known kind")
        write_checkpoint({"model": state}, args.output, overwrite=False)
    except WeightsError as error:
        sys.exit(f"error: {error}")
    print(f"{args.output}: {len(state)} tensors")


if __name__ == "__main__":
    main()
