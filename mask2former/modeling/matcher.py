"""Bipartite matching of predictions and targets (DETR, arXiv 2005.12872, section 3.1).

Shapes:
    B: batch, Q: queries, K: classes, N: targets per image, P: points, H, W: size of masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from .labelled_region import draw_points
from .losses import pairwise_mask_losses, sample_shared_points
from .targets import Target, packed_targets, regions_of, sample_target


class HungarianMatcher(nn.Module):
    """Assigns predictions to the targets of an image such that the total cost is least.

    The cost of a pair is a weighted sum of minus the class probability, and of the binary
    cross-entropy and the dice loss of the masks at random points, the same for all pairs. In images
    that have a `LabelledRegion` the points are in it.

    Args:
        cost_class: weight of the class cost.
        cost_mask: weight of the binary cross-entropy.
        cost_dice: weight of the dice loss.
        num_points: P.
    """

    def __init__(self, *, cost_class: float, cost_mask: float, cost_dice: float, num_points: int):
        super().__init__()
        if cost_class == cost_mask == cost_dice == 0:
            raise ValueError("all weights of the matching cost are 0")
        self.weights = {"class": cost_class, "mask": cost_mask, "dice": cost_dice}
        self.num_points = num_points

    def forward(
        self, outputs: dict[str, Tensor], targets: Sequence[Mapping[str, Any]]
    ) -> list[tuple[Tensor, Tensor]]:
        """Match predictions with targets whose masks may be tensors; see `match`.

        Args:
            outputs: as of `match`.
            targets: for each image ``labels`` (N,) in [0, K) and ``masks``: PackedMasks, or a
                tensor of booleans (N, H', W').
        """
        return self.match(outputs, packed_targets(targets))

    @torch.no_grad()
    def match(
        self, outputs: dict[str, Tensor], targets: Sequence[Target], name: str = "outputs"
    ) -> list[tuple[Tensor, Tensor]]:
        """Match one prediction of all images.

        Args:
            outputs: ``pred_logits`` (B, Q, K + 1) and ``pred_masks`` (B, Q, H, W).
            targets: of each image.
            name: what to call the prediction in errors.

        Returns:
            For each image the indices of queries (ascending) and of their targets, int64 of
            min(Q, N) elements each, on the CPU.

        Raises:
            FloatingPointError: a cost is NaN or infinite.
        """
        from scipy.optimize import linear_sum_assignment  # takes as long as all of this package

        masks = outputs["pred_masks"]
        regions = regions_of(targets)
        points = draw_points([1] * len(masks), self.num_points, regions, masks.device)  # (B, P, 2)
        terms = [
            self._costs(*image)
            for image in zip(outputs["pred_logits"], masks, targets, points, strict=True)
        ]
        costs = [
            torch.stack([self.weights[key] * cost for key, cost in term.items()]).sum(0)
            for term in terms
        ]
        # one transfer for the whole batch
        flat = torch.cat([cost.flatten() for cost in costs]).cpu()
        if not flat.isfinite().all():
            raise FloatingPointError(_explain_non_finite(terms, targets, name))
        matches = []
        for cost, part in zip(costs, flat.split([c.numel() for c in costs]), strict=True):
            rows, columns = linear_sum_assignment(part.view(cost.shape).numpy())
            matches.append((torch.from_numpy(rows).long(), torch.from_numpy(columns).long()))
        return matches

    def _costs(
        self, logits: Tensor, masks: Tensor, target: Target, points: Tensor
    ) -> dict[str, Tensor]:
        """Return the unweighted costs of one image at (P, 2) points, (Q, N) each."""
        with torch.autocast(logits.device.type, enabled=False):
            probs = logits.float().softmax(-1)
            predicted = sample_shared_points(masks, points)
            wanted = sample_target(target, points)
            entropy, dice = pairwise_mask_losses(predicted, wanted)
            return {"class": -probs[:, target["labels"]], "mask": entropy, "dice": dice}


def _explain_non_finite(
    terms: list[dict[str, Tensor]], targets: Sequence[Target], name: str
) -> str:
    found = [
        f"the {key} cost of image {image} of the batch "
        f"({int((~cost.isfinite()).sum())} of {cost.numel()} values, "
        f"{len(target['labels'])} targets)"
        for image, (term, target) in enumerate(zip(terms, targets, strict=True))
        for key, cost in term.items()
        if not cost.isfinite().all()
    ]
    where = f"iteration {get_event_storage().iter}" if has_event_storage() else "matching"
    suspects = {"class": "loss_ce", "mask": "loss_mask", "dice": "loss_dice"}
    losses = [loss for key, loss in suspects.items() if any(f"the {key} cost" in f for f in found)]
    return (
        f"NaN or infinite matching cost at {where}, in {name}: {'; '.join(found)}. Look at the "
        f"curve of {' and '.join(losses)} before it. The weights have most likely diverged: resume "
        "from an earlier checkpoint with a lower SOLVER.BASE_LR or a longer warm-up; if it came "
        "under mixed precision, try SOLVER.AMP.ENABLED False."
    )
