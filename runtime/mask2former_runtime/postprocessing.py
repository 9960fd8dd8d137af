"""From class and mask logits of queries to results at the resolution of the image, with NumPy.

The rules are those of the model's own post-processing. Masks are resized a band of rows at a time:
memory is that of the result and of a band.

Shapes:
    Q: queries, K: classes, N: objects, h, w: size of mask logits, H, W: size of the output.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .bit_planes import add, empty
from .maps import box_of
from .resizing import BAND_PIXELS, Resizing, Size, rows_within
from .suppression import overlap_of, without_duplicates

# Rows of one mask that are in the caches of a processor together.
_MASK_ROWS = 64


@dataclass(frozen=True)
class Queries:
    """What the network predicts for one image.

    Attributes:
        class_logits: (Q, K + 1) float32, the last one "no object".
        mask_logits: (Q, h, w) float32, of the padded input.
        padded_size: size of the network's input.
        image_size: size of the image, which is at the top left of the input.
    """

    class_logits: np.ndarray
    mask_logits: np.ndarray
    padded_size: Size
    image_size: Size

    def resizing(self, output_size: Size) -> Resizing:
        """Return what resizes the masks to an output."""
        size = self.mask_logits.shape[1], self.mask_logits.shape[2]
        return Resizing(size, self.padded_size, self.image_size, output_size)

    def probabilities(self) -> np.ndarray:
        """Return the probabilities of classes, (Q, K + 1) float32."""
        logits = self.class_logits.astype(np.float64)
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return (powers / powers.sum(1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class Instances:
    """N instances, the best first; see `InstancePrediction`."""

    labels: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    planes: np.ndarray


def instances(
    queries: Queries,
    output_size: Size,
    *,
    max_detections: int,
    threshold: float | Sequence[float],
    thing_classes: Collection[int] | None = None,
    mask_nms: float = 1.0,
) -> Instances:
    """Return the instances with a score of at least `threshold` and a mask that is not empty.

    Candidates are the `max_detections` (query, class) pairs of the highest class probability. The
    score is that times the mean mask probability within the mask. As this is 1 at most, masks of
    pairs with a lower class probability than the threshold are not even resized.

    Args:
        queries: of one image.
        output_size: (H, W).
        max_detections: N at most.
        threshold: from 0 to 1; a number, or one for each class.
        thing_classes: candidates of other classes are left out, and not replaced by others; None
            keeps all.
        mask_nms: see `without_duplicates`; 1 keeps all.
    """
    probabilities = queries.probabilities()[:, :-1]
    num_classes, flat = probabilities.shape[1], probabilities.reshape(-1)
    pairs = np.argsort(-flat, kind="stable")[:max_detections]
    lowest = np.broadcast_to(np.asarray(threshold, np.float32), num_classes)[pairs % num_classes]
    keep = flat[pairs] >= lowest
    if thing_classes is not None:
        keep &= np.isin(pairs % num_classes, list(thing_classes))
    pairs, lowest = pairs[keep], lowest[keep]
    resizing = queries.resizing(output_size)
    chosen = (pairs // num_classes).tolist()
    masks = {query: _mask(resizing, queries.mask_logits[query]) for query in set(chosen)}
    scores = flat[pairs] * np.array([masks[query].mean for query in chosen], np.float32)
    kept = (scores >= lowest) & np.array([masks[query].area > 0 for query in chosen], bool)
    order = np.flatnonzero(kept)[np.argsort(-scores[kept], kind="stable")]
    found = [masks[chosen[i]] for i in order.tolist()]
    if mask_nms < 1:
        kept = _without_duplicates(found, (pairs[order] % num_classes).tolist(), mask_nms)
        order, found = order[kept], [found[i] for i in kept]
    planes = empty(len(found), output_size)
    for n, mask in enumerate(found):
        add(planes, n, mask.pixels(), (mask.box[1], mask.box[0]))
    return Instances(
        labels=pairs[order] % num_classes,
        scores=scores[order],
        boxes=np.array([mask.box for mask in found], np.float32).reshape(-1, 4),
        planes=planes,
    )


@dataclass(frozen=True)
class _Mask:
    """A mask.

    Attributes:
        area: in pixels.
        mean: mean probability within it, 0 if it is empty.
        box: around it, zeros if it is empty; see `box_of`.
        bits: its pixels within the box, eight to a byte.
    """

    area: int
    mean: float
    box: tuple[int, int, int, int]
    bits: np.ndarray

    def pixels(self) -> np.ndarray:
        """Return the mask within its box, bool."""
        left, top, right, bottom = self.box
        shape = bottom - top, right - left
        return np.unpackbits(self.bits, count=shape[0] * shape[1]).view(bool).reshape(shape)


def _without_duplicates(masks: Sequence[_Mask], labels: Sequence[int], most: float) -> list[int]:
    """Return which masks stay, of those with the best first."""
    boxes, areas = [mask.box for mask in masks], [mask.area for mask in masks]
    overlap = overlap_of({i: mask.pixels() for i, mask in enumerate(masks)}, boxes)
    return without_duplicates(range(len(masks)), labels, boxes, areas, overlap, most)


def _mask(resizing: Resizing, logits: np.ndarray) -> _Mask:
    """Resize the logits (h, w) of a mask.

    Only pixels that depend on a positive logit can be in the mask: their region is resized.
    """
    left, top, right, bottom = box_of(logits > 0)
    rows, columns = resizing.outputs_of((top, bottom), (left, right))
    mask = np.empty((rows[1] - rows[0], columns[1] - columns[0]), bool)
    total = 0.0
    for (first, last), (band,) in resizing.bands(logits[None], _MASK_ROWS, rows, columns):
        inside = mask[first - rows[0] : last - rows[0]]
        np.greater(band, 0, out=inside)
        total += sigmoid(band[inside]).sum(dtype=np.float64)
    left, top, right, bottom = box = box_of(mask)
    mask = mask[top:bottom, left:right]
    area = int(np.count_nonzero(mask))
    if area:
        box = left + columns[0], top + rows[0], right + columns[0], bottom + rows[0]
    return _Mask(area, total / (area + 1e-6), box, np.packbits(mask))


def class_map(queries: Queries, output_size: Size, *, resize_first: bool) -> np.ndarray:
    """Find the class with the highest score at each pixel.

    Scores are the sum over queries of class probability times mask probability (MaskFormer, arXiv
    2107.06278, section 3.4).

    Args:
        queries: of one image.
        output_size: (H, W).
        resize_first: resize each mask to the output and combine them there, rather than combine
            them at the size of the image within the network's input and resize the sum.

    Returns:
        (H, W) int32.
    """
    weights = np.ascontiguousarray(queries.probabilities()[:, :-1].T)  # (K, Q)
    size = output_size if resize_first else queries.image_size
    masks = queries.resizing(size)
    step = rows_within(BAND_PIXELS, max(weights.shape), max(size[1], output_size[1]))

    def scores(first: int, last: int) -> np.ndarray:
        """Return the scores (K, last - first, W) of rows of a map of `size`."""
        parts = masks.bands(queries.mask_logits, step, (first, last))
        return np.concatenate([np.tensordot(weights, sigmoid(m), 1) for _, m in parts], axis=1)

    labels = np.empty(output_size, np.int32)
    resizing = Resizing.plain(size, output_size)
    ready, start = scores(0, 1), 0
    for first in range(0, output_size[0], step):
        last = min(first + step, output_size[0])
        begin, end = resizing.source_rows(first, last)
        # Bands share rows, and scores take most of the time.
        new = max(begin, start + ready.shape[1])
        parts = [ready[:, begin - start :], *([scores(new, end)] if new < end else [])]
        ready, start = np.concatenate(parts, axis=1), begin
        band = ready if size == output_size else resizing.rows(ready, (first, last))
        labels[first:last] = _first_of_greatest(band)
    return labels


def segments(
    queries: Queries,
    output_size: Size,
    *,
    object_mask_threshold: float,
    overlap_threshold: float,
    thing_classes: Collection[int],
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Compute segments that do not overlap (MaskFormer, arXiv 2107.06278, section 3.4).

    Of the queries whose best class is an object with a probability above `object_mask_threshold`,
    the one with the largest class times mask probability wins a pixel. `chosen_segments` says which
    of them become segments, of the pixels that they won within their own masks.

    Args:
        queries: of one image.
        output_size: (H, W).
        object_mask_threshold: from 0 to 1.
        overlap_threshold: see `chosen_segments`.
        thing_classes: see `chosen_segments`.

    Returns:
        A map (H, W) of segment ids, 0 where there is none, and the segments.
    """
    probabilities = queries.probabilities()
    labels, scores = probabilities.argmax(1), probabilities.max(1)
    kept = np.flatnonzero((labels < probabilities.shape[1] - 1) & (scores > object_mask_threshold))
    labels, scores = labels[kept], scores[kept]
    winner = np.zeros(output_size, np.uint16)  # 2 i + (1 within the mask, else 0)
    areas, won = np.zeros(len(kept), np.int64), np.zeros(2 * len(kept), np.int64)
    if not len(kept):
        return winner, []
    logits = queries.mask_logits[kept]
    step = rows_within(BAND_PIXELS, len(kept), output_size[1])
    bands = queries.resizing(output_size).bands(logits, step, (0, output_size[0]))
    for (first, last), band in bands:
        masks = sigmoid(band)
        inside = masks >= 0.5
        areas += np.count_nonzero(inside, axis=(1, 2))
        masks *= scores[:, None, None]
        best = _first_of_greatest(masks)
        within = np.take_along_axis(inside, best[None], 0)[0]
        winner[first:last] = 2 * best + within
        won += np.bincount(winner[first:last].reshape(-1), minlength=len(won))
    table = np.stack((labels, areas, won[::2] + won[1::2], won[1::2]), axis=1)
    ids, found = chosen_segments(
        table.tolist(), scores.tolist(), overlap_threshold, frozenset(thing_classes)
    )
    lookup = np.zeros(2 * len(ids), np.min_scalar_type(len(found)))
    lookup[1::2] = ids
    return lookup[winner], found


def chosen_segments(
    table: Sequence[Sequence[int]],
    scores: Sequence[float],
    overlap_threshold: float,
    thing_classes: frozenset[int],
) -> tuple[list[int], list[dict[str, Any]]]:
    """Choose which queries become segments: the rule of panoptic segmentation.

    A query keeps the pixels that it won within its own mask, unless it won fewer pixels than
    `overlap_threshold` times the area of its mask: then they stay empty.

    Args:
        table: class, area of the mask, pixels won, and pixels won within the mask, of each query.
        scores: class probability of each query.
        overlap_threshold: from 0 to 1.
        thing_classes: of these each query is a segment of its own; those of another class (stuff)
            are one segment together.

    Returns:
        The segment id of each query, 0 for none; and for each segment, in the order of its id from
        1, a dict of ``id``, ``isthing``, ``category_id`` (in [0, K)) and ``score``, its class
        probability: of stuff the greatest of its queries.
    """
    ids: list[int] = []
    found: list[dict[str, Any]] = []
    stuff: dict[int, int] = {}  # segment id by class
    for (label, area, won, visible), score in zip(table, scores, strict=True):
        if visible == 0 or won / area < overlap_threshold:
            ids.append(0)
        elif label in stuff:
            ids.append(stuff[label])
            segment = found[stuff[label] - 1]
            segment["score"] = max(segment["score"], score)
        else:
            is_thing = label in thing_classes
            ids.append(len(found) + 1)
            found.append({"id": ids[-1], "isthing": is_thing, "category_id": label, "score": score})
            if not is_thing:
                stuff[label] = len(found)
    return ids, found


def sigmoid(values: np.ndarray) -> np.ndarray:
    """Return the probabilities of logits, float32, in place of them."""
    with np.errstate(over="ignore"):  # of the greatest logits: 1 / infinity is right
        np.exp(np.negative(values, out=values), out=values)
    values += 1
    return np.reciprocal(values, out=values)


def _first_of_greatest(maps: np.ndarray) -> np.ndarray:
    """Return which of maps (n, H, W) is the greatest at each pixel, the first of equals."""
    best, which = maps[0].copy(), np.zeros(maps.shape[1:], np.int32)
    for i, values in enumerate(maps[1:], start=1):
        np.copyto(which, i, where=values > best)
        np.maximum(best, values, out=best)
    return which
