"""The average of the weights: its formula, its checkpoints and its evaluation."""

from pathlib import Path

import pytest
import torch
from trained_runs import Scripted, names, trained

from mask2former.checkpoint import read_checkpoint
from mask2former.engine import Trainer

DECAY = 0.3  # reached after three steps


@pytest.fixture
def cfg(tiny_cfg):
    tiny_cfg.DATASETS.TEST = ()
    tiny_cfg.SOLVER.EMA_DECAY = DECAY
    tiny_cfg.MODEL.RESNETS.NORM = "BN"  # there are buffers that change
    tiny_cfg.MODEL.BACKBONE.FREEZE_AT = 0
    tiny_cfg.SOLVER.CHECKPOINT_PERIOD = 1
    tiny_cfg.SOLVER.BASE_LR = 0.01
    return tiny_cfg


def saved(cfg, name):
    return read_checkpoint(f"{cfg.OUTPUT_DIR}/{name}.pth")


def test_the_average_is_that_of_the_weights_after_each_step(cfg):
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    average = {k: v.double() for k, v in trainer.model.state_dict().items()}
    trainer.train()
    steps = [saved(cfg, name) for name in names(cfg, "model_0*.pth")]
    assert len(steps) == 4
    for step, (decay, checkpoint) in enumerate(zip([0.1, 2 / 11, 0.25, 0.3], steps, strict=True)):
        for name, value in checkpoint["model"].items():
            average[name] = decay * average[name] + (1 - decay) * value.double()
        found = checkpoint["ema"]
        assert found["steps"] == step + 1
        for name, value in found["values"].items():
            torch.testing.assert_close(value.double(), average[name], rtol=1e-5, atol=1e-6)
    floating = {k for k, v in steps[0]["model"].items() if v.is_floating_point()}
    assert set(found["values"]) == floating < set(average)

    final = saved(cfg, "model_final_ema")
    assert set(final) - {"__author__"} == {"model"}
    for name, value in final["model"].items():
        wanted = found["values"] if name in floating else steps[-1]["model"]
        assert torch.equal(value, wanted[name]), name
    raw = saved(cfg, "model_final")["model"]
    assert all(torch.equal(value, steps[-1]["model"][name]) for name, value in raw.items())
    assert not all(torch.equal(value, final["model"][name]) for name, value in raw.items())


def test_a_resumed_average_equals_an_uninterrupted_one(cfg):
    trained(cfg)
    whole = saved(cfg, "model_0000003")["ema"]
    for name in names(cfg):
        if name not in ("model_0000000", "model_0000001"):
            Path(cfg.OUTPUT_DIR, f"{name}.pth").unlink()
    trainer = trained(cfg, resume=True)
    assert trainer.start_iter == 2
    parts = saved(cfg, "model_0000003")["ema"]
    assert parts["steps"] == whole["steps"]
    for name, value in whole["values"].items():
        assert torch.equal(parts["values"][name], value), name


def test_a_run_killed_before_it_wrote_its_average_finishes(cfg):
    trained(cfg)
    before = saved(cfg, "model_final_ema")["model"]
    Path(cfg.OUTPUT_DIR, "model_final_ema.pth").unlink()
    trained(cfg, resume=True)
    after = saved(cfg, "model_final_ema")["model"]
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_resuming_with_and_without_an_average_says_what_happens(cfg, caplog):
    cfg.SOLVER.MAX_ITER = 1
    trained(cfg)
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.EMA_DECAY = 2, 0.0
    trained(cfg, resume=True)
    assert "SOLVER.EMA_DECAY is 0: the averaged weights of" in caplog.text
    assert "ema" not in saved(cfg, "model_0000001")
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.EMA_DECAY = 3, DECAY
    trained(cfg, resume=True)
    assert "does not have averaged weights: the average starts at its weights" in caplog.text
    before, after = (saved(cfg, f"model_000000{i}")["model"] for i in (1, 2))
    average = saved(cfg, "model_0000002")["ema"]["values"]
    for name, value in average.items():
        torch.testing.assert_close(value, before[name].lerp(after[name], 0.9))


def test_a_value_that_is_not_finite_is_not_saved(cfg):
    trainer = Trainer(cfg)
    trainer._average.start()
    name, values = next(iter(trainer._average.state_dict()["values"].items()))
    values[:] = torch.inf
    with pytest.raises(FloatingPointError, match=f"after iteration 0, {name} holds NaN or inf"):
        trainer.train()
    assert names(cfg) == []


def test_both_weights_are_evaluated_and_the_better_ones_kept(cfg):
    cfg.SOLVER.BEST_METRIC = "segm/AP"
    cfg.TEST.EVAL_PERIOD = 1
    # In turn those of the weights and of the average
    Scripted.values = [10.0, 20.0, 15.0, 30.0, 25.0, 28.0, 29.0, 27.0]
    trainer = trained(cfg, Scripted)
    best = saved(cfg, "model_best")
    assert best["best"] == {"metric": "segm/AP", "value": 30.0, "averaged": True}
    average = saved(cfg, "model_0000001")["ema"]["values"]
    for name, value in average.items():
        assert torch.equal(best["model"][name], value)
    raw, averaged = (
        [value for value, _ in trainer.storage.history(name).values()]
        for name in ("segm/AP", "ema/segm/AP")
    )
    assert (raw, averaged) == ([10.0, 15.0, 25.0, 29.0], [20.0, 30.0, 28.0, 27.0])


def test_the_evaluation_of_the_average_is_that_of_its_file(cfg):
    cfg.DATASETS.TEST = ("synthetic_shapes_instance_val",)
    cfg.SOLVER.BASE_LR = 1e-4
    trainer = trained(cfg)
    folder = Path(cfg.OUTPUT_DIR)
    raw, averaged = (
        (folder / part / "inference/coco_instances_results.json").read_text()
        for part in ("", "ema")
    )
    cfg.MODEL.WEIGHTS = str(folder / "model_final_ema.pth")
    cfg.OUTPUT_DIR = str(folder / "again")
    again = Trainer(cfg)
    again.resume_or_load(resume=False)
    assert str(Trainer.test(cfg, again.model)) == str(trainer._last_eval_results["ema"])
    found = (folder / "again/inference/coco_instances_results.json").read_text()
    assert found == averaged != raw
