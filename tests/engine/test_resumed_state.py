"""A damaged state of training is told before anything uses it."""

import copy
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode

from mask2former.checkpoint import WeightsError, read_checkpoint, write_checkpoint
from mask2former.engine import Trainer, build_optimizer
from mask2former.engine.resumed_state import check_optimizer

KEY = "averages"  # stands for the name that an optimizer has for them


@pytest.mark.parametrize("name", ["ADAMW", "SGD"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: state["state"][0].update({KEY: torch.zeros(3)}), r"\[3\] for parameter 0"),
        (lambda state: state["state"][0].update({KEY: torch.full((4, 5), torch.nan)}), "with NaN"),
        (lambda state: state["state"][1].update({KEY: "x"}), "'x' for parameter"),
        (lambda state: state["param_groups"][0].update(lr="abc"), "lr 'abc'"),
        (lambda state: state["param_groups"][0].update(weight_decay=torch.inf), "weight_decay inf"),
    ],
)
def test_a_damaged_state_of_an_optimizer_is_refused(tiny_cfg, name, damage, message):
    """A state of another shape is written beyond its end."""
    tiny_cfg.SOLVER.OPTIMIZER = name
    model = torch.nn.Linear(5, 4)
    optimizer = build_optimizer(tiny_cfg, model)
    model(torch.randn(8, 5)).sum().backward()
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    check_optimizer(optimizer, state)
    key = "exp_avg" if name == "ADAMW" else "momentum_buffer"
    damage(state)
    for values in state["state"].values():
        if KEY in values:
            values[key] = values.pop(KEY)
    with pytest.raises(ValueError, match=message):
        check_optimizer(optimizer, state)


def resumed(cfg: CfgNode) -> Trainer:
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    return trainer


def test_a_damaged_state_of_a_run_is_refused(tiny_cfg):
    """PyTorch's schedulers take any attribute from a file, and fail in a later step."""
    tiny_cfg.SOLVER.MAX_ITER = 1
    resumed(tiny_cfg).train()
    assert resumed(tiny_cfg).start_iter == 1
    path = Path(tiny_cfg.OUTPUT_DIR, "model_0000000.pth")
    whole = read_checkpoint(path)
    for damage, message in (
        (lambda state: state.update(iteration="abc"), "its iteration is 'abc'"),
        (lambda state: state.update(iteration=-7), "its iteration is -7"),
        (lambda state: state.update(hooks=[1]), "its state is"),
        (lambda state: state["hooks"].update(LRScheduler=3), "its LRScheduler has the state 3"),
        (lambda state: state["hooks"]["LRScheduler"].update(last_epoch="x"), "its LRScheduler has"),
        (lambda state: state["hooks"]["LRScheduler"]["base_lrs"].pop(), "its LRScheduler has"),
    ):
        damaged = copy.deepcopy(whole)
        damage(damaged["trainer"])
        write_checkpoint(damaged, path)
        with pytest.raises(WeightsError, match=message):
            resumed(tiny_cfg)
    # Of another version of PyTorch, whose schedulers hold other attributes
    whole["trainer"]["hooks"]["LRScheduler"] |= {"verbose": False, "step": "no function"}
    write_checkpoint(whole, path)
    assert resumed(tiny_cfg).start_iter == 1
