"""The mean of the predictions of queries over several views of one image.

Shapes:
    Q: queries per view, C: objects, K: classes, h, w: size of the first view's mask logits.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..modeling.query_prediction import QueryPrediction

# Masks of two views can show the same object from this overlap on (`mask_overlap`). For binary
# masks it equals an IoU of 1/2, above which a match is unique (arXiv 1801.00868).
MIN_OVERLAP = 2 / 3


class QueryEnsemble:
    """Combines views of an image, object by object.

    An object is a group of queries, at most one per view. The Hungarian algorithm assigns the
    queries of each new view to the objects found so far. A query whose mask agrees with no object
    starts a new one. The Q objects with the highest class probability are kept.

    The mask logits of an object are the mean over its queries, and so are the logarithms of its
    class probabilities. A view that does not show the object counts as a certain "no object". The
    result of a single view is that view, bit for bit; equal views give the same result as one.

    Args:
        first: the prediction that sets the order of queries, the grid of masks and the sizes.
    """

    def __init__(self, first: QueryPrediction):
        self.first = first
        self.views = 1
        # For each object, the number of its queries and the sums over them.
        self._members = torch.ones(len(first.class_logits), device=first.class_logits.device)  # (C)
        self._classes = first.class_logits.float().log_softmax(-1)  # (C, K + 1)
        self._masks = first.mask_logits.float().clone()  # (C, h, w)

    @torch.no_grad()
    def add(self, prediction: QueryPrediction, *, flipped: bool) -> None:
        """Add a view.

        Args:
            prediction: the prediction for the same image, resized to any size and then padded.
            flipped: whether the image was flipped horizontally before it was padded.
        """
        with torch.autocast(prediction.mask_logits.device.type, enabled=False):
            self._add(
                prediction.class_logits.float().log_softmax(-1),
                resampled(prediction, self.first, flipped=flipped),
            )

    def _add(self, classes: Tensor, masks: Tensor) -> None:
        objects, queries = self._assign(classes, masks)
        self.views += 1
        self._members[objects] += 1
        self._classes[objects] += classes[queries]
        self._masks[objects] += masks[queries]

        new = torch.ones(len(classes), dtype=torch.bool, device=classes.device)
        new[queries] = False
        if not new.any():
            return
        self._members = torch.cat((self._members, torch.ones_like(classes[new, 0])))
        self._classes = torch.cat((self._classes, classes[new]))
        self._masks = torch.cat((self._masks, masks[new]))
        likeliest = self._probabilities()[:, :-1].sum(-1).topk(len(classes)).indices.sort().values
        self._members = self._members[likeliest]
        self._classes = self._classes[likeliest]
        self._masks = self._masks[likeliest]

    def _assign(self, classes: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Match queries, given as (Q, K + 1) and (Q, h, w), to objects.

        Returns:
            Indices of objects, and of the queries that show them.
        """
        from scipy.optimize import linear_sum_assignment

        means = self._masks / self._members[:, None, None]
        overlap = mask_overlap(means.sigmoid_(), masks.sigmoid())
        # Bhattacharyya's coefficient, 1 for equal distributions
        mean_classes = (self._classes / self._members[:, None]).softmax(-1)
        affinity = mean_classes.sqrt() @ classes.exp().sqrt().T
        # Only equal queries minimise both terms, so equal views are assigned one to one. All pairs
        # that do not match have the same cost, which is above that of any match.
        cost = ((1 - affinity) + (1 - overlap)).where(overlap >= MIN_OVERLAP, 2.0)
        rows, columns = linear_sum_assignment(cost.cpu().numpy())
        objects = torch.from_numpy(rows).to(masks.device)
        queries = torch.from_numpy(columns).to(masks.device)
        matched = overlap[objects, queries] >= MIN_OVERLAP
        return objects[matched], queries[matched]

    def _probabilities(self) -> Tensor:
        """Return the class probabilities of the objects (C, K + 1)."""
        shown = (self._members / self.views)[:, None]
        probabilities = (self._classes / self._members[:, None]).softmax(-1) * shown
        probabilities[:, -1:] += 1 - shown
        return probabilities

    def result(self) -> QueryPrediction:
        """Return the mean so far, as one prediction with Q queries."""
        if self.views == 1:
            return self.first
        return QueryPrediction(
            class_logits=self._probabilities().log(),
            mask_logits=self._masks / self._members[:, None, None],
            padded_size=self.first.padded_size,
            image_size=self.first.image_size,
        )


def mask_overlap(a: Tensor, b: Tensor) -> Tensor:
    """Compute 2 <a, b> / (|a|^2 + |b|^2) for every pair of masks: (C, h, w), (Q, h, w) to (C, Q).

    The overlap is in [0, 1] and, unlike Dice, is 1 only for equal masks. Two empty masks are equal.
    """
    a, b = a.flatten(1), b.flatten(1)
    nothing = 1e-3  # in pixels
    squares = a.square().sum(1)[:, None] + b.square().sum(1)
    return (2 * a @ b.T + nothing) / (squares + nothing)


def resampled(prediction: QueryPrediction, like: QueryPrediction, *, flipped: bool) -> Tensor:
    """Resample the mask logits of one view onto the grid of another: (Q, h, w), float32.

    Args:
        prediction: for an image after a resize, perhaps a flip, and then padding.
        like: for the same image after another resize and padding.
        flipped: whether the image of `prediction` was flipped horizontally.
    """
    masks = prediction.mask_logits.float()
    grids = (prediction, like)
    if (
        not flipped
        and len({(p.padded_size, p.image_size, p.mask_logits.shape) for p in grids}) == 1
    ):
        return masks
    axes = []  # the position of each row and column of the result, as a share of the padded input
    for axis in (0, 1):
        cells = like.mask_logits.shape[1 + axis]
        centres = (torch.arange(cells, device=masks.device) + 0.5) / cells
        # As a share of the image. Positions in the padding are above 1; there the other view has
        # padding too, or the value at its border.
        centres = centres * (like.padded_size[axis] / like.image_size[axis])
        if flipped and axis == 1:
            centres = 1 - centres
        axes.append(centres * (prediction.image_size[axis] / prediction.padded_size[axis]))
    y, x = torch.meshgrid(*axes, indexing="ij")
    grid = 2 * torch.stack((x, y), dim=-1) - 1
    return F.grid_sample(masks[None], grid[None], padding_mode="border", align_corners=False)[0]
