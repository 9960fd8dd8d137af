"""Draw training images as the model sees them: augmented, with their targets.

python -m mask2former.cli.visualize_data \\
    --config-file configs/quickstart/panoptic.yaml --output pictures/
python -m mask2former.cli.visualize_data \\
    --config-file config.yaml --num 20 --raw INPUT.MIN_SCALE 0.5

The command also takes the data arguments of train_net.py. The pictures show the first samples of a
run with this config, in the same order: the same images and the same crops. With --raw they show
the same images without augmentation. Pixels that belong to no target are hatched, except for
instances, where they are background. Padding is dark.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from PIL import Image
from tqdm import tqdm

from .. import load_config
from ..data import ResumableSampler, SeededMapDataset, SegmentationMapper, build_mapper
from ..data.mapper import get_preset
from ..data.training_set import load_training_set
from ..engine.data_flags import add_data_flags, register_run_datasets
from ..structures import Classes
from ..utils.files import write_atomically
from ..visualization import (
    draw_instances,
    draw_panoptic,
    draw_semantic,
    palette_color,
)

# Distance between the lines of the hatching, as a share of the longer side.
_HATCHING = 1 / 40


def classes_of(cfg: CfgNode) -> Classes:
    """Return the classes of the first data set of ``DATASETS.TRAIN``."""
    count = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    return Classes.from_metadata(metadata, count) or Classes.numbered(count)


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
    parser.add_argument(
        "--allow-unsafe-config",
        action="store_true",
        help="let YAML tags in the config file run Python code; only for files you trust",
    )
    add_data_flags(parser)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys to change")
    parser.set_defaults(eval_only=False)
    return parser


def samples(cfg: CfgNode, *, raw: bool) -> Iterator[dict[str, Any]]:
    """Yield the samples of `mask2former.data.build_train_loader`, one by one.

    Args:
        cfg: the config of the run. A negative ``SEED``, which stands for a random one, is 0 here.
        raw: leave out augmentation.
    """
    preset = get_preset(cfg)
    records = load_training_set(
        cfg.DATASETS.TRAIN, preset.targets, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    )
    mapper = build_mapper(cfg)
    if raw:
        mapper = SegmentationMapper(
            augmentations=[],
            image_format=mapper.image_format,
            targets=mapper.targets,
            num_classes=mapper.num_classes,
            ignore_label=mapper.ignore_label,
        )
    dataset = SeededMapDataset(records, mapper)
    for key in ResumableSampler(len(dataset), max(cfg.SEED, 0), rank=0, world_size=1):
        yield dataset[key]


def draw(sample: dict[str, Any], targets: str, classes: Classes, image_format: str) -> Image.Image:
    """Draw a training sample.

    Args:
        sample: the result of the mapper.
        targets: kind of targets; see `MapperPreset`.
        classes: the classes of the data set.
        image_format: ``INPUT.FORMAT``.
    """
    pixels = sample["image"].permute(1, 2, 0).numpy()
    image = (pixels[..., ::-1] if image_format == "BGR" else pixels).copy()
    padding = sample["padding_mask"].numpy()
    masks, labels = sample["instances"].gt_masks, sample["instances"].gt_classes.tolist()
    numbers = np.zeros(padding.shape, dtype=np.int32)
    for number, mask in enumerate(masks, start=1):
        numbers[mask.numpy()] = number
    image[padding] //= 3
    if targets == "instance":
        names = [classes.names[label] for label in labels]
        colors = [palette_color(i) for i in range(len(labels))]
        return draw_instances(image, [mask.numpy() for mask in masks], names, colors)
    hatch(image, (numbers == 0) & ~padding)
    if targets == "semantic":
        classes_of_pixels = np.array([-1, *labels])[numbers]
        return draw_semantic(image, classes_of_pixels, classes.names, classes.colors, -1)
    segments = [{"id": i, "category_id": label} for i, label in enumerate(labels, start=1)]
    return draw_panoptic(
        image, numbers, segments, classes.names, classes.things or (), classes.colors
    )


def hatch(image: np.ndarray, mask: np.ndarray) -> None:
    """Draw diagonal lines where the mask (H, W) covers the image (H, W, 3), in place."""
    distance = max(4, round(_HATCHING * max(mask.shape)))
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    phase = (rows + columns) % distance
    width = max(1, distance // 6)
    # A light line beside a dark one is visible on every background.
    image[mask & (phase < width)] = 235
    image[mask & (phase >= width) & (phase < 2 * width)] = 20


def summary(sample: dict[str, Any], targets: str, classes: Classes) -> str:
    """Return the number of targets and how much of the image is unlabelled or padding, in words."""
    labels = sample["instances"].gt_classes.tolist()
    counts = Counter(classes.names[label] for label in labels)
    if targets == "semantic":
        parts = [", ".join(counts) or "no class"]
    else:
        parts = [", ".join(f"{n} {name}" for name, n in counts.items()) or "no target"]
    padding = sample["padding_mask"]
    if targets != "instance":
        taken = padding.clone()
        for mask in sample["instances"].gt_masks:
            taken |= mask
        parts.append(f"{1 - taken.float().mean():.0%} unlabelled")
    parts.append(f"{padding.float().mean():.0%} padding")
    height, width = padding.shape
    return f"{width}x{height}: {'; '.join(parts)}"


def run(args: argparse.Namespace) -> str:
    """Draw the pictures and return their folder.

    Raises:
        ValueError: the config or the data is not usable; the message says why.
    """
    if args.num < 1:
        raise ValueError(f"--num {args.num}: at least one picture is needed")
    cfg = load_config(args.config_file, args.opts, allow_unsafe=args.allow_unsafe_config)
    register_run_datasets(cfg, args)
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: name a registered data set")
    if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
        raise ValueError(f"INPUT.FORMAT must be RGB or BGR to be drawn, got {cfg.INPUT.FORMAT!r}")
    targets, classes = get_preset(cfg).targets, classes_of(cfg)
    folder = Path(args.output or os.path.join(cfg.OUTPUT_DIR, "data"))
    found = itertools.islice(samples(cfg, raw=args.raw), args.num)
    for number, sample in enumerate(tqdm(found, total=args.num, desc="Drawing"), start=1):
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{number:05d}_{Path(sample['file_name']).stem}.jpg"
        picture = draw(sample, targets, classes, cfg.INPUT.FORMAT)
        write_atomically(folder / name, partial(picture.save, format="JPEG", quality=92))
        tqdm.write(f"{name}  {summary(sample, targets, classes)}")
    return str(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argument_parser()
    args = parser.parse_args(arguments)
    try:
        folder = run(args)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    print(f"Pictures: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
