"""The losses on images that are not trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from ..data import SeededMapDataset
from ..data.mapper import build_validation_mapper, get_preset
from ..data.training_set import load_training_set
from ..modeling.criterion import losses_of_this_process
from ..utils.workers import SignalSafeLoader


class ValidationLoss:
    """Computes the mean losses per image of the data sets ``DATASETS.TEST``.

    Images have the size of inference and the targets of training. Each image is a batch of its own,
    whose points are drawn from a fixed seed. So the numbers depend on the weights only, and not on
    the number of processes.

    Args:
        cfg: the config.

    Raises:
        ValueError: ``DATASETS.TEST`` is empty.
        DatasetError: a data set lacks the targets, or the data sets do not have the same classes.
    """

    def __init__(self, cfg: CfgNode) -> None:
        if not cfg.DATASETS.TEST:
            raise ValueError("TEST.VALIDATION_LOSS needs a data set in DATASETS.TEST")
        records = load_training_set(cfg.DATASETS.TEST, get_preset(cfg).targets, filter_empty=False)
        # The seed of an image is its number.
        numbers = range(comm.get_rank(), len(records), comm.get_world_size())  # type: ignore[arg-type]
        self._loader = SignalSafeLoader(
            SeededMapDataset(records, build_validation_mapper(cfg)),
            batch_size=1,
            sampler=[(number, number) for number in numbers],
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            collate_fn=list,
        )

    @torch.no_grad()
    def compute(self, model: nn.Module) -> dict[str, float]:
        """Return the mean of each loss and of their sum, "total_loss", in all processes.

        Args:
            model: a model of this package, not wrapped for several processes.
        """
        found = []
        with _losses_without_training(model), losses_of_this_process():
            for batch in self._loader:
                losses = {name: float(loss) for name, loss in model(batch).items()}
                found.append({"total_loss": sum(losses.values()), **losses})
        everyones = [losses for part in comm.all_gather(found) for losses in part]
        return {
            # `fsum` is exact, whatever the order of the images.
            name: math.fsum(losses[name] for losses in everyones) / len(everyones)
            for name in everyones[0]
        }


@contextmanager
def _losses_without_training(model: nn.Module) -> Iterator[None]:
    """Let a model return losses, but otherwise be as in inference.

    Normalisation uses stored statistics, and there is no dropout. There are no pilots: these are
    made of the targets.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    pilots = {"piloted": model.piloted} if hasattr(model, "piloted") else {}
    head = getattr(model, "sem_seg_head", None)
    # These ask for their own mode when they choose what to return.
    for module in (model, head, getattr(head, "predictor", None)):
        if module is not None:
            module.training = True
    for name in pilots:
        setattr(model, name, False)
    try:
        yield
    finally:
        for name, value in pilots.items():
            setattr(model, name, value)
        for module, mode in modes.items():
            module.training = mode
