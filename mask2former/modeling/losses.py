"""Losses on sampled points.

Shapes:
    N: masks, P: points, Q: queries, H, W: size of the masks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .draws import rand


def sigmoid_ce_loss(logits: Tensor, targets: Tensor, num_masks: float) -> Tensor:
    """Compute the binary cross-entropy, mean over points, sum over masks, divided by ``num_masks``.

    Args:
        logits: (N, P).
        targets: (N, P) in [0, 1].
        num_masks: number of target masks in the batch.
    """
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return loss.mean(1).sum() / num_masks


def dice_loss(logits: Tensor, targets: Tensor, num_masks: float) -> Tensor:
    """Compute 1 - (2 |p t| + 1) / (|p| + |t| + 1), sum over masks, divided by ``num_masks``.

    Args:
        logits: (N, P).
        targets: (N, P) in [0, 1].
        num_masks: number of target masks in the batch.
    """
    probs = logits.sigmoid()
    overlap = 2 * (probs * targets).sum(-1)
    total = probs.sum(-1) + targets.sum(-1)
    return (1 - (overlap + 1) / (total + 1)).sum() / num_masks


def pairwise_sigmoid_ce(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the cross-entropy of every prediction with every target: (Q, P), (N, P) to (Q, N)."""
    # -t log p - (1 - t) log(1 - p) = softplus(x) - t x
    return (F.softplus(logits).sum(-1, keepdim=True) - logits @ targets.T) / logits.shape[1]


def pairwise_dice(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the dice loss of every prediction with every target: (Q, P), (N, P) to (Q, N)."""
    probs = logits.sigmoid()
    overlap = 2 * probs @ targets.T
    total = probs.sum(-1)[:, None] + targets.sum(-1)[None]
    return 1 - (overlap + 1) / (total + 1)


def sample_shared_points(masks: Tensor, points: Tensor) -> Tensor:
    """Sample all masks of an image at the same points.

    Args:
        masks: (N, H, W).
        points: (P, 2), (x, y) in [0, 1].

    Returns:
        (N, P), float32, bilinear.
    """
    return _grid_sample(masks[None], points[None])[0]


def sample_points(masks: Tensor, points: Tensor) -> Tensor:
    """Sample each mask at points of its own: (N, H, W), (N, P, 2) to (N, P), float32, bilinear."""
    return _grid_sample(masks[:, None], points)[:, 0]


def _grid_sample(maps: Tensor, points: Tensor) -> Tensor:
    """Sample (N, C, H, W) at (N, P, 2): (N, C, P)."""
    # Detectron2's point_rend project has this too, but importing it takes OpenCV.
    grid = 2 * points[:, :, None] - 1
    return F.grid_sample(maps.float(), grid, mode="bilinear", align_corners=False)[..., 0]


@torch.no_grad()
def uncertain_points(
    logits: Tensor,
    num_points: int,
    oversample_ratio: float,
    importance_sample_ratio: float,
    counts: Sequence[int] | None = None,
) -> Tensor:
    """Draw points where masks are least certain, and some anywhere (arXiv 1912.08193, section 3.1).

    Of ``oversample_ratio * num_points`` random points the ``importance_sample_ratio * num_points``
    with a logit nearest to zero are kept; random ones fill up.

    Args:
        logits: (N, H, W).
        num_points: P.
        oversample_ratio: at least 1.
        importance_sample_ratio: in [0, 1].
        counts: masks of each image of the batch, in this order; None is for a single image.

    Returns:
        (N, P, 2), (x, y) in [0, 1].
    """
    counts = [len(logits)] if counts is None else counts
    num_uncertain = int(importance_sample_ratio * num_points)
    candidates = rand(counts, int(num_points * oversample_ratio), 2, device=logits.device)
    distance = sample_points(logits, candidates).abs()  # of the logit from zero
    nearest = distance.topk(num_uncertain, dim=1, largest=False, sorted=False).indices
    uncertain = candidates.gather(1, nearest[..., None].expand(-1, -1, 2))
    anywhere = rand(counts, num_points - num_uncertain, 2, device=logits.device)
    return torch.cat((uncertain, anywhere), dim=1)
