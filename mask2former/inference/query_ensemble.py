"""The mean of what queries predict for several views of one image.

Shapes:
    Q: queries of a view, C: objects, K: classes, h, w: size of the mask logits of the first view.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from ..modeling.query_prediction import QueryPrediction

# Overlap (`mask_overlap`) from which masks of two views can be of one object. For binary masks it
# is an intersection over union of 1/2, above which a match is unique (arXiv 1801.00868).
MIN_OVERLAP = 2 / 3


class QueryEnsemble:
    """Brings views of an image together, object by object.

    An object is a group of queries, at most one of each view. Each new view's queries are assigned
    to the objects so far by the Hungarian algorithm; a query whose mask agrees with none opens an
    object of its own. Of the objects, the Q with the most class probability are kept.

    Mask logits of an object are the mean over its queries, and so are logarithms of class
    probabilities; a view that does not show the object says "no object" for certain. A single view
    stays as it is, bit for bit, and equal views give what one gives.

    Args:
        first: the prediction whose order of queries, grid of masks and sizes the result has.
    """

    def __init__(self, first: QueryPrediction):
        self.first = first
        self.views = 1
        # of each object the number of queries, and their sums
        self._members = torch.ones(len(first.class_logits), device=first.class_logits.device)  # (C)
        self._classes = first.class_logits.float().log_softmax(-1)  # (C, K + 1)
        self._masks = first.mask_logits.float().clone()  # (C, h, w)

    @torch.no_grad()
    def add(self, prediction: QueryPrediction, *, flipped: bool) -> None:
        """Take a view in.

        Args:
            prediction: for the same image, resized to any size and then padded.
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
        """Objects and the queries that show them, given (Q, K + 1) and (Q, h, w)."""
        means = self._masks / self._members[:, None, None]
        overlap = mask_overlap(means.sigmoid_(), masks.sigmoid())
        # Bhattacharyya's coefficient, 1 for equal distributions
        mean_classes = (self._classes / self._members[:, None]).softmax(-1)
        affinity = mean_classes.sqrt() @ classes.exp().sqrt().T
        # Both terms are least for equals alone, so that equal views are assigned one to one. Pairs
        # that are no match cost the same whatever they are, and more than any that is one.
        cost = ((1 - affinity) + (1 - overlap)).where(overlap >= MIN_OVERLAP, 2.0)
        rows, columns = linear_sum_assignment(cost.cpu().numpy())
        objects = torch.from_numpy(rows).to(masks.device)
        queries = torch.from_numpy(columns).to(masks.device)
        matched = overlap[objects, queries] >= MIN_OVERLAP
        return objects[matched], queries[matched]

    def _probabilities(self) -> Tensor:
        """Class probabilities of the objects (C, K + 1)."""
        shown = (self._members / self.views)[:, None]
        probabilities = (self._classes / self._members[:, None]).softmax(-1) * shown
        probabilities[:, -1:] += 1 - shown
        return probabilities

    def result(self) -> QueryPrediction:
        """The mean so far, as one prediction of Q queries."""
        if self.views == 1:
            return self.first
        return QueryPrediction(
            class_logits=self._probabilities().log(),
            mask_logits=self._masks / self._members[:, None, None],
            padded_size=self.first.padded_size,
            image_size=self.first.image_size,
        )


def mask_overlap(a: Tensor, b: Tensor) -> Tensor:
    """2 <a, b> / (|a|^2 + |b|^2) of every pair of masks: (C, h, w), (Q, h, w) to (C, Q).

    In [0, 1], and 1 for equal masks alone, unlike the dice loss. Two empty masks are equal.
    """
    a, b = a.flatten(1), b.flatten(1)
    nothing = 1e-3  # in pixels
    squares = a.square().sum(1)[:, None] + b.square().sum(1)
    return (2 * a @ b.T + nothing) / (squares + nothing)


def resampled(prediction: QueryPrediction, like: QueryPrediction, *, flipped: bool) -> Tensor:
    """Mask logits of one view on the grid of another's: (Q, h, w), float32.

    Args:
        prediction: of an image, after a resize, perhaps a flip, and then padding.
        like: of the same image, after another resize and padding.
        flipped: whether the first was flipped horizontally.
    """
    masks = prediction.mask_logits.float()
    grids = (prediction, like)
    if (
        not flipped
        and len({(p.padded_size, p.image_size, p.mask_logits.shape) for p in grids}) == 1
    ):
        return masks
    axes = []  # where each row and column of the wanted grid is, as a share of the padded input
    for axis in (0, 1):
        cells = like.mask_logits.shape[1 + axis]
        centres = (torch.arange(cells, device=masks.device) + 0.5) / cells
        # As a share of the image. Padding is above 1, where the other view has padding, too, or
        # the value at its border.
        centres = centres * (like.padded_size[axis] / like.image_size[axis])
        if flipped and axis == 1:
            centres = 1 - centres
        axes.append(centres * (prediction.image_size[axis] / prediction.padded_size[axis]))
    y, x = torch.meshgrid(*axes, indexing="ij")
    grid = 2 * torch.stack((x, y), dim=-1) - 1
    return F.grid_sample(masks[None], grid[None], padding_mode="border", align_corners=False)[0]
