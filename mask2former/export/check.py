"""Compares an exported file with the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..inference.predictor import Predictor
from ..modeling.meta_arch import MaskFormer
from .program import LEAST_UNITS, Fixed

Run = Callable[[np.ndarray], Sequence[np.ndarray]]
"""From images (B, 3, H, W) to the outputs of a file."""

EQUAL_PIXELS = {"fp32": 0.9999, "fp16": 0.995, "bf16": 0.98, "int8": 0.97}
"""Least share of equal mask pixels, by precision."""
EQUAL_CLASSES = {"fp32": 1.0, "fp16": 0.99, "bf16": 0.97, "int8": 0.95}
"""Least share of queries with the same best class, by precision."""
# Height and width of the small batch, as parts of the size that the model is used with.
_SMALL = (0.4, 0.3)


@dataclass(frozen=True)
class Comparison:
    """The differences between a file and the model for one batch.

    Attributes:
        batch: images.
        height: in pixels.
        width: in pixels.
        differences: of each output that is not whole numbers, the greatest, relative to the
            greatest value of the model.
        equal_pixels: share of pixels of masks, or of a map, that are equal.
        equal_classes: share of queries or instances whose (best) class is equal.
    """

    batch: int
    height: int
    width: int
    differences: Mapping[str, float]
    equal_pixels: float
    equal_classes: float

    def __str__(self) -> str:
        times = "\N{MULTIPLICATION SIGN}"
        differences = "".join(f"{name} within {d:.1e}, " for name, d in self.differences.items())
        return (
            f"{self.batch} {times} {self.height} {times} {self.width}: {differences}"
            f"{self.equal_pixels:.4%} of mask pixels and {self.equal_classes:.2%} of classes equal"
        )

    def passes(self, precision: str) -> bool:
        """Tell whether the differences are within the tolerance of a precision."""
        return (
            all(math.isfinite(d) for d in self.differences.values())
            and self.equal_pixels >= EQUAL_PIXELS[precision]
            and self.equal_classes >= EQUAL_CLASSES[precision]
        )


def tolerance(precision: str) -> str:
    """Return what a precision allows, in words."""
    return (
        f"at least {EQUAL_PIXELS[precision]:.2%} of mask pixels and "
        f"{EQUAL_CLASSES[precision]:.0%} of classes equal"
    )


def compare(network: nn.Module, run: Run, images: Tensor, names: Sequence[str]) -> Comparison:
    """Compare a file with the network for one batch.

    Args:
        network: what was exported.
        run: computes what the file does.
        images: (B, 3, H, W), normalised and padded.
        names: of the outputs.

    Raises:
        ValueError: an output of the file has another shape.
    """
    with torch.inference_mode():
        outputs = [x.numpy() for x in network(images)]
    found, expected = (
        dict(zip(names, run(images.numpy()), strict=True)),
        dict(zip(names, outputs, strict=True)),
    )
    for name, x in expected.items():
        if found[name].shape != x.shape:
            raise ValueError(
                f"the file gives {name} of {found[name].shape}, the model of {x.shape}"
            )
    return Comparison(
        len(images),
        images.shape[2],
        images.shape[3],
        {
            name: _difference(found[name], x)
            for name, x in expected.items()
            if np.issubdtype(x.dtype, np.floating)
        },
        *(_equal(kind(found), kind(expected)) for kind in (_pixels, _classes)),
    )


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    scale = float(np.abs(expected).max(initial=0)) or 1.0
    return float(np.abs(found - expected).max(initial=0)) / scale


def _pixels(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    maps = next(outputs[name] for name in ("masks", "segments", "label_map") if name in outputs)
    return maps > 0 if np.issubdtype(maps.dtype, np.floating) else maps


def _classes(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    if "logits" in outputs:
        return outputs["logits"].argmax(-1)
    return outputs.get("labels", np.zeros(0))


def _equal(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.mean(found == expected)) if expected.size else 1.0


def batches(predictor: Predictor, pictures: Sequence[np.ndarray], fixed: Fixed) -> list[Tensor]:
    """Make a batch of the size that the model is used with, and one of several small images.

    Both sizes and both batches differ from the example's of the export, unless they are fixed.

    Args:
        predictor: resizes as the model is used.
        pictures: at least one, (H, W, 3) uint8, BGR.
        fixed: the dimensions that are not open.
    """
    model = predictor.model
    assert isinstance(model, MaskFormer)
    unit = max(model.size_divisibility, 1)
    first = predictor._resized(pictures[0])
    sizes = [
        (first.shape[1], first.shape[2]),
        (round(first.shape[1] * _SMALL[0]), round(first.shape[2] * _SMALL[1])),
    ]
    made = []
    for (height, width), batch in zip(sizes, (1, 3), strict=True):
        least = unit * LEAST_UNITS
        size = fixed.height or max(least, height), fixed.width or max(least, width)
        images = []
        for i in range(fixed.batch or batch):
            image = predictor._resized(pictures[i % len(pictures)]).float()
            image = F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]
            images.append((image - model.pixel_mean) / model.pixel_std)
        x = torch.stack(images)
        made.append(F.pad(x, (0, -size[1] % unit, 0, -size[0] % unit)))
    return made
