"""The `preprocessor_config.json` of Hugging Face's Mask2Former and our config keys, both ways.

Where neither side resizes, both turn an image into the same pixels. Resizing differs:

- Theirs resizes to a multiple of `size_divisor`, which stretches the image a little. Ours keeps the
  proportions and pads at the right and at the bottom.
- The published folders squeeze every image to a square, `"size": {"height": 384, "width": 384}`.
  Our config cannot express this, and the models were neither trained nor evaluated in this way. Our
  model resizes as for COCO instead (the shorter side to 800 pixels, the longer side to at most
  1333) and logs a warning.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from ...utils.schema import shown
from ..files import WeightsError

logger = logging.getLogger(__name__)

PREPROCESSOR_FILE = "preprocessor_config.json"
_BILINEAR = 2  # as Pillow numbers its filters
_COCO_SIZE = (800, 1333)
_RESCALE = 1 / 255
_SWIN_STRIDE = 32


def set_preprocessing(cfg: CfgNode, content: dict[str, Any], path: Path) -> None:
    """Set the keys of `INPUT` and of the pixel statistics from a `preprocessor_config.json`.

    Args:
        cfg: the config to change in place.
        content: the content of the file, checked by `check_preprocessor`.
        path: the path of the file, for messages.

    Raises:
        WeightsError: a key has a value that our config cannot express.
    """
    if content.get("do_resize", True):
        resample = content.get("resample", _BILINEAR)
        if resample != _BILINEAR:
            raise WeightsError(
                f"{path}: 'resample' is {resample!r}; only {_BILINEAR}, bilinear, is supported"
            )
        cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = _size(content, path)
    else:
        cfg.INPUT.MIN_SIZE_TEST = 0
    divisor = content.get("size_divisor", content.get("size_divisibility", _SWIN_STRIDE))
    cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY = int(divisor or 0)
    cfg.INPUT.FORMAT = "RGB"

    # Theirs is (pixel * factor - mean) / std, ours is (pixel - mean) / std.
    factor = content.get("rescale_factor", _RESCALE) if content.get("do_rescale", True) else 1.0
    normalize = content.get("do_normalize", True)
    for key, ours, imagenet in (
        ("image_mean", "PIXEL_MEAN", [0.485, 0.456, 0.406]),
        ("image_std", "PIXEL_STD", [0.229, 0.224, 0.225]),
    ):
        values = content.get(key, imagenet)
        if not normalize:
            values = [0.0 if key == "image_mean" else 1.0] * 3
        # Published values such as 123.675 were stored as float32: rounding restores them.
        cfg.MODEL[ours] = [round(value / factor, 4) for value in values]


def hf_preprocessor(cfg: CfgNode) -> dict[str, Any]:
    """Return the content of a `preprocessor_config.json` that prepares images as `cfg` says.

    Raises:
        WeightsError: the model takes BGR images, which theirs cannot produce.
    """
    if cfg.INPUT.FORMAT != "RGB":
        raise WeightsError(
            f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}: Hugging Face's image processor gives only RGB"
        )
    shortest, longest = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    divisor = cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY
    return {
        "image_processor_type": "Mask2FormerImageProcessor",
        "do_resize": shortest > 0,
        "size": {"shortest_edge": shortest or _COCO_SIZE[0], "longest_edge": longest},
        "size_divisor": _SWIN_STRIDE if divisor < 0 else divisor,
        "resample": _BILINEAR,
        "do_rescale": True,
        "rescale_factor": _RESCALE,
        "do_normalize": True,
        "image_mean": [round(value * _RESCALE, 10) for value in cfg.MODEL.PIXEL_MEAN],
        "image_std": [round(value * _RESCALE, 10) for value in cfg.MODEL.PIXEL_STD],
        "ignore_index": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        "num_labels": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        # Whether label maps count from 1, under its names in transformers 5 and 4.
        "do_reduce_labels": False,
        "reduce_labels": False,
    }


def _size(content: dict[str, Any], path: Path) -> tuple[int, int]:
    """Return the length of the shorter side and the limit of the longer one, in pixels."""
    size = content.get("size", _COCO_SIZE[0])
    limit = content.get("max_size", content.get("_max_size", _COCO_SIZE[1]))
    if isinstance(size, int):
        return size, limit
    size = {key: value for key, value in size.items() if value is not None}
    if "shortest_edge" in size:
        return size["shortest_edge"], size.get("longest_edge", limit)
    if {"height", "width"} <= set(size):
        logger.warning(
            "%s squeezes images to %d x %d pixels, which changes their proportions. Here they keep "
            "them: the shorter side becomes %d pixels, the longer side at most %d. To change this, "
            "set INPUT.MIN_SIZE_TEST and INPUT.MAX_SIZE_TEST",
            path, size["width"], size["height"], *_COCO_SIZE,
        )  # fmt: skip
        return _COCO_SIZE
    raise WeightsError(
        f"{path}: 'size' is {shown(size)}; supported are shortest_edge with longest_edge, and "
        "height with width"
    )
