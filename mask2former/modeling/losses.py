"""Losses on sampled points.

Shapes:
    N: masks, or rows of points, P: points, Q: queries, H, W: size of the masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .labelled_region import LabelledRegion, draw_points
from .ops.cpu_kernels import cpu_kernel


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


def mask_losses(logits: Tensor, targets: Tensor, num_masks: float) -> tuple[Tensor, Tensor]:
    """Compute `sigmoid_ce_loss` and `dice_loss`, by a compiled kernel where there is one."""
    if cpu_kernel("mask_loss_sums", logits.detach(), targets) is None:
        return (
            sigmoid_ce_loss(logits, targets, num_masks),
            dice_loss(logits, targets, num_masks),
        )
    entropy, probs, overlap, area = _LossSums.apply(logits, targets).unbind(1)
    dice = 1 - (2 * overlap + 1) / (probs + area + 1)
    return entropy.sum() / logits.shape[1] / num_masks, dice.sum() / num_masks


class _LossSums(torch.autograd.Function):
    """The compiled kernels of `mask_losses`: forward and backward."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        """Sum cross-entropy, probability, probability times target, and target: (N, 4)."""
        ctx.save_for_backward(logits, targets)
        return torch.ops.mask2former.mask_loss_sums(logits, targets)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the logits."""
        return torch.ops.mask2former.mask_loss_sums_backward(grad, *ctx.saved_tensors), None


def pairwise_mask_losses(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Compute `pairwise_sigmoid_ce` and `pairwise_dice`, by a kernel where there is one."""
    kernel = cpu_kernel("mask_probabilities", logits, targets)
    if kernel is None:
        return pairwise_sigmoid_ce(logits, targets), pairwise_dice(logits, targets)
    probs, sums = kernel(logits)
    softplus, total = sums[:, :2].split(1, dim=1)
    entropy = (softplus - logits @ targets.T) / logits.shape[1]
    overlap = 2 * probs @ targets.T
    return entropy, 1 - (overlap + 1) / (total + targets.sum(-1) + 1)


def sample_shared_points(masks: Tensor, points: Tensor) -> Tensor:
    """Sample all masks of an image at the same points.

    Args:
        masks: (N, H, W).
        points: (P, 2), (x, y) in [0, 1].

    Returns:
        (N, P), float32, bilinear.
    """
    kernel = cpu_kernel("sample_maps", masks, points)
    if kernel is not None:
        return kernel(_numbers(masks), torch.arange(len(masks)), points)
    return _grid_sample(masks[None], points[None])[0]


def sample_points(masks: Tensor, points: Tensor, of: Tensor | None = None) -> Tensor:
    """Sample masks at points.

    Args:
        masks: (Q, H, W).
        points: (N, P, 2), (x, y) in [0, 1].
        of: indices (N,) of the mask of each row of points; None is for all masks, where N is Q.

    Returns:
        (N, P), float32, bilinear.
    """
    if not points.requires_grad and cpu_kernel("sample_maps", masks.detach(), points) is not None:
        of = torch.arange(len(masks)) if of is None else of
        return _Samples.apply(_numbers(masks), of, points)
    return _grid_sample((masks if of is None else masks[of])[:, None], points)[:, 0]


class _Samples(torch.autograd.Function):
    """The compiled kernels of `sample_points`: forward and backward."""

    @staticmethod
    def forward(ctx: Any, masks: Tensor, of: Tensor, points: Tensor) -> Tensor:
        """Sample."""
        ctx.save_for_backward(masks, of, points)
        return torch.ops.mask2former.sample_maps(masks, of, points)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of the masks."""
        return torch.ops.mask2former.sample_maps_backward(grad, *ctx.saved_tensors), None, None


def _numbers(masks: Tensor) -> Tensor:
    """Turn booleans and whole numbers into floating-point numbers."""
    return masks if masks.is_floating_point() else masks.float()


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
    of: Tensor | None = None,
    regions: Sequence[LabelledRegion | None] | None = None,
) -> Tensor:
    """Draw points where masks are least certain, and some anywhere (arXiv 1912.08193, section 3.1).

    Of ``oversample_ratio * num_points`` random points the ``importance_sample_ratio * num_points``
    with a logit nearest to zero are kept; random ones fill up.

    Args:
        logits: (Q, H, W).
        num_points: P.
        oversample_ratio: at least 1.
        importance_sample_ratio: in [0, 1].
        counts: rows of points of each image of the batch, in this order; None is for a single
            image.
        of: indices (N,) of the mask of each row of points; None is for all masks, where N is Q.
        regions: of each image of the batch, where its points may be; None is for everywhere.

    Returns:
        (N, P, 2), (x, y) in [0, 1].
    """
    of = torch.arange(len(logits), device=logits.device) if of is None else of
    counts = [len(of)] if counts is None else counts
    num_uncertain = int(importance_sample_ratio * num_points)
    num_candidates = int(num_points * oversample_ratio)
    candidates = draw_points(counts, num_candidates, regions, logits.device)
    kernel = cpu_kernel("points_nearest_zero", logits, candidates)
    if kernel is not None:
        uncertain = kernel(logits, of, candidates, num_uncertain)
    else:
        distance = sample_points(logits, candidates, of).abs()  # of the logit from zero
        nearest = distance.topk(num_uncertain, dim=1, largest=False, sorted=False).indices
        uncertain = candidates.gather(1, nearest[..., None].expand(-1, -1, 2))
    anywhere = draw_points(counts, num_points - num_uncertain, regions, logits.device)
    return torch.cat((uncertain, anywhere), dim=1)
