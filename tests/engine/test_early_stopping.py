"""A run that ends early ends like one that is done, however often it was interrupted."""

from pathlib import Path

import pytest
import torch
from detectron2.utils import comm
from support import QUICKSTART, TINY
from trained_runs import Scripted, last_checkpoint, names, trained

from mask2former import load_config
from mask2former.checkpoint import read_checkpoint
from mask2former.data import register_synthetic
from mask2former.engine import Trainer, launch

VALUES = [10.0, 30.0, 20.0, float("nan"), 25.0, 40.0]


@pytest.fixture
def cfg(tiny_cfg):
    tiny_cfg.DATASETS.TEST = ()
    tiny_cfg.SOLVER.MAX_ITER = 6
    tiny_cfg.SOLVER.CHECKPOINT_PERIOD = tiny_cfg.TEST.EVAL_PERIOD = 1
    tiny_cfg.SOLVER.BEST_METRIC = "segm/AP"
    tiny_cfg.SOLVER.EARLY_STOPPING_PATIENCE = 3
    tiny_cfg.SOLVER.BASE_LR = 0.001
    return tiny_cfg


def test_a_run_ends_after_so_many_evaluations_without_a_better_one(cfg, caplog):
    Scripted.values = [*VALUES]
    caplog.set_level("INFO")
    trainer = trained(cfg, Scripted)
    assert Scripted.values == VALUES[5:]  # the last step is not evaluated twice
    assert (
        "Training ends early, after iteration 4: 3 evaluations did not improve segm/AP 30.0000"
        in caplog.text
    )
    assert names(cfg) == [*(f"model_000000{i}" for i in range(5)), "model_best", "model_final"]
    last = last_checkpoint(cfg)
    final = read_checkpoint(f"{cfg.OUTPUT_DIR}/model_final.pth")
    assert last["iteration"] == final["iteration"] == 4 == trainer.iter - 1
    assert all(torch.equal(value, last["model"][name]) for name, value in final["model"].items())
    assert [i for _, i in trainer.storage.history("segm/AP").values()] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kept", range(5))
def test_a_killed_run_ends_where_the_uninterrupted_one_does(cfg, kept):
    Scripted.values = [*VALUES]
    trained(cfg, Scripted)
    whole = last_checkpoint(cfg)
    for name in names(cfg):
        if not name.startswith("model_0") or int(name[-7:]) > kept:
            Path(cfg.OUTPUT_DIR, f"{name}.pth").unlink()
    # Killed after it saved and before it evaluated
    Scripted.values = VALUES[kept:]
    trainer = trained(cfg, Scripted, resume=True)
    assert trainer.start_iter == kept + 1
    assert Scripted.values == VALUES[5:]
    parts = last_checkpoint(cfg)
    assert parts["iteration"] == whole["iteration"]
    assert str(parts["trainer"]["hooks"]) == str(whole["trainer"]["hooks"])
    for name, value in whole["model"].items():
        assert torch.equal(parts["model"][name], value), name


def test_a_run_that_ended_early_goes_on_with_more_patience_only(cfg, caplog):
    Scripted.values = [*VALUES]
    trained(cfg, Scripted)
    trained(cfg, Scripted, resume=True)  # evaluated again, as any finished run
    assert "is of a run that ended early: 3 evaluations did not improve" in caplog.text
    assert last_checkpoint(cfg)["iteration"] == 4
    cfg.SOLVER.EARLY_STOPPING_PATIENCE = 4
    Scripted.values = [1.0]
    trained(cfg, Scripted, resume=True)
    assert last_checkpoint(cfg)["iteration"] == 5
    assert not Scripted.values


def test_a_better_average_counts(cfg):
    cfg.SOLVER.EMA_DECAY = 0.9
    cfg.SOLVER.EARLY_STOPPING_PATIENCE = 2
    Scripted.values = [2.0, 1.0, 1.0, 3.0, 1.0, 4.0, 1.0, 1.0, 1.0, 1.0]  # weights, average, ...
    trained(cfg, Scripted)
    assert last_checkpoint(cfg)["iteration"] == 4
    average = read_checkpoint(f"{cfg.OUTPUT_DIR}/model_final_ema.pth")["model"]
    for name, value in last_checkpoint(cfg)["ema"]["values"].items():
        assert torch.equal(average[name], value)


def test_an_unknown_metric_ends_the_run(cfg):
    cfg.SOLVER.BEST_METRIC = "AP"
    Scripted.values = [1.0]
    with pytest.raises(ValueError, match="BEST_METRIC 'AP', but the evaluation gives segm/AP, seg"):
        trained(cfg, Scripted)


def test_the_report_is_of_the_last_evaluation(cfg):
    cfg.DATASETS.TEST = ("synthetic_shapes_instance_val",)
    cfg.TEST.REPORT = True
    cfg.SOLVER.EARLY_STOPPING_PATIENCE = 1
    cfg.SOLVER.BASE_LR = 1e-12  # the second evaluation cannot be better
    trained(cfg, Trainer)
    assert last_checkpoint(cfg)["iteration"] == 1
    page = Path(cfg.OUTPUT_DIR, "report.html").read_text()
    assert page.count(">Results</h2>") == 1


class OnlyInTheMainProcess(Scripted):
    """A trainer whose other processes do not get the results, as real evaluators do it."""

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        results = super().test(cfg, model)
        return results if comm.is_main_process() else {}


def _train(datasets, folder):
    register_synthetic(datasets)
    keys = [*TINY, "DATASETS.TEST", (), "SOLVER.MAX_ITER", 6, "TEST.EVAL_PERIOD", 1]
    keys += ["SOLVER.BEST_METRIC", "segm/AP", "SOLVER.EARLY_STOPPING_PATIENCE", 2]
    keys += ["MODEL.RESNETS.NORM", "FrozenBN", "SOLVER.IMS_PER_BATCH", 4]
    keys += ["SOLVER.EMA_DECAY", 0.9, "OUTPUT_DIR", str(folder)]
    OnlyInTheMainProcess.values = [1.0, 2.0, 1.0, 1.0, 2.0, 2.0]
    trainer = trained(load_config(str(QUICKSTART), keys), OnlyInTheMainProcess)
    Path(folder).mkdir(exist_ok=True)
    found = trainer.max_iter, trainer._average.state_dict()
    torch.save(found, Path(folder, f"rank{comm.get_rank()}.pth"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the processes would communicate by NCCL")
def test_two_processes_end_together_with_the_average_of_one(datasets, tmp_path):
    _train(datasets, tmp_path / "one")
    launch(_train, 2, args=(datasets, tmp_path / "two"))
    files = ["one/rank0.pth", "two/rank0.pth", "two/rank1.pth"]
    one, first, second = (torch.load(tmp_path / file) for file in files)
    assert one[0] == first[0] == second[0] == 3
    for name, value in first[1]["values"].items():
        assert torch.equal(value, second[1]["values"][name]), name
        torch.testing.assert_close(value, one[1]["values"][name], rtol=1e-4, atol=1e-4, msg=name)
