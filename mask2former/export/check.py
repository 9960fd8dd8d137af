"""Compares an exported file with the model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from mask2former_runtime.metadata import InputSpec
from mask2former_runtime.preprocessing import network_input

from ..inference.exported import LEAST_UNITS, Run

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
        images: (B, C, H, W), normalised and padded.
        names: of the outputs.

    Raises:
        ValueError: an output of the file has another shape.
    """
    with torch.inference_mode():
        found, expected = (
            {name: x.numpy() for name, x in zip(names, compute(images), strict=True)}
            for compute in (run, network)
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


def batches(pictures: Sequence[np.ndarray], spec: InputSpec) -> list[Tensor]:
    """Make a batch of the size that the model is used with, and one of several small images.

    Both sizes and both batches differ from the example's of the export, unless they are fixed.

    Args:
        pictures: at least one, (H, W, 3) uint8, BGR.
        spec: the input of the file.
    """
    unit = spec.size_divisibility
    whole = network_input(pictures[0], spec)[0].shape[2:]
    small = [
        math.ceil(length * part / unit) * unit for length, part in zip(whole, _SMALL, strict=True)
    ]
    made = []
    for (height, width), number in ((whole, 1), (small, 3)):
        least = unit * LEAST_UNITS
        size = replace(
            spec,
            height=spec.height or max(least, height),
            width=spec.width or max(least, width),
        )
        chosen = itertools.islice(itertools.cycle(pictures), spec.batch or number)
        images = [network_input(picture, size)[0] for picture in chosen]
        made.append(torch.from_numpy(np.concatenate(images)))
    return made
