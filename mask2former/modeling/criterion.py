"""The training loss of Mask2Former (arXiv 2112.01527, section 3.3).

Shapes:
    B: batch, Q: queries, K: classes, N: targets per image, M: matched pairs of the batch,
    P: points, H, W: size of masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from detectron2.utils.comm import get_world_size
from torch import Tensor, nn
from torch.nn import functional as F

from .losses import mask_losses, sample_points, uncertain_points
from .matcher import HungarianMatcher
from .ops.cpu_kernels import cpu_kernel
from .targets import Target, packed_targets, regions_of, sample_target

Matches = list[tuple[Tensor, Tensor]]

_NOT_TRAINED = -100  # the class of queries that have no loss, see `F.cross_entropy`

_alone: ContextVar[bool] = ContextVar("_alone", default=False)


class SetCriterion(nn.Module):
    """Classification and mask losses of every prediction, each matched to the targets on its own.

    In images that have a `LabelledRegion`, masks are compared within it. A query that matches
    nothing, and more than half of whose mask is on unknown pixels, has no classification loss.

    Args:
        num_classes: K.
        matcher: assigns predictions to targets.
        weight_dict: weight of ``loss_ce``, ``loss_mask`` and ``loss_dice``.
        deep_supervision: whether auxiliary predictions are trained too.
        no_object_weight: weight of "no object" among the classes.
        num_points: P.
        oversample_ratio: how many random points to choose the uncertain ones from, times P.
        importance_sample_ratio: share of uncertain points among P.
        class_weights: weight of each of the K classes in the classification loss; None is 1.

    Raises:
        ValueError: there are not K class weights.
    """

    empty_weight: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        matcher: HungarianMatcher,
        weight_dict: dict[str, float],
        deep_supervision: bool,
        no_object_weight: float,
        num_points: int,
        oversample_ratio: float,
        importance_sample_ratio: float,
        class_weights: Sequence[float] | None = None,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.matcher = matcher
        self.weight_dict = weight_dict
        self.deep_supervision = deep_supervision
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_sample_ratio = importance_sample_ratio
        empty_weight = torch.ones(num_classes + 1)
        empty_weight[-1] = no_object_weight
        self._given_weights = class_weights is not None
        if class_weights is not None:
            if len(class_weights) != num_classes:
                raise ValueError(
                    f"MODEL.MASK_FORMER.CLASS_LOSS_WEIGHTS has {len(class_weights)} numbers; the "
                    f"model has {num_classes} classes"
                )
            empty_weight[:-1] = torch.tensor(class_weights)
        self.register_buffer("empty_weight", empty_weight)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Keep weights of classes that the config gives; a file's are of another training."""
        if self._given_weights and f"{prefix}empty_weight" in state_dict:
            state_dict[f"{prefix}empty_weight"] = self.empty_weight.clone()
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(
        self, outputs: dict[str, Any], targets: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        """Compute the weighted losses.

        Args:
            outputs: ``pred_logits`` (B, Q, K + 1), ``pred_masks`` (B, Q, H, W), and optionally
                ``aux_outputs``, a list of such dicts, and ``piloted``, see
                `MultiScaleMaskedTransformerDecoder.forward`.
            targets: for each image ``labels`` (N,) in [0, K) and ``masks``: PackedMasks, or a
                tensor of booleans (N, H', W'), of the size of the network's input. Optionally
                ``region``, see `Target`.

        Returns:
            Scalars ``loss_ce``, ``loss_mask``, ``loss_dice`` of the last prediction, and each with
            the suffix ``_{i}`` of auxiliary prediction i. With ``piloted``, those of the pilots
            have the names ``loss_ce_mp``, ``loss_mask_mp`` and ``loss_dice_mp`` before the suffix.
        """
        packed = packed_targets(targets)
        count = torch.tensor(float(sum(len(target["labels"]) for target in packed)))
        num_masks = _share(count.to(outputs["pred_logits"].device), least=1.0).item()
        losses = self._losses(outputs, packed, num_masks, suffix="")
        auxiliaries = outputs.get("aux_outputs", ()) if self.deep_supervision else ()
        for i, auxiliary in enumerate(auxiliaries):
            losses.update(self._losses(auxiliary, packed, num_masks, suffix=f"_{i}"))
        if "piloted" in outputs:
            losses.update(self._piloted_losses(packed, **outputs["piloted"]))
        return losses

    def _piloted_losses(
        self, targets: list[Target], outputs: list[dict[str, Tensor]], matches: Matches
    ) -> dict[str, Tensor]:
        """Return the losses of pilots, each a mean over pilots, of one prediction per layer."""
        count = torch.tensor(float(sum(len(pilots) for pilots, _ in matches)))
        num_pilots = _share(count.to(outputs[-1]["pred_logits"].device), least=1.0).item()
        labels = torch.cat([t["labels"][i] for t, (_, i) in zip(targets, matches, strict=True)])
        weights = self.empty_weight
        total_weight = _share(weights[labels].sum(), least=1e-6).item()
        losses: dict[str, Tensor] = {}
        for number, output in enumerate(outputs, start=1):
            last = number == len(outputs)
            if not last and not self.deep_supervision:
                continue
            logits = output["pred_logits"]
            with torch.autocast(logits.device.type, enabled=False):
                logits = torch.cat([x[m] for x, (m, _) in zip(logits, matches, strict=True)])
                loss_mask, loss_dice = self._mask_losses(
                    output["pred_masks"], targets, matches, num_pilots
                )
                terms = {
                    "loss_ce": F.cross_entropy(logits.float(), labels, weights, reduction="sum")
                    / total_weight,
                    "loss_mask": loss_mask,
                    "loss_dice": loss_dice,
                }
            suffix = "_mp" if last else f"_mp_{number}"
            losses |= {key + suffix: self.weight_dict[key] * x for key, x in terms.items()}
        return losses

    def _losses(
        self,
        outputs: dict[str, Tensor],
        targets: list[Target],
        num_masks: float,
        suffix: str,
    ) -> dict[str, Tensor]:
        name = f"auxiliary prediction {suffix[1:]}" if suffix else "the last prediction"
        matches = self.matcher.match(outputs, targets, name)
        with torch.autocast(outputs["pred_logits"].device.type, enabled=False):
            loss_mask, loss_dice = self._mask_losses(
                outputs["pred_masks"], targets, matches, num_masks
            )
            losses = {
                "loss_ce": self._class_loss(outputs, targets, matches),
                "loss_mask": loss_mask,
                "loss_dice": loss_dice,
            }
        return {key + suffix: self.weight_dict[key] * loss for key, loss in losses.items()}

    def _class_loss(
        self, outputs: dict[str, Tensor], targets: list[Target], matches: Matches
    ) -> Tensor:
        """Return the cross-entropy, with "no object" for the queries that are not matched."""
        logits, masks = outputs["pred_logits"], outputs["pred_masks"].detach()
        wanted = torch.full(logits.shape[:2], self.num_classes, device=logits.device)  # (B, Q)
        for row, image_masks, region in zip(wanted, masks, regions_of(targets), strict=True):
            if region is not None:
                row[region.mostly_ignored(image_masks)] = _NOT_TRAINED
        for row, target, (queries, indices) in zip(wanted, targets, matches, strict=True):
            row[queries.to(row.device)] = target["labels"][indices.to(row.device)]
        logits = logits.float().transpose(1, 2)  # (B, K + 1, Q)
        total = F.cross_entropy(
            logits, wanted, self.empty_weight, ignore_index=_NOT_TRAINED, reduction="sum"
        )
        weights = self.empty_weight[wanted.clamp(min=0)] * (wanted != _NOT_TRAINED)
        return total / _share(weights.sum(), least=1e-6)

    def _mask_losses(
        self, masks: Tensor, targets: list[Target], matches: Matches, num_masks: float
    ) -> tuple[Tensor, Tensor]:
        """Return binary cross-entropy and dice loss of the matched pairs at sampled points."""
        Q, counts = masks.shape[1], [len(queries) for queries, _ in matches]
        if sum(counts) == 0:
            # no target in the batch: keep every parameter in the graph, as DDP requires
            zero = masks.sum() * 0.0
            return zero, zero
        predicted = masks.flatten(0, 1)  # (B * Q, H, W)
        of: Tensor | None = torch.cat(
            [queries + Q * image for image, (queries, _) in enumerate(matches)]
        ).to(masks.device)  # (M,)
        if cpu_kernel("sample_maps", predicted.detach()) is None:
            predicted, of = predicted[of].float(), None  # once for all that follows
        points = uncertain_points(
            predicted,
            self.num_points,
            self.oversample_ratio,
            self.importance_sample_ratio,
            counts,
            of,
            regions_of(targets),
        )  # (M, P, 2)
        with torch.no_grad():
            parts = points.split(counts)
            wanted = torch.cat(
                [
                    sample_target(target, part, indices)
                    for target, (_, indices), part in zip(targets, matches, parts, strict=True)
                    if len(indices)
                ]
            )  # (M, P)
        logits = sample_points(predicted, points, of)
        return mask_losses(logits, wanted, num_masks)


def _share(amount: Tensor, least: float) -> Tensor:
    """Return the average over processes of what the losses of a batch are divided by.

    With it, the average over processes of a loss is the loss of all their images together.

    Args:
        amount: of this process, a scalar.
        least: of all processes together.
    """
    world_size = 1 if _alone.get() else get_world_size()
    if world_size > 1:
        amount = amount.clone()
        torch.distributed.all_reduce(amount)
    return amount.clamp(min=least) / world_size


@contextmanager
def losses_of_this_process() -> Iterator[None]:
    """Within the block, compute losses as if there were no other processes."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)
