"""One training step: mixed precision on any device, gradient accumulation, reproducible draws."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..report.run_metrics import GRADIENT_NORM
from ..utils.schema import shown
from .precision import amp_precision
from .resumed_state import check_optimizer

# Pixels of 16-bit files are below this, and training reads 8 bits per channel.
LARGEST_PIXEL = 2**16
CLIPPED_STEPS = "gradient/clipped_steps"  # the metric: the share of the last steps
_LAST_STEPS = 20  # as many as Detectron2's writers smooth the losses over


class TrainLoop(SimpleTrainer):
    """Detectron2's ``SimpleTrainer`` with mixed precision on any device and accumulated gradients.

    Each step seeds the random generators from ``seed``, the iteration and the rank. So the random
    draws of an iteration do not depend on what ran before it, and a resumed run draws the same
    numbers as an uninterrupted run.

    Args:
        model: returns a dict of losses in training mode.
        data_loader: yields one batch per step of accumulation.
        optimizer: clips gradients itself if they must be clipped.
        device_type: "cpu" or "cuda".
        precision: dtype of autocast; None trains in float32.
        accumulate_steps: batches per iteration; their gradients are averaged.
        seed: seed of the whole run.
        rank: number of the process, by default its own.

    Attributes:
        batches: those of the present iteration, as far as it has come.
    """

    @classmethod
    def from_config(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        *,
        seed: int,
        rank: int | None = None,
    ) -> TrainLoop:
        """Build a loop with the device, the precision and the accumulation of a config."""
        return cls(
            model,
            data_loader,
            optimizer,
            device_type=torch.device(cfg.MODEL.DEVICE).type,
            precision=amp_precision(cfg),
            accumulate_steps=cfg.SOLVER.ACCUMULATE_STEPS,
            seed=seed,
            rank=rank,
        )

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        *,
        device_type: str,
        precision: torch.dtype | None,
        accumulate_steps: int,
        seed: int,
        rank: int | None = None,
    ):
        super().__init__(model, data_loader, optimizer)
        if accumulate_steps < 1:
            raise ValueError(f"SOLVER.ACCUMULATE_STEPS must be at least 1, got {accumulate_steps}")
        self.device_type = device_type
        self.precision = precision
        self.accumulate_steps = accumulate_steps
        self.seed = seed
        self.rank = comm.get_rank() if rank is None else rank
        self.batches: list[list[dict[str, Any]]] = []
        self._data_time = 0.0
        # Gradients would underflow in float16. bfloat16 has the range of float32.
        self.grad_scaler = torch.amp.GradScaler(
            device_type, enabled=precision == torch.float16 and device_type == "cuda"
        )
        self._clipped: deque[bool] = deque(maxlen=_LAST_STEPS)

    def run_step(self) -> None:
        """Run one iteration: ``accumulate_steps`` batches and one optimizer step.

        Raises:
            FloatingPointError: a loss, the gradient or a running statistic of a normalisation is
                not finite. The weights and the statistics stay those of the last iteration.
        """
        statistics = [buffer.clone() for buffer in self._statistics()]
        try:
            self._run_step()
        except FloatingPointError:
            for buffer, before in zip(self._statistics(), statistics, strict=True):
                buffer.copy_(before)
            raise

    def _run_step(self) -> None:
        self.optimizer.zero_grad()
        losses = self.compute_gradients()
        self.after_backward()
        images = [sample for batch in self.batches for sample in batch]
        # Before the step, so that the weights stay those of the last good iteration
        self._check_finite(losses, images)
        self._write_metrics(losses, self._data_time)
        if hasattr(self.optimizer, "statistics"):
            self.optimizer.statistics = None  # the scaler may skip a step
        try:
            self.grad_scaler.step(self.optimizer)
        except FloatingPointError as error:
            raise FloatingPointError(
                f"iteration {self.iter}: {error}. {_describe(images)}"
            ) from error
        self.grad_scaler.update()
        self._write_gradient_statistics()
        self.batches = []

    def compute_gradients(self) -> dict[str, torch.Tensor]:
        """Add the gradients of this iteration to those that the parameters have.

        They depend on the weights, the batches, the seed, the iteration and the rank only. With
        mixed precision they are scaled by `grad_scaler`.

        Returns:
            The means of the losses over the batches, which `batches` holds afterwards.
        """
        self._seed_draws()
        losses: dict[str, torch.Tensor] = {}
        self.batches, self._data_time = [], 0.0
        for i in range(self.accumulate_steps):
            start = time.perf_counter()
            data = next(self._data_loader_iter)
            self._data_time += time.perf_counter() - start
            self.batches.append(data)
            last = i == self.accumulate_steps - 1
            try:
                found = self._backward(data, synchronise=last)
            except FloatingPointError as error:
                raise FloatingPointError(f"{error} {_describe(data)}") from error
            for name, loss in found.items():
                losses[name] = losses.get(name, 0.0) + loss.detach() / self.accumulate_steps
        return losses

    def _backward(
        self, data: list[dict[str, Any]], *, synchronise: bool
    ) -> dict[str, torch.Tensor]:
        no_sync = getattr(self.model, "no_sync", contextlib.nullcontext)  # DDP has it
        with contextlib.nullcontext() if synchronise else no_sync():
            with torch.autocast(
                self.device_type, dtype=self.precision, enabled=self.precision is not None
            ):
                losses = self.model(data)
            total = sum(losses.values()) / self.accumulate_steps
            self.grad_scaler.scale(total).backward()
        return losses

    def _write_gradient_statistics(self) -> None:
        found = getattr(self.optimizer, "statistics", None)  # one of your own lacks them
        if found is None:
            return
        self._clipped.append(found.clipped)
        share = sum(self._clipped) / len(self._clipped)
        storage = get_event_storage()
        storage.put_scalar(GRADIENT_NORM, found.norm, cur_iter=self.iter)
        storage.put_scalar(CLIPPED_STEPS, share, smoothing_hint=False, cur_iter=self.iter)

    def _statistics(self) -> list[torch.Tensor]:
        """Return the running means and variances of the model's batch normalisations."""
        layers = (m for m in self.model.modules() if isinstance(m, _BatchNorm))
        return [
            b for layer in layers for b in (layer.running_mean, layer.running_var) if b is not None
        ]

    def _check_finite(self, losses: dict[str, torch.Tensor], data: list[dict[str, Any]]) -> None:
        # Normalised by its own statistics, a huge input has a finite loss.
        values = [*(loss.reshape(1) for loss in losses.values()), *self._statistics()]
        if torch.cat([value.flatten().float() for value in values]).isfinite().all():
            return
        wrong = [f"{name} is {loss.item()}" for name, loss in losses.items() if not loss.isfinite()]
        what = ", ".join(wrong) or "the running statistics of a batch normalisation are not finite"
        raise FloatingPointError(f"iteration {self.iter}: {what}. {_describe(data)}")

    def _seed_draws(self) -> None:
        # torch mixes a seed's bits, so neighbouring seeds give unrelated draws.
        torch.manual_seed((self.seed * 1_000_003 + self.iter) * 4096 + self.rank)

    def state_dict(self) -> dict[str, Any]:
        """Return everything except the model's weights that the rest of the run depends on."""
        return {
            **super().state_dict(),
            "grad_scaler": self.grad_scaler.state_dict(),
            "seed": self.seed,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the result of ``state_dict``; it may lack the scaler and the seed.

        Raises:
            ValueError: the seed or the optimizer's state cannot be those of such a run. A state of
                another shape would have the optimizer write beyond it.
        """
        seed = state_dict.get("seed", self.seed)
        if type(seed) is not int:
            raise ValueError(f"its seed is {shown(seed)}; it must be a whole number")
        check_optimizer(self.optimizer, state_dict.get("optimizer"))
        super().load_state_dict(state_dict)
        if state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
        self.seed = seed


def _describe(data: list[dict[str, Any]]) -> str:
    """Name the images of a batch; only those with impossible pixels if there are any."""
    images = [(str(x.get("file_name", f"number {i}")), x.get("image")) for i, x in enumerate(data)]
    wrong = [
        name
        for name, image in images
        if isinstance(image, torch.Tensor) and not (image.float().abs() < LARGEST_PIXEL).all()
    ]
    if wrong:
        return f"Images with NaN, infinite or huge pixels: {', '.join(wrong)}"
    return f"Images of this step: {', '.join(name for name, _ in images[:16])}"
