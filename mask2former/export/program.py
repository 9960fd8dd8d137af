"""The network as a program of PyTorch that no size of the example is built into."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..inference.exported import LEAST_UNITS
from ..modeling.meta_arch import MaskFormer
from ..modeling.ops.traceable import FORMS, traced_as

# Height and width of the example that is traced, in units of the size divisibility. They differ, so
# that one cannot be taken for the other. No map of any stage has a single window of 12 x 12, in
# either direction: that is a case of its own. Nothing is computed.
_EXAMPLE = (29, 43)
_EXAMPLE_BATCH = 2
# In the same units; a dimension of an export needs a limit.
_MOST_UNITS = 512
_MOST_IMAGES = 1024
_LOGGERS = ("torch.export", "torch._export", "torch.fx", "torch.onnx", "onnxscript")


@dataclass(frozen=True)
class Fixed:
    """The dimensions of the input that are not open, as numbers; None for those that are.

    Attributes:
        batch: images.
        height: in pixels.
        width: in pixels.
    """

    batch: int | None = None
    height: int | None = None
    width: int | None = None


ALL_OPEN = Fixed()


class Network(nn.Module):
    """The part of a model that is exported: backbone and head.

    Args:
        model: the model, which shares its parameters.
        precision: type of automatic mixed precision; None for that of the weights.
    """

    def __init__(self, model: MaskFormer, precision: torch.dtype | None = None):
        super().__init__()
        self.backbone, self.sem_seg_head = model.backbone, model.sem_seg_head
        self.precision = precision

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the queries of normalised, padded images.

        Args:
            images: (B, C, H, W), float32.

        Returns:
            Logits of classes (B, Q, K + 1) and of masks (B, Q, H / 4, W / 4), float32.
        """
        enabled = self.precision is not None
        with torch.autocast(images.device.type, dtype=self.precision, enabled=enabled):
            outputs = self.sem_seg_head(self.backbone(images))
        return outputs["pred_logits"].float(), outputs["pred_masks"].float()


def trace(
    network: nn.Module, *, channels: int = 3, size_divisibility: int, fixed: Fixed, operator: str
) -> torch.export.ExportedProgram:
    """Trace a network with open sizes.

    Args:
        network: in evaluation mode; see `Network`.
        channels: C.
        size_divisibility: of which heights and widths are multiples, at least 1.
        fixed: the dimensions that are not open.
        operator: how the program computes deformable attention, of `FORMS`.

    Raises:
        ValueError: the network computes with a size as a number, so that a program of open sizes
            would be wrong for others.
    """
    unit = size_divisibility
    height, width = fixed.height or _EXAMPLE[0] * unit, fixed.width or _EXAMPLE[1] * unit
    example = torch.zeros(fixed.batch or _EXAMPLE_BATCH, channels, height, width)
    open_sizes: dict[int, Any] = {}
    if fixed.batch is None:
        open_sizes[0] = torch.export.Dim("batch", max=_MOST_IMAGES)
    for axis, name, number in ((2, "height", fixed.height), (3, "width", fixed.width)):
        if number is None:
            units = torch.export.Dim(f"{name}_units", min=LEAST_UNITS, max=_MOST_UNITS)
            open_sizes[axis] = unit * units if unit > 1 else units
    # Fused attention lays its result out in a way of its own, which translations do not follow.
    plain = sdpa_kernel(SDPBackend.MATH)
    with torch.no_grad(), plain, traced_as(FORMS[operator]), quiet():
        try:
            return torch.export.export(network, (example,), dynamic_shapes=(open_sizes,))
        except Exception as error:
            if not open_sizes:
                raise
            raise ValueError(
                "this network cannot be exported with open sizes, because it computes with one of "
                f"them as a number ({_reason(error)}); fix them: --dynamic none --size HEIGHT WIDTH"
            ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what PyTorch's exporters say about their own parts from the user."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
