"""Post-processing within the exported program, for runtimes whose users want results.

It follows `mask2former.modeling.postprocessing`, for whole batches and without shapes that depend
on the data. Results have the size of the input; the caller cuts the padding off and resizes them.

Shapes:
    B: batch, Q: queries, K: classes, N: instances, H, W: size of the input.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..modeling.meta_arch import MaskFormer
from ..utils.size import Size

OUTPUTS = {
    "instance": ("scores", "labels", "boxes", "masks"),
    "panoptic": ("segments", "labels", "scores"),
    "semantic": ("label_map",),
}
"""Names of the outputs, by task."""


class WithResults(nn.Module):
    """A network and its post-processing.

    Args:
        network: see `Network`.
        model: has the settings.
        task: "instance", "panoptic" or "semantic".
    """

    def __init__(self, network: nn.Module, model: MaskFormer, task: str):
        super().__init__()
        if task == "instance" and model.mask_nms < 1:
            raise ValueError(
                f"TEST.MASK_NMS {model.mask_nms:g} cannot be a part of a file with its "
                "post-processing: export without it, or set TEST.MASK_NMS 1.0"
            )
        self.network = network
        self.task = task
        self.max_detections = model.max_detections
        self.object_mask_threshold = model.object_mask_threshold
        self.overlap_threshold = model.overlap_threshold
        self.thing_classes = model.thing_classes

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs that `OUTPUTS` names for the task.

        Args:
            images: (B, C, H, W), normalised and padded.
        """
        logits, masks = self.network(images)
        size = images.shape[2], images.shape[3]
        if self.task == "instance":
            return instances(logits, masks, size, self.max_detections, self.thing_classes)
        masks = _resized(masks, size).sigmoid()
        if self.task == "semantic":
            return (_semantic(logits, masks),)
        assert self.thing_classes is not None
        return panoptic_segments(
            logits,
            masks,
            object_mask_threshold=self.object_mask_threshold,
            overlap_threshold=self.overlap_threshold,
            thing_classes=self.thing_classes,
        )


def instances(
    logits: Tensor,
    masks: Tensor,
    size: Size,
    max_detections: int,
    thing_classes: Collection[int] | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Choose the best (query, class) pairs of each image; see `instance_inference`.

    Args:
        logits: (B, Q, K + 1).
        masks: (B, Q, h, w), logits.
        size: (H, W).
        max_detections: N at most.
        thing_classes: pairs of other classes have the score 0; None is for all classes.

    Returns:
        Scores (B, N), classes (B, N) int64, boxes (B, N, 4) in pixels as (x0, y0, x1, y1), and
        masks (B, N, H, W) bool, in descending order of class probability.
    """
    B, Q, K = logits.shape[0], logits.shape[1], logits.shape[2] - 1
    probabilities = logits.softmax(-1)[..., :-1].flatten(1)  # (B, Q K)
    scores, pairs = probabilities.topk(min(max_detections, Q * K), sorted=True)
    queries, labels = pairs // K, pairs % K
    rows = torch.arange(B, device=logits.device)[:, None]
    chosen = _resized(masks[rows, queries], size)  # (B, N, H, W)
    inside = chosen > 0
    areas = inside.sum((2, 3))
    means = torch.where(inside, chosen.sigmoid(), 0.0).sum((2, 3)) / (areas + 1e-6)
    if thing_classes is not None:
        is_thing = torch.zeros(K, device=logits.device)
        is_thing[sorted(thing_classes)] = 1.0
        means = means * is_thing[labels]
    edges = [*_extent(inside.any(2)), *_extent(inside.any(3))]
    boxes = torch.stack([edges[0], edges[2], edges[1], edges[3]], dim=-1)
    return scores * means, labels, boxes.float(), inside


def panoptic_segments(
    logits: Tensor,
    masks: Tensor,
    *,
    object_mask_threshold: float,
    overlap_threshold: float,
    thing_classes: Collection[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Assign each pixel to a query; see `panoptic_inference`.

    Args:
        logits: (B, Q, K + 1).
        masks: (B, Q, H, W), probabilities.
        object_mask_threshold: in [0, 1].
        overlap_threshold: in [0, 1].
        thing_classes: those whose queries are not merged.

    Returns:
        Segments (B, H, W) int32, 0 where there is none and else the number of a query from 1; the
        classes (B, Q) int64 and the class probabilities (B, Q) of the queries. Those of one class
        of stuff are one segment, with the number of the first of them; its score is the greatest.
    """
    Q, K = logits.shape[1], logits.shape[2] - 1
    scores, labels = logits.softmax(-1).max(-1)  # (B, Q)
    kept = (labels != K) & (scores > object_mask_threshold)
    weighted = torch.where(kept[..., None, None], masks * scores[..., None, None], -1.0)
    winner = weighted.argmax(1)  # (B, H, W)
    inside = masks >= 0.5
    numbers = torch.arange(Q, device=logits.device)
    won = winner[:, None] == numbers[:, None, None]  # (B, Q, H, W)
    visible = (won & inside).sum((2, 3))
    share = won.sum((2, 3)) / inside.sum((2, 3)).clamp(min=1)
    kept = kept & (visible > 0) & (share >= overlap_threshold)

    is_thing = torch.zeros(K + 1, dtype=torch.bool, device=logits.device)
    is_thing[sorted(thing_classes)] = True
    same = (labels[:, :, None] == labels[:, None]) & kept[:, :, None] & kept[:, None]
    same = same & ~is_thing[labels][:, :, None]  # (B, Q, Q): queries of the same stuff
    same = same | (torch.eye(Q, dtype=torch.bool, device=logits.device) & kept[:, None])
    first = torch.where(same, numbers, Q).amin(-1)  # (B, Q)
    scores = torch.where(same, scores[:, None], 0.0).amax(-1)
    ids = torch.where(kept, first + 1, 0).to(torch.int32)
    rows = torch.arange(logits.shape[0], device=logits.device)[:, None, None]
    shown = inside.gather(1, winner[:, None])[:, 0]
    return torch.where(shown, ids[rows, winner], 0), labels, scores


def _semantic(logits: Tensor, masks: Tensor) -> Tensor:
    """Return the class with the highest score at each pixel, (B, H, W) int32."""
    probabilities = logits.softmax(-1)[..., :-1]
    scores = probabilities.transpose(1, 2) @ masks.flatten(2)  # (B, K, H W)
    return scores.argmax(1).to(torch.int32).unflatten(1, masks.shape[2:])


def _resized(masks: Tensor, size: Size) -> Tensor:
    return F.interpolate(masks, size=size, mode="bilinear", align_corners=False)


def _extent(present: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first index that is True and the one after the last, 0 and 0 if there is none.

    Args:
        present: bool (B, N, length).
    """
    index = torch.arange(present.shape[-1], device=present.device)
    last = torch.where(present, index + 1, 0).amax(-1)
    first = torch.where(present, index, present.shape[-1]).amin(-1)
    return torch.minimum(first, last), last
