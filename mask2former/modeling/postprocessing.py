"""From class and mask logits of queries to results at the resolution of the image.

Shapes:
    Q: queries, K: classes, D: detections, h, w: size of mask logits, H, W: size of the output.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torch.nn import functional as F

# Full-resolution logits are made for as many masks at a time as fit into this many pixels (but one
# at least): 64 MiB of float32.
CHUNK_PIXELS = 1 << 24

Size = tuple[int, int]  # (height, width)


def upsample_masks(
    mask_logits: Tensor, padded_size: Size, image_size: Size, output_size: Size
) -> Tensor:
    """Resize mask logits to the padded network input, cut the padding off, resize to the output.

    Two steps rather than one, as the published models do it.

    Args:
        mask_logits: (D, h, w).
        padded_size: size of the network's input.
        image_size: size of the image within it.
        output_size: (H, W).

    Returns:
        (D, H, W), float32.
    """
    x = F.interpolate(
        mask_logits[None].float(), size=padded_size, mode="bilinear", align_corners=False
    )
    x = x[..., : image_size[0], : image_size[1]]
    if image_size != output_size:
        x = F.interpolate(x, size=output_size, mode="bilinear", align_corners=False)
    return x[0]


def instance_inference(
    class_logits: Tensor,
    mask_logits: Tensor,
    *,
    padded_size: Size,
    image_size: Size,
    output_size: Size,
    max_detections: int,
) -> Instances:
    """The ``max_detections`` best (query, class) pairs as instances.

    The pairs are chosen by class probability before any mask is resized, and masks are resized in
    chunks and kept as booleans, so memory is that of the result and a chunk of ``CHUNK_PIXELS``.

    Args:
        class_logits: (Q, K + 1), the last one "no object".
        mask_logits: (Q, h, w).
        padded_size: size of the network's input.
        image_size: size of the image within it.
        output_size: (H, W) of the result.
        max_detections: D at most.

    Returns:
        Instances of size (H, W) with ``pred_masks`` bool (D, H, W), ``pred_boxes`` (the masks'
        bounding boxes, 0 where a mask is empty), ``scores`` (class probability times the mean mask
        probability within the mask) and ``pred_classes``, in descending order of class probability.
    """
    num_classes = class_logits.shape[1] - 1
    probs = class_logits.float().softmax(-1)[:, :-1].flatten()
    class_scores, pairs = probs.topk(min(max_detections, len(probs)), sorted=True)
    queries, classes = pairs // num_classes, pairs % num_classes

    D, device = len(pairs), mask_logits.device
    if device.type == "cpu" and D * output_size[0] * output_size[1] > CHUNK_PIXELS:
        _return_freed_memory()
    masks = torch.empty((D, *output_size), dtype=torch.bool, device=device)
    mask_scores = torch.empty(D, device=device)
    boxes = torch.zeros(D, 4, device=device)
    for rows, logits in _upsampled(mask_logits, queries, padded_size, image_size, output_size):
        inside = logits > 0
        # In place: a temporary of this size costs as much time as the arithmetic.
        probabilities = logits.masked_fill_(~inside, -torch.inf).sigmoid_()
        score = probabilities.sum() / (inside.count_nonzero() + 1e-6)
        masks[rows] = inside
        mask_scores[rows] = score
        boxes[rows] = mask_box(inside)
    result = Instances(output_size)
    result.pred_masks = masks
    result.pred_boxes = Boxes(boxes)
    result.scores = class_scores * mask_scores
    result.pred_classes = classes
    return result


def _upsampled(
    mask_logits: Tensor, queries: Tensor, padded_size: Size, image_size: Size, output_size: Size
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each query's mask at output size, once, with the rows of the result that it belongs to."""
    unique, inverse = queries.unique(return_inverse=True)
    pixels = max(padded_size[0] * padded_size[1], output_size[0] * output_size[1], 1)
    start = 0
    for chunk in unique.split(max(1, CHUNK_PIXELS // pixels)):
        for logits in upsample_masks(mask_logits[chunk], padded_size, image_size, output_size):
            yield (inverse == start).nonzero()[:, 0], logits
            start += 1


def _return_freed_memory() -> None:
    """Give memory that the C library keeps after it was freed back to the system.

    After the network's forward that is some 0.3 GB, in pieces too small for a large result.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # glibc has it
        trim(0)


def mask_box(mask: Tensor) -> Tensor:
    """Bounding box (x0, y0, x1, y1) of a bool mask (H, W), in pixels, upper ends exclusive."""
    columns, rows = (mask.any(dim).nonzero()[:, 0] for dim in (0, 1))
    if len(rows) == 0:
        return torch.zeros(4, device=mask.device)
    return torch.stack((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)).float()
