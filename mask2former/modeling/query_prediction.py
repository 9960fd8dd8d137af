"""What the network predicts for an image, before it becomes a result."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..utils.size import Size


@dataclass(frozen=True)
class QueryPrediction:
    """Classes and masks of the Q queries of one image, with the sizes that the masks are of."""

    class_logits: Tensor
    """(Q, K + 1), the last one "no object"."""
    mask_logits: Tensor
    """(Q, h, w), of the padded input."""
    padded_size: Size
    """Size of the network's input, in pixels."""
    image_size: Size
    """Size of the image, which is at the top left of the input."""
