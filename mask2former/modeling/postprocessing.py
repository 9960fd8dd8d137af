"""From class and mask logits of queries to results at the resolution of the image.

Mask logits are first resized to the padded network input, whose padding is then cut off. The masks
of all queries never exist at the resolution of the image: at 12 megapixels they would take 5 GB.

Shapes:
    Q: queries, K: classes, D: detections, h, w: size of mask logits, H, W: size of the output.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torch.nn import functional as F

from mask2former_runtime.postprocessing import chosen_segments
from mask2former_runtime.suppression import without_duplicates

from ..structures.packed_masks import boxes_of_projections
from ..utils.memory import return_freed_memory
from ..utils.size import Size
from .ops.cpu_kernels import cpu_kernel
from .query_prediction import QueryPrediction

# Full-resolution logits are made for as many masks at a time as fit into this many pixels (but one
# at least): 64 MiB of float32.
CHUNK_PIXELS = 1 << 24
# Bytes of a result from which on memory that was freed before is given back first. Smaller results
# use it again: to get pages anew costs more time than it saves memory.
_LARGE_RESULT = 1 << 28


def upsample_masks(mask_logits: Tensor, prediction: QueryPrediction, output_size: Size) -> Tensor:
    """Resize mask logits to the padded network input, cut the padding off, resize to the output.

    Two steps rather than one, as the published models do it.

    Args:
        mask_logits: (D, h, w), those of some queries.
        prediction: what they are of, for its sizes.
        output_size: (H, W).

    Returns:
        (D, H, W), float32.
    """
    image_size = prediction.image_size
    x = F.interpolate(
        mask_logits[None].float(),
        size=prediction.padded_size,
        mode="bilinear",
        align_corners=False,
    )
    x = x[..., : image_size[0], : image_size[1]]
    if image_size != output_size:
        x = F.interpolate(x, size=output_size, mode="bilinear", align_corners=False)
    return x[0]


@torch.no_grad()  # masks are written to in place
def instance_inference(
    prediction: QueryPrediction,
    output_size: Size,
    *,
    max_detections: int,
    thing_classes: Collection[int] | None = None,
    mask_nms: float = 1.0,
) -> Instances:
    """Turn the ``max_detections`` best (query, class) pairs into instances.

    The pairs are chosen by class probability before any mask is resized, and masks are kept as
    booleans, so memory is that of the result and, without the compiled kernel, a chunk of
    ``CHUNK_PIXELS``.

    Args:
        prediction: of one image.
        output_size: (H, W) of the result.
        max_detections: D at most.
        thing_classes: the best pairs of other classes are left out, and not replaced by others;
            None keeps all.
        mask_nms: of two instances of one class whose masks have a greater IoU, keep only the one
            with the higher score; 1 keeps both.

    Returns:
        Instances of size (H, W) with ``pred_masks`` bool (D, H, W), ``pred_boxes`` (the masks'
        bounding boxes, 0 where a mask is empty), ``scores`` (class probability times the mean mask
        probability within the mask) and ``pred_classes``, in descending order of class probability.
    """
    probs = prediction.class_logits.float().softmax(-1)[:, :-1]
    num_classes, probs = probs.shape[1], probs.flatten()
    class_scores, pairs = probs.topk(min(max_detections, len(probs)), sorted=True)
    queries, classes = pairs // num_classes, pairs % num_classes
    if thing_classes is not None:
        keep = torch.isin(classes, classes.new_tensor(list(thing_classes)))
        class_scores, queries, classes = class_scores[keep], queries[keep], classes[keep]

    if queries.is_cpu and len(queries) * _pixels(output_size) > _LARGE_RESULT:
        return_freed_memory()
    kernel = cpu_kernel("instance_masks", prediction.mask_logits, queries)
    masks, mask_scores, boxes = (
        instance_masks(prediction, queries, output_size)
        if kernel is None
        else kernel(
            prediction.mask_logits,
            queries,
            prediction.padded_size,
            prediction.image_size,
            output_size,
        )
    )
    result = Instances(output_size)
    result.pred_masks = masks
    result.pred_boxes = Boxes(boxes)
    result.scores = class_scores * mask_scores
    result.pred_classes = classes
    return result if mask_nms >= 1 else _without_duplicates(result, mask_nms)


def _without_duplicates(instances: Instances, most: float) -> Instances:
    """Suppress the duplicates among instances, which keep their order; see `without_duplicates`."""
    masks = instances.pred_masks

    def overlap(i: int, j: int, box: tuple[int, int, int, int]) -> int:
        rows, columns = slice(box[1], box[3]), slice(box[0], box[2])
        return int((masks[i, rows, columns] & masks[j, rows, columns]).count_nonzero())

    kept = without_duplicates(
        instances.scores.argsort(descending=True, stable=True).tolist(),
        instances.pred_classes.tolist(),
        instances.pred_boxes.tensor.tolist(),
        _areas(masks).tolist(),
        overlap,
        most,
    )
    return instances[torch.tensor(sorted(kept), dtype=torch.int64, device=masks.device)]


def instance_masks(
    prediction: QueryPrediction, queries: Tensor, output_size: Size
) -> tuple[Tensor, Tensor, Tensor]:
    """Resize and threshold the masks of queries: the PyTorch form of a compiled CPU kernel.

    Args:
        prediction: of one image.
        queries: (D,); a query can be there several times.
        output_size: (H, W) of the masks.

    Returns:
        Masks bool (D, H, W), the mean mask probability within each (D,), 0 where it is empty, and
        their bounding boxes (D, 4), 0 where it is empty.
    """
    D, device = len(queries), queries.device
    masks = torch.empty((D, *output_size), dtype=torch.bool, device=device)
    mask_scores = torch.empty(D, device=device)
    boxes = torch.zeros(D, 4, device=device)
    unique, inverse = queries.unique(return_inverse=True)
    for part, logits in _upsampled(prediction, unique, output_size):
        inside = logits > 0
        # In place: a temporary of this size costs as much time as the arithmetic.
        probabilities = logits.masked_fill_(~inside, -torch.inf).sigmoid_()
        means = probabilities.flatten(1).sum(1) / (_areas(inside) + 1e-6)
        rows = ((inverse >= part.start) & (inverse < part.stop)).nonzero()[:, 0]
        which = inverse[rows] - part.start
        masks[rows] = inside[which]
        mask_scores[rows] = means[which]
        boxes[rows] = mask_boxes(inside)[which]
    return masks, mask_scores, boxes


def semantic_inference(
    prediction: QueryPrediction,
    output_size: Size,
    *,
    resize_first: bool,
) -> Tensor:
    """Compute the score of every class at every pixel (MaskFormer, arXiv 2107.06278, section 3.4).

    They are the sum over queries of class probability times mask probability. Masks are resized in
    chunks of ``CHUNK_PIXELS`` or, if that is more, of a quarter of the result.

    Args:
        prediction: of one image.
        output_size: (H, W) of the result.
        resize_first: resize each mask to the output and combine them there, rather than combine
            them at the size of the image within the network's input and resize the sum.

    Returns:
        (K, H, W), float32, not negative. The sum over classes can exceed 1.
    """
    probs = prediction.class_logits.float().softmax(-1)[:, :-1]
    K, device = probs.shape[1], probs.device
    size = output_size if resize_first else prediction.image_size
    if device.type == "cpu" and 4 * K * _pixels(output_size) > _LARGE_RESULT:
        return_freed_memory()
    scores = torch.zeros((K, _pixels(size)), device=device)
    # Each chunk goes through the whole sum: with many classes, small ones would take long.
    limit = max(CHUNK_PIXELS, scores.numel() // 4)
    chunk = _masks_within(limit, prediction.padded_size, size)
    with torch.autocast(device.type, enabled=False):
        parts = zip(probs.split(chunk), prediction.mask_logits.split(chunk), strict=True)
        for part, logits in parts:
            # no name for the masks, which would keep them until after the next chunk's are made
            scores.addmm_(part.T, upsample_masks(logits, prediction, size).flatten(1).sigmoid_())
    scores = scores.view(K, *size)
    if size != output_size:
        scores = F.interpolate(
            scores[None], size=output_size, mode="bilinear", align_corners=False
        )[0]
    return scores


@torch.no_grad()
def panoptic_inference(
    prediction: QueryPrediction,
    output_size: Size,
    *,
    object_mask_threshold: float,
    overlap_threshold: float,
    thing_classes: Collection[int],
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Compute segments that do not overlap (MaskFormer, arXiv 2107.06278, section 3.4).

    Of the queries whose best class is an object with a probability above ``object_mask_threshold``,
    the one with the largest class times mask probability wins a pixel. It keeps those of its pixels
    that lie within its own mask (probability at least 0.5), unless it won fewer pixels than
    ``overlap_threshold`` times the area of its mask: then the pixels stay empty.

    Memory is that of three maps of size (H, W) and a chunk of ``CHUNK_PIXELS``.

    Args:
        prediction: of one image.
        output_size: (H, W) of the result.
        object_mask_threshold: in [0, 1].
        overlap_threshold: in [0, 1].
        thing_classes: of these each query is a segment of its own; those of another class (stuff)
            are one segment together.

    Returns:
        Detectron2's ``panoptic_seg``: a map (H, W), int32, of segment ids, 0 where there is none;
        and for each segment, in the order of its id from 1, a dict of ``id``, ``isthing``,
        ``category_id`` (in [0, K)) and ``score``, its class probability: of stuff the greatest of
        its queries.
    """
    probs = prediction.class_logits.float().softmax(-1)
    scores, labels = probs.max(-1)
    kept = (labels != probs.shape[1] - 1) & (scores > object_mask_threshold)
    queries, device = kept.nonzero()[:, 0], probs.device
    scores = scores[queries]
    if len(queries) == 0:
        return torch.zeros(output_size, dtype=torch.int32, device=device), []
    best = torch.full(output_size, -1.0, device=device)  # below the least of probabilities
    winner = torch.zeros(output_size, dtype=torch.int32, device=device)
    mask_areas = torch.zeros(len(queries), dtype=torch.int64, device=device)
    upsampled = _upsampled(prediction, queries, output_size)
    for i, logits in enumerate(mask for _, part in upsampled for mask in part):
        weighted = logits.sigmoid_()
        inside = weighted >= 0.5
        mask_areas[i] = inside.count_nonzero()
        weighted *= scores[i]
        better = weighted > best
        torch.maximum(best, weighted, out=best)
        # one map for both: 2 i + (1 within the mask, else 0)
        winner.masked_fill_(better, 2 * i).add_(inside & better)
    won = winner.flatten().bincount(minlength=2 * len(queries)).view(-1, 2)
    table = torch.stack((labels[queries], mask_areas, won.sum(1), won[:, 1]), dim=1)
    ids, segments = chosen_segments(
        table.tolist(), scores.tolist(), overlap_threshold, frozenset(thing_classes)
    )
    # 0 outside the mask
    lookup = torch.tensor([[0, i] for i in ids], dtype=torch.int32, device=device).flatten()
    return lookup.index_select(0, winner.flatten()).view(output_size), segments


def _upsampled(
    prediction: QueryPrediction, queries: Tensor, output_size: Size
) -> Iterator[tuple[slice, Tensor]]:
    """Resize the masks of ``queries`` to the output; the results may be written to.

    Yields:
        Which of the queries, and their masks (n, H, W): one at a time on the CPU, where a mask may
        fit into the caches, and a whole chunk elsewhere, so that a GPU has enough to do.
    """
    if len(queries) == 0:  # cannot be resized
        return
    first = 0
    for chunk in queries.split(_masks_within(CHUNK_PIXELS, prediction.padded_size, output_size)):
        masks = upsample_masks(prediction.mask_logits[chunk], prediction, output_size)
        step = 1 if masks.is_cpu else len(masks)
        for i in range(0, len(masks), step):
            yield slice(first + i, first + i + step), masks[i : i + step]
        first += len(masks)


def _masks_within(limit: int, *sizes: Size) -> int:
    """Return how many masks of the largest of ``sizes`` fit into ``limit`` pixels; at least 1."""
    return max(1, limit // max(1, *map(_pixels, sizes)))


def _pixels(size: Size) -> int:
    return size[0] * size[1]


def _areas(masks: Tensor) -> Tensor:
    """Count the pixels (N,) of bool masks (N, H, W)."""
    if masks.is_cpu:  # where sums of booleans take more than ten times as long
        return torch.stack([mask.count_nonzero() for mask in masks])
    return masks.flatten(1).sum(1)


def mask_boxes(masks: Tensor) -> Tensor:
    """Return boxes (N, 4), (x0, y0, x1, y1), of bool masks (N, H, W), upper ends exclusive."""
    return boxes_of_projections(masks.any(1), masks.any(2))
