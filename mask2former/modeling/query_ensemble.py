"""The mean of what queries predict for several views of one image.

Shapes:
    Q: queries of a view, C: objects, K: classes, h, w: size of the mask logits of the first view.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from .query_prediction import QueryPrediction

# Overlap (`mask_overlap`) from which masks of two views can be of one object. For binary masks it
# is an intersection over union of 1/2, above which a match is unique (arXiv 1801.00868).
MIN_OVERLAP = 2 / 3


class QueryEnsemble:
    """Brings views of an image together, object by object.

    An object is a group of queries, at most one of each view. Each new view's queries are assigned
    to the objects so far by the Hungarian algorithm; a query whose mask agrees with none opens an
    object of its own. Of the objects, the Q with the most class probability are kept. The mask of
    an object is the mean of the probabilities of its queries; its classes are the mean over all
    views, where a view that does not show it says "no object".

    Equal views give what one gives. A single view stays as it is, bit for bit.

    Args:
        first: the prediction whose order of queries, grid of masks and sizes the result has.
    """

    def __init__(self, first: QueryPrediction):
        self.first = first
        self.views = 1
        self._members = torch.ones(len(first.class_logits), device=first.class_logits.device)  # (C)
        # Sums over members. Those of masks as logarithms, lest probabilities near 1 be rounded to
        # it: the resize that follows mixes logits.
        self._classes = first.class_logits.float().softmax(-1)  # (C, K + 1)
        self._inside = F.logsigmoid(first.mask_logits.float())  # (C, h, w)
        self._outside = F.logsigmoid(-first.mask_logits.float())

    @torch.no_grad()
    def add(self, prediction: QueryPrediction, *, flipped: bool) -> None:
        """Take a view in.

        Args:
            prediction: for the same image, resized to any size and then padded.
            flipped: whether the image was flipped horizontally before it was padded.
        """
        with torch.autocast(prediction.mask_logits.device.type, enabled=False):
            self._add(
                prediction.class_logits.float().softmax(-1),
                resampled(prediction, self.first, flipped=flipped),
            )

    def _add(self, classes: Tensor, masks: Tensor) -> None:
        objects, queries = self._assign(classes, masks.sigmoid())
        inside, outside = F.logsigmoid(masks), F.logsigmoid(-masks)
        self.views += 1
        self._members[objects] += 1
        self._classes[objects] += classes[queries]
        self._inside[objects] = self._inside[objects].logaddexp(inside[queries])
        self._outside[objects] = self._outside[objects].logaddexp(outside[queries])

        new = torch.ones(len(classes), dtype=torch.bool, device=classes.device)
        new[queries] = False
        if not new.any():
            return
        # of those so far and the new ones, the likeliest
        evidence = torch.cat((self._members - self._classes[:, -1], 1 - classes[new, -1]))
        kept = evidence.topk(len(classes)).indices.sort().values
        self._members = torch.cat((self._members, torch.ones_like(classes[new, -1])))[kept]
        self._classes = torch.cat((self._classes, classes[new]))[kept]
        self._inside = torch.cat((self._inside, inside[new]))[kept]
        self._outside = torch.cat((self._outside, outside[new]))[kept]

    def _assign(self, classes: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Objects and the queries that show them, given probabilities (Q, K + 1) and (Q, h, w)."""
        overlap = mask_overlap((self._inside - self._outside).sigmoid(), masks)
        # Bhattacharyya's coefficient, 1 for equal distributions
        affinity = (self._classes / self._members[:, None]).sqrt() @ classes.sqrt().T
        # Both terms are least for equals alone, so that equal views are assigned one to one. Pairs
        # that are no match cost the same whatever they are, and more than any that is one.
        cost = ((1 - affinity) + (1 - overlap)).where(overlap >= MIN_OVERLAP, 2.0)
        rows, columns = linear_sum_assignment(cost.cpu().numpy())
        objects = torch.from_numpy(rows).to(masks.device)
        queries = torch.from_numpy(columns).to(masks.device)
        matched = overlap[objects, queries] >= MIN_OVERLAP
        return objects[matched], queries[matched]

    def result(self) -> QueryPrediction:
        """The mean so far, as the prediction of the first view's queries."""
        if self.views == 1:
            return self.first
        classes = self._classes / self.views
        classes[:, -1] += 1 - self._members / self.views
        return QueryPrediction(
            class_logits=classes.log(),
            mask_logits=self._inside - self._outside,
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
