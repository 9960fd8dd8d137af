"""Which checkpoints a run keeps, and how it ends when numbers are not finite."""

import shutil
from pathlib import Path

import pytest
import torch
from trained_runs import Scripted, names, trained

from mask2former.checkpoint import read_checkpoint
from mask2former.engine import Trainer
from mask2former.engine.run_folder import LOCK, LostFolderError, claim_run_folder, is_lost


@pytest.fixture
def cfg(tiny_cfg):
    tiny_cfg.DATASETS.TEST = ()
    return tiny_cfg


def test_the_last_checkpoints_are_kept(cfg):
    cfg.SOLVER.CHECKPOINT_PERIOD = 1
    cfg.SOLVER.CHECKPOINTS_TO_KEEP = 2
    trained(cfg)
    assert names(cfg) == ["model_0000002", "model_0000003", "model_final"]
    cfg.SOLVER.MAX_ITER = 5
    trainer = trained(cfg, resume=True)
    assert trainer.start_iter == 4
    assert names(cfg) == ["model_0000003", "model_0000004", "model_final"]


def test_an_older_checkpoint_outlives_a_failure_to_save(cfg, monkeypatch):
    cfg.SOLVER.CHECKPOINT_PERIOD = 1
    cfg.SOLVER.CHECKPOINTS_TO_KEEP = 1
    cfg.SOLVER.MAX_ITER = 1
    trained(cfg)
    (kept,) = names(cfg, "model_0*.pth")
    cfg.SOLVER.MAX_ITER = 3

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mask2former.checkpoint.checkpointer.write_checkpoint", full)
    with pytest.raises(OSError, match="cannot save a checkpoint: No space left"):
        trained(cfg, resume=True)
    assert names(cfg, "model_0*.pth") == [kept]


def test_checkpoints_by_the_clock(cfg):
    cfg.SOLVER.CHECKPOINT_PERIOD_MINUTES = 1e-9
    trained(cfg)
    assert names(cfg, "model_0*.pth") == [f"model_000000{i}" for i in range(4)]
    cfg.OUTPUT_DIR += "_slow"
    cfg.SOLVER.CHECKPOINT_PERIOD_MINUTES = 60.0
    trained(cfg)
    assert names(cfg) == ["model_0000003", "model_final"]


def test_the_best_checkpoint_stays_across_a_resumption(cfg):
    cfg.SOLVER.BEST_METRIC = "segm/AP"
    cfg.SOLVER.CHECKPOINT_PERIOD = cfg.TEST.EVAL_PERIOD = 1
    Scripted.values = [float("nan"), 10.0, 30.0, 20.0]
    trainer = trained(cfg, Scripted)
    assert not Scripted.values
    best = f"{cfg.OUTPUT_DIR}/model_best.pth"
    found = {"metric": "segm/AP", "value": 30.0, "averaged": False}
    assert read_checkpoint(best)["best"] == found
    assert read_checkpoint(best)["iteration"] == 2
    at_that_time = read_checkpoint(f"{cfg.OUTPUT_DIR}/model_0000002.pth")["model"]
    for name, value in read_checkpoint(best)["model"].items():
        assert torch.equal(value, at_that_time[name])
    assert trainer.checkpointer.get_checkpoint_file().endswith("model_0000003.pth")

    cfg.SOLVER.MAX_ITER = 6
    Scripted.values = [25.0, 31.0]
    trained(cfg, Scripted, resume=True)
    assert read_checkpoint(best)["iteration"] == 6  # of the evaluation after training


def test_an_unknown_metric_is_named(cfg, caplog):
    cfg.SOLVER.BEST_METRIC = "AP"
    Scripted.values = [1.0]
    trained(cfg, Scripted)
    assert "SOLVER.BEST_METRIC is 'AP', but the evaluation gives segm/AP, segm/AP50" in caplog.text
    assert "model_best" not in names(cfg)


class Spoilt(Trainer):
    """A trainer with trainable batch normalisation, whose third batch holds an odd pixel."""

    pixel: float

    @classmethod
    def build_train_loader(cls, cfg):
        for number, batch in enumerate(super().build_train_loader(cfg)):
            for sample in batch:
                sample["image"] = sample["image"].float()
            if number == 2:
                batch[1]["image"][0, 5, 5] = cls.pixel
                batch[1]["file_name"] = "odd.png"
            yield batch


@pytest.mark.parametrize("pixel", [1e30, float("nan"), float("inf")])
def test_an_odd_input_ends_the_run_and_spoils_nothing(cfg, pixel):
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.SOLVER.CHECKPOINT_PERIOD = 1
    Spoilt.pixel = pixel
    trainer = Spoilt(cfg)
    trainer.resume_or_load(resume=False)
    with pytest.raises(FloatingPointError, match=r"huge pixels: odd\.png$") as error:
        trainer.train()
    assert "\n" not in str(error.value)
    assert names(cfg) == ["model_0000000", "model_0000001"]
    saved = read_checkpoint(f"{cfg.OUTPUT_DIR}/model_0000001.pth")["model"]
    running = [name for name in saved if "running_" in name]
    assert running
    for name, value in trainer.model.state_dict().items():
        assert value.isfinite().all(), name
        if name in running:
            assert torch.equal(value, saved[name])


class Diverging(Trainer):
    """A trainer whose second step makes a weight NaN."""

    def before_step(self):
        super().before_step()
        if self.iter == 1:
            self.optimizer.register_step_post_hook(self._spoil)

    def _spoil(self, *args):
        self.model.backbone.res2[0].conv1.weight.data[0] = torch.nan


def test_weights_that_are_not_finite_are_not_saved(cfg):
    cfg.SOLVER.CHECKPOINT_PERIOD = 1
    with pytest.raises(FloatingPointError, match=r"after iteration 1, backbone\.res2\.0\.conv1\.w"):
        trained(cfg, Diverging)
    assert names(cfg) == ["model_0000000"]


class Losing(Trainer):
    """A trainer whose folder is deleted while it is evaluated after the last step."""

    error: OSError | None

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        shutil.rmtree(cfg.OUTPUT_DIR)
        if cls.error is not None:
            raise cls.error
        return {}


@pytest.mark.parametrize("error", [None, FileNotFoundError("inference/results.json")])
def test_a_folder_that_is_deleted_at_the_end_has_the_weights_anew(cfg, error):
    folder = Path(cfg.OUTPUT_DIR)
    claim_run_folder(folder, resume=False)
    Losing.error = error
    with pytest.raises(LostFolderError, match=r"after iteration 3 are saved there anew"):
        trained(cfg, Losing)
    assert names(cfg) == ["model_0000003"]
    claim_run_folder(folder, resume=True)
    assert trained(cfg, resume=True).start_iter == 4
    assert names(cfg) == ["model_0000003", "model_final"]


def test_an_error_while_writing_metrics_does_not_hide_why_the_run_ended(cfg, monkeypatch, caplog):
    def fail(*args):
        raise AttributeError("half imported")

    monkeypatch.setattr("detectron2.utils.events.TensorboardXWriter.write", fail)
    cfg.SOLVER.CHECKPOINT_PERIOD = 1
    with pytest.raises(FloatingPointError):
        trained(cfg, Diverging)
    assert "The last metrics could not be written: half imported" in caplog.text


def test_what_counts_as_a_lost_folder(tmp_path):
    folder = tmp_path / "run"
    assert not is_lost(folder)
    claim_run_folder(folder, resume=False)
    assert not is_lost(folder)
    (folder / LOCK).unlink()  # as a cleaner of hidden files does
    assert not is_lost(folder)
    (folder / LOCK).touch()  # as another run does
    assert is_lost(folder)
    folder.rename(tmp_path / "moved")
    assert is_lost(folder)
    folder.mkdir()
    assert is_lost(folder)
    link = tmp_path / "link"
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    link.symlink_to("a")
    claim_run_folder(link, resume=False)
    assert not is_lost(link)
    link.unlink()
    link.symlink_to("b")
    assert is_lost(link)
