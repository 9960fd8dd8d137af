"""Learning rates, against DeepLab's schedule as Detectron2 has it."""

import pytest
import torch
from detectron2.projects import deeplab

from mask2former.engine import Trainer


def rates(build, cfg):
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD(
        [{"params": [p], "lr": lr} for p, lr in zip(parameters, (1, 0.3), strict=True)]
    )
    scheduler = build(cfg, optimizer)
    found = []
    for _ in range(cfg.SOLVER.MAX_ITER):
        found += [group["lr"] for group in optimizer.param_groups]
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("method", ["linear", "constant"])
@pytest.mark.parametrize(("warmup", "ending"), [(0, 0.0), (20, 0.0), (20, 0.4), (1, 0.05)])
def test_rates_are_those_of_deeplab(tiny_cfg, method, warmup, ending):
    solver = tiny_cfg.SOLVER
    solver.LR_SCHEDULER_NAME, solver.MAX_ITER, solver.WARMUP_METHOD = "WarmupPolyLR", 97, method
    solver.WARMUP_ITERS, solver.WARMUP_FACTOR, solver.POLY_LR_CONSTANT_ENDING = warmup, 0.1, ending
    expected = rates(deeplab.build_lr_scheduler, tiny_cfg)
    assert rates(Trainer.build_lr_scheduler, tiny_cfg) == pytest.approx(expected, rel=1e-12)


def test_a_resumed_run_goes_on_with_the_rates(tiny_cfg):
    solver = tiny_cfg.SOLVER
    solver.LR_SCHEDULER_NAME, solver.CHECKPOINT_PERIOD, solver.MAX_ITER = "WarmupPolyLR", 1, 4
    found = []
    for iterations in (2, 4):
        trainer = Trainer(tiny_cfg)
        trainer.resume_or_load(resume=True)
        trainer.max_iter = iterations  # as if it was interrupted
        trainer.train()
        found += [value for value, _ in trainer.storage.history("lr").values()]
    groups = trainer.optimizer.param_groups
    base = max(group["initial_lr"] for group in groups)
    assert found == pytest.approx([base * (1 - i / 4) ** 0.9 for i in range(4)])
    assert trainer.start_iter == 2


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("LR_SCHEDULER_NAME", "Cosine", "'Cosine', but must be one of WarmupPolyLR, Warmup"),
        ("WARMUP_METHOD", "burn_in", "'burn_in', but must be one of linear, constant$"),
        (
            "BASE_LR_END",
            1.0,
            "1.0 and SOLVER.BASE_LR 0.001, but with WarmupCosineLR",
        ),
        ("BASE_LR_END", -1.0, "-1.0 and SOLVER.BASE_LR 0.001, but with"),
    ],
)
def test_an_error_names_the_key(tiny_cfg, key, value, message):
    solver = tiny_cfg.SOLVER
    solver.LR_SCHEDULER_NAME, solver.BASE_LR = "WarmupCosineLR", 0.001
    solver[key] = value
    with pytest.raises(ValueError, match=f"^SOLVER.{key} is {message}"):
        rates(Trainer.build_lr_scheduler, tiny_cfg)
