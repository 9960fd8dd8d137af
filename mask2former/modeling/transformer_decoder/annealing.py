"""Mask annealing (EoMT, arXiv 2503.19108, section 3.3): training ends without attention masks.

Masked attention helps queries to learn, but costs time: a mask is predicted before every layer. In
annealing, queries attend within their masks with a probability that falls from 1 to 0, one layer
after another. Where it is 0, inference needs no mask.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from ..draws import rand


class MaskAnnealing(nn.Module):
    """Knows in which layers queries attend within their masks, in training and after it.

    Between `start` and `end`, each layer has a part of the schedule of its own, from the first to
    the last. In layer i, the probability is ``(1 - t) ** power``, where t grows from 0 to 1 in part
    i. It depends on the iteration alone, which is that of Detectron2's `EventStorage`.

    Checkpoints contain in which layers inference uses masks: those whose probability was at least
    one half in the last iteration of training. So a model predicts as it was trained, whatever the
    config says and whenever training ended. Weights that do not say it were trained with masks.

    Args:
        num_layers: layers of the decoder.
        start: share of the schedule, 0 to 1, that comes before the annealing.
        end: share of the schedule, `start` to 1, after which no query attends within a mask.
        power: above 0.
        max_iter: iterations of the whole schedule.
    """

    masked: Tensor

    def __init__(self, num_layers: int, *, start: float, end: float, power: float, max_iter: int):
        super().__init__()
        self.start, self.end, self.power, self.max_iter = start, end, power, max_iter
        # Not a float, which an average of the weights would take the mean of
        self.register_buffer("masked", torch.ones(num_layers, dtype=torch.bool))
        self._masked = [True] * num_layers  # the same, where reading it does not wait for a GPU

    @staticmethod
    def arguments(cfg: CfgNode) -> dict[str, Any] | None:
        """Return constructor arguments from a config, or None if it is off."""
        annealing = cfg.MODEL.MASK_FORMER.ANNEALING
        if not annealing.ENABLED:
            return None
        return {
            "start": annealing.START,
            "end": annealing.END,
            "power": annealing.POWER,
            "max_iter": cfg.SOLVER.MAX_ITER,
        }

    def forward(self) -> list[float]:
        """Return the probability of each layer that a query attends within its mask, 0 to 1.

        In inference it is 0 or 1.

        Raises:
            RuntimeError: in training, there is no `EventStorage` that counts the iterations.
        """
        if not self.training:
            return [float(masked) for masked in self._masked]
        if not has_event_storage():
            raise RuntimeError(
                "MODEL.MASK_FORMER.ANNEALING needs to know the iteration: train within "
                "detectron2.utils.events.EventStorage, and set its iter"
            )
        found = self.probabilities(get_event_storage().iter)
        masked = [p >= 0.5 for p in found]
        if masked != self._masked:
            self._masked = masked
            self.masked.copy_(torch.tensor(masked))
        return found

    def probabilities(self, iteration: int) -> list[float]:
        """Return the probability of each layer in an iteration, counted from 0."""
        n = len(self._masked)
        done = (iteration + 1) / self.max_iter
        if done >= self.end:
            return [0.0] * n
        if done <= self.start:
            return [1.0] * n
        parts = n * (done - self.start) / (self.end - self.start)  # so many are behind us
        return [(1 - min(max(parts - i, 0.0), 1.0)) ** self.power for i in range(n)]

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        if f"{prefix}masked" not in state_dict:
            self.masked.fill_(True)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._masked = self.masked.tolist()


def drop_masks(allowed: Tensor, probability: float) -> None:
    """Let some queries attend everywhere, in place.

    Args:
        allowed: bool (B, Q, S), where each query may attend.
        probability: that a query keeps its mask. Each query of each image draws.
    """
    if probability < 1:
        B, Q, _ = allowed.shape
        kept = rand([Q] * B, device=allowed.device) < probability
        allowed |= ~kept.view(B, Q, 1)
