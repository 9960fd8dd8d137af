"""Memory, file descriptors and threads after a thousand steps are those after a hundred."""

import ctypes
import gc
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from detectron2.engine import HookBase

from mask2former.engine import Trainer
from mask2former.inference.predictor import Predictor

WARM, END = 200, 1200  # steps
MEGABYTES = 24  # the allocator's own


def footprint():
    """Return resident megabytes, open file descriptors and threads of this process."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resident / 2**20, len(os.listdir("/proc/self/fd")), threading.active_count()


def assert_flat(name, before, after):
    print(f"{name}: MB, descriptors, threads {before} after {WARM} steps, {after} after {END}")
    assert after[0] < before[0] + MEGABYTES
    assert after[1:] == before[1:]


class Measure(HookBase):
    def __init__(self):
        self.found = {}

    def after_step(self):
        if self.trainer.iter + 1 in (WARM, END - 1):
            self.found[self.trainer.iter + 1] = footprint()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_training_does_not_grow(tiny_cfg, workers):
    tiny_cfg.DATASETS.TEST = ()
    tiny_cfg.SOLVER.MAX_ITER = END
    tiny_cfg.SOLVER.CHECKPOINT_PERIOD = 100
    tiny_cfg.SOLVER.CHECKPOINTS_TO_KEEP = 1
    tiny_cfg.DATALOADER.NUM_WORKERS = workers
    trainer = Trainer(tiny_cfg)
    measure = Measure()
    trainer.register_hooks([measure])
    trainer.train()
    assert_flat(f"training, {workers} workers", *measure.found.values())


@pytest.mark.slow
def test_predictions_do_not_grow(tiny_cfg):
    predict = Predictor(Trainer.build_model(tiny_cfg), min_size=64, max_size=64, image_format="RGB")
    images = np.random.default_rng(0).integers(0, 256, (10, 64, 80, 3), dtype=np.uint8)
    for number in range(END):
        if number == WARM:
            before = footprint()
        # Sizes differ, as users' images do.
        predict(images[number % 10, : 40 + number % 24, : 50 + number % 30])
    assert_flat("predictions", before, footprint())
