"""The sweep over learning rates: its curve, what it suggests, and that it changes nothing."""

import os
import random

import numpy as np
import pytest
import torch

from mask2former.engine import Trainer
from mask2former.engine.lr_finder import Sweep, find_learning_rate

STEPS = 36


@pytest.fixture
def cfg(tiny_cfg):
    tiny_cfg.TEST.EVAL_PERIOD = 0
    tiny_cfg.DATASETS.TEST = ()
    return tiny_cfg


def sweep_of(cfg, **options):
    return find_learning_rate(cfg, **{"low": 1e-6, "high": 10.0, "steps": STEPS, **options})


def test_the_suggestion_lies_before_the_divergence(cfg):
    sweep = sweep_of(cfg)
    assert len(sweep.losses) == len(sweep.rates) <= STEPS
    smoothed = sweep.smoothed
    assert smoothed[0] > 1.1 * smoothed.min(), "the loss falls"
    assert smoothed[-1] > 1.2 * smoothed.min() or len(sweep.losses) < STEPS, "and diverges"
    assert sweep.rates[0] < sweep.suggestion < sweep.rates[sweep.best] < sweep.rates[-1]


def test_the_seed_decides(cfg):
    first, again = (sweep_of(cfg, high=1e-2, steps=10) for _ in range(2))
    assert (first.losses == again.losses).all() and first.suggestion == again.suggestion
    cfg.SEED += 1
    assert (sweep_of(cfg, high=1e-2, steps=10).losses != first.losses).any()


def test_the_rate_of_the_config_has_no_effect(cfg):
    cfg.SOLVER.BASE_LR = 0.02
    before = cfg.dump()
    first = sweep_of(cfg, high=1e-2, steps=10)
    assert cfg.dump() == before and cfg.SOLVER.BASE_LR == 0.02
    cfg.SOLVER.BASE_LR = 0.0
    second = sweep_of(cfg, high=1e-2, steps=10)
    np.testing.assert_allclose(second.losses, first.losses, rtol=1e-3)


def test_steps_are_those_of_a_run(cfg, tmp_path):
    """A trainer with the first rate has the first loss, and after its step the second, too."""
    cfg.SOLVER.BASE_LR = 1e-3
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = 2, ()
    torch.manual_seed(cfg.SEED)
    os.makedirs(cfg.OUTPUT_DIR)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    losses = []
    write = trainer._trainer._write_metrics

    def keep(found, *rest, **options):
        losses.append(sum(loss.item() for loss in found.values()))
        write(found, *rest, **options)

    trainer._trainer._write_metrics = keep
    trainer.train()
    sweep = sweep_of(cfg, low=1e-3, high=1e-2, steps=10)
    np.testing.assert_allclose(sweep.losses[:2], losses, rtol=1e-5)


def test_nothing_else_changes(cfg):
    os.makedirs(cfg.OUTPUT_DIR)
    random.seed(4)
    np.random.seed(4)  # noqa: NPY002
    torch.manual_seed(4)
    trainer = Trainer(cfg)
    weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    states = random.getstate(), np.random.get_state()[1], torch.get_rng_state()  # noqa: NPY002
    files = sorted(os.listdir(cfg.OUTPUT_DIR))
    here = sorted(os.listdir())
    sweep_of(cfg, high=1.0, steps=10)
    after = random.getstate(), np.random.get_state()[1], torch.get_rng_state()  # noqa: NPY002
    assert states[0] == after[0] and (states[1] == after[1]).all()
    assert torch.equal(states[2], after[2])
    assert all(torch.equal(weights[k], v) for k, v in trainer.model.state_dict().items())
    assert trainer.model.training and not trainer._trainer.optimizer.state
    assert sorted(os.listdir(cfg.OUTPUT_DIR)) == files and sorted(os.listdir()) == here


def test_suggestion_of_a_known_curve():
    rates = np.geomspace(1e-6, 1e1, 140)
    octaves = np.log(rates)
    fall = 50 - 30 / (1 + np.exp(-2 * (octaves - np.log(1e-3))))
    noise = np.random.default_rng(0).normal(0, 0.5, len(rates))
    losses = fall + 1000 * np.clip(octaves - np.log(1), 0, None) + noise
    sweep = Sweep(rates, losses)
    assert 4e-4 < sweep.suggestion < 2.5e-3
    assert 3e-3 < sweep.rates[sweep.best] <= 1.2
    assert Sweep(rates, np.linspace(10, 90, len(rates))).suggestion is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 5}, "at least 10"),
        ({"low": 1.0, "high": 0.1}, "must be ten times the first"),
        ({"low": 0.0}, "must be ten times the first"),
        ({"high": float("inf")}, "must be ten times the first"),
        ({"low": 1e30, "high": 1e35}, "at a learning rate of 1"),
    ],
)
def test_mistakes_are_named(cfg, options, message):
    with pytest.raises(ValueError, match=message):
        sweep_of(cfg, **options)
