"""Mask-piloted training (MP-Former, arXiv 2303.07336): extra queries made of the ground truth.

A pilot is a query that is told what to find: it starts as the embedding of the class of a target,
and attends within the target's mask, both with noise. Its prediction is compared with that target,
without matching. The model's own queries do not see the pilots, which exist in training only.

Shapes:
    B: batch, Q: the model's own queries, T: pilots of an image with padding, N: targets of an
    image, M: pilots of an image, C: channels, S: positions of a map, H, W: size of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..utils.size import Size
from .draws import rand
from .losses import sample_points
from .targets import Target

NOISES = ("point", "shift", "scale")
_PADDING = -1  # the group of what only fills up the batch


class Pilots(NamedTuple):
    """The pilots of a batch. Images that have fewer than others are padded."""

    queries: Tensor
    """(B, T, C), T at least 1."""
    masks: list[Tensor]
    """For each map, where pilots may attend: bool (B, T, S), at least once for each."""
    groups: Tensor
    """(B, T), from 1, or -1 for padding."""
    matches: list[tuple[Tensor, Tensor]]
    """For each image its pilots, and the index of the target of each, (M,) both."""
    mask_layers: int
    """How many layers attend within `masks`. The others attend within the pilots' predictions."""

    def visible(self, num_queries: int) -> Tensor:
        """Return who sees whom in self-attention: bool (B, Q + T, Q + T), from row to column.

        Everyone sees the model's queries. Besides, pilots see those of their group.
        """
        groups = F.pad(self.groups, (num_queries, 0))  # 0 is the group of the model's queries
        return (groups[:, None] == 0) | (groups[:, None] == groups[:, :, None])


class PilotedQueries(nn.Module):
    """Makes pilots of targets.

    Each group has one pilot for each target. If there are too many, an image has fewer groups, and
    at last one group of targets drawn at random.

    Args:
        num_classes: classes without "no object".
        dim: C.
        groups: groups per image, at least 1.
        max_queries: most pilots per image, at least 1.
        label_noise: share of pilots, 0 to 1, that get the embedding of a random class.
        noise: "point", "shift" or "scale", see `noisy_masks`.
        mask_noise: its strength, 0 to 1.
        mask_layers: how many layers of the decoder, from the first, attend within the given masks.
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        groups: int,
        max_queries: int,
        label_noise: float,
        noise: str,
        mask_noise: float,
        mask_layers: int,
    ):
        super().__init__()
        if noise not in NOISES:
            raise ValueError(f"the noise of piloted masks is one of {NOISES}, got {noise!r}")
        self.groups, self.max_queries = groups, max_queries
        self.label_noise, self.noise, self.mask_noise = label_noise, noise, mask_noise
        self.mask_layers = mask_layers
        self.class_queries = nn.Embedding(num_classes, dim)

    def forward(self, targets: Sequence[Target], size: Size, sizes: Sequence[Size]) -> Pilots:
        """Make the pilots of a batch.

        Args:
            targets: of each image.
            size: (H, W) of the mask features, at which masks are read.
            sizes: (H, W) of each map that the decoder attends to.
        """
        device = self.class_queries.weight.device
        indices, groups = self._plan(targets, device)
        counts = [len(image) for image in indices]
        labels = torch.cat([t["labels"][i] for t, i in zip(targets, indices, strict=True)])
        masks = noisy_masks(
            targets, indices, size, sizes, noise=self.noise, strength=self.mask_noise
        )
        queries = self.class_queries(self._noisy_labels(labels, counts))  # (sum of M, C)
        most = max(1, *counts)

        def padded(rows: Tensor, value: float) -> Tensor:
            """Turn the rows of all images (sum of M, ...) into (B, T, ...)."""
            filled = [F.pad(x, (0,) * (2 * x.ndim - 1) + (most - len(x),), value=value)
                      for x in rows.split(counts)]  # fmt: skip
            return torch.stack(filled)

        # With this in a loss, the embedding has a gradient in a batch without targets too.
        anchor = self.class_queries.weight[:1].sum() * 0.0
        return Pilots(
            queries=padded(queries, 0.0) + anchor,
            masks=[padded(m, True) for m in masks],
            groups=padded(torch.cat(groups), _PADDING),
            matches=[(torch.arange(len(image), device=device), image) for image in indices],
            mask_layers=self.mask_layers,
        )

    def _plan(
        self, targets: Sequence[Target], device: torch.device
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the target and the group of each pilot, (M,) for each image."""
        counts = [len(target["labels"]) for target in targets]
        crowded = [n if n > self.max_queries else 0 for n in counts]
        lots = rand(crowded, device=device).split(crowded)
        indices, groups = [], []
        for n, lot in zip(counts, lots, strict=True):
            chosen = (
                lot.argsort()[: self.max_queries] if len(lot) else torch.arange(n, device=device)
            )
            repeats = min(self.groups, self.max_queries // max(1, len(chosen)))
            indices.append(chosen.repeat(repeats))
            numbers = torch.arange(1, repeats + 1, device=device)
            groups.append(numbers.repeat_interleave(len(chosen)))
        return indices, groups

    def _noisy_labels(self, labels: Tensor, counts: Sequence[int]) -> Tensor:
        """Replace some labels by random ones, which may happen to be the same."""
        hit, lot = rand(counts, 2, device=labels.device).unbind(1)
        random_labels = (lot * self.class_queries.num_embeddings).long()
        return torch.where(hit < self.label_noise, random_labels, labels)


@torch.no_grad()
def noisy_masks(
    targets: Sequence[Target],
    indices: Sequence[Tensor],
    size: Size,
    sizes: Sequence[Size],
    *,
    noise: str,
    strength: float,
) -> list[Tensor]:
    """Return where pilots may attend in each map, from masks with noise.

    A position of a map is inside a mask if at least half of it is. Of a mask that covers less
    everywhere, what it covers most counts: at least half as much as its most covered position. A
    mask without pixels allows everything, like an empty prediction in the decoder.

    Args:
        targets: of each image.
        indices: which target each pilot is of, (M,) for each image.
        size: (H, W) at which masks are read, the same or finer than those of the maps.
        sizes: (H, W) of each map.
        noise: "point" turns random positions of a map over, on average ``strength`` times as many
            as the mask has. "shift" moves a mask by up to ``strength`` times half its box's width
            and height. "scale" resizes it about the centre of its box by a factor between
            1 / (1 + ``strength``) and 1 + ``strength``.
        strength: 0 to 1; 0 is without noise.

    Returns:
        For each map bool (sum of M, S).
    """
    device, counts = targets[0]["labels"].device, [len(i) for i in indices]
    grid = _grid(size, device)
    read = [
        t["masks"].sample(grid)[i].unflatten(1, size) for t, i in zip(targets, indices, strict=True)
    ]
    masks = torch.cat(read)  # (sum of M, H, W)
    if noise != "point" and strength > 0:
        boxes = torch.cat(
            [_relative_boxes(t)[i] for t, i in zip(targets, indices, strict=True)]
        )  # (sum of M, 2, 2)
        centres, extents = boxes.mean(1), boxes[:, 1] - boxes[:, 0]
        lots = 2 * rand(counts, 2, device=device) - 1
        if noise == "shift":
            points = grid - (lots * strength * extents / 2)[:, None]
        else:
            factors = (1 + strength) ** lots[:, :1]
            points = centres[:, None] + (grid - centres[:, None]) / factors[:, None]
        masks = sample_points(masks, points).unflatten(1, size)
    found = []
    for shape in sizes:
        cover = F.adaptive_avg_pool2d(masks, shape).flatten(1)
        inside = (cover > 0) & (cover >= cover.amax(1, keepdim=True).clamp(max=1.0) / 2)
        if noise == "point" and strength > 0:
            share = strength * inside.float().mean(1, keepdim=True)
            inside ^= rand(counts, inside.shape[1], device=device) < share
        found.append(inside | ~inside.any(1, keepdim=True))
    return found


def _grid(size: Size, device: torch.device) -> Tensor:
    """Return the centres (x, y) of the pixels of a map, in [0, 1]: (H * W, 2)."""
    y, x = ((torch.arange(n, device=device) + 0.5) / n for n in size)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)


def _relative_boxes(target: Target) -> Tensor:
    """Return the corners of the boxes of masks, (x, y) in [0, 1]: (N, 2, 2)."""
    height, width = target["masks"].image_size
    boxes = target["masks"].get_bounding_boxes().tensor.unflatten(1, (2, 2))
    return boxes / boxes.new_tensor([width, height])
