"""The step that ended a run is kept, and computed again bit for bit."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from trained_runs import trained

from mask2former import load_config
from mask2former.cli.replay import main
from mask2former.data.metadata import write_metadata
from mask2former.engine import Trainer
from mask2former.engine.bad_step import keep_step, read_step
from mask2former.engine.replay import replay

CONV = "backbone.res3.0.conv2"


@pytest.fixture
def cfg(tiny_cfg):
    tiny_cfg.DATASETS.TEST = ()
    tiny_cfg.SOLVER.ACCUMULATE_STEPS = 2
    tiny_cfg.MODEL.RESNETS.NORM = "BN"  # there are statistics, which a step changes
    tiny_cfg.MODEL.BACKBONE.FREEZE_AT = 0
    tiny_cfg.MODEL.MASK_FORMER.PILOTED.GROUPS = 2  # and more random draws
    Path(tiny_cfg.OUTPUT_DIR).mkdir()
    write_metadata(Path(tiny_cfg.OUTPUT_DIR, "metadata.json"), tiny_cfg.DATASETS.TRAIN[0])
    return tiny_cfg


class Recorded(Trainer):
    """A trainer that keeps its third step as if it had failed, and notes what that step gave."""

    def before_step(self):
        super().before_step()
        if self.iter == 2:
            loop, write = self._trainer, self._trainer._write_metrics

            def record(losses, *args):
                keep_step(loop, self.cfg, FloatingPointError("as if"))
                self.losses = {name: loss.item() for name, loss in losses.items()}
                write(losses, *args)

            loop._write_metrics = record

    def after_step(self):
        super().after_step()
        self._trainer.__dict__.pop("_write_metrics", None)


@pytest.mark.parametrize("amp", [False, True])
def test_a_replay_gives_the_losses_and_the_norm_bit_for_bit(cfg, amp, capsys):
    cfg.SOLVER.AMP.ENABLED = amp
    trainer = trained(cfg, Recorded)
    folder = Path(cfg.OUTPUT_DIR, "bad_batch")
    step = read_step(folder)
    torch.manual_seed(4711)
    found = replay(step, load_config(str(folder / "config.yaml")))
    assert found.losses == trainer.losses
    norms = {i: v for v, i in trainer.storage.history("gradient/norm").values()}
    assert found.norm == pytest.approx(norms[2], rel=1e-6)
    assert (found.bad_output, found.bad_gradient, found.bad_parameters) == (None, None, [])
    assert (found.parameters, found.statistics, found.error) == ([], [], "")
    assert len(found.layers) > 50
    gradients = {layer.name: layer.gradient for layer in found.layers}
    assert gradients[CONV] > 0 and gradients["sem_seg_head.predictor.class_embed"] > 0
    assert main([str(folder)]) == 0
    assert "All of these numbers are finite" in capsys.readouterr().out


class Poisoned(Trainer):
    """A trainer one of whose weights is NaN before the third step."""

    def before_step(self):
        super().before_step()
        if self.iter == 2:
            self.model.get_submodule(CONV).weight.data[1, 0, 0, 0] = torch.nan


def test_the_first_layer_that_fails_is_named_and_the_samples_are_drawn(cfg, capsys, caplog):
    with pytest.raises(FloatingPointError, match=r"Images of this step: "):  # they are sound
        trained(cfg, Poisoned)
    folder = Path(cfg.OUTPUT_DIR, "bad_batch")
    assert f"python -m mask2former.cli.replay {folder}" in caplog.text
    assert main([str(folder)]) == 0
    out = capsys.readouterr().out
    assert "Iteration 2, 2 images" in out
    assert f"Before the step, the parameter {CONV}.weight holds NaN" in out
    assert f"The first output that is not finite is that of {CONV} (Conv2d)" in out
    assert "Then: the error of the run" in out
    pictures = sorted((folder / "pictures").iterdir())
    assert len(pictures) == len(read_step(folder).batches[0]) == 2
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.width == picture.height >= 64


class Steep(Trainer):
    """A trainer whose third step has finite losses, and an infinite gradient of one parameter."""

    def before_step(self):
        super().before_step()
        if self.iter == 2:
            self.model.get_submodule(CONV).weight.register_hook(
                lambda gradient: gradient + torch.inf
            )


def test_a_gradient_that_is_not_finite_is_kept_too(cfg, caplog):
    before = trained(cfg, Recorded).model.state_dict()
    cfg.OUTPUT_DIR += "_again"
    with pytest.raises(FloatingPointError, match="iteration 2: the norm of the gradient is inf"):
        trained(cfg, Steep)
    step = read_step(Path(cfg.OUTPUT_DIR, "bad_batch"))
    assert "the norm of the gradient is inf" in step.error
    assert len(step.batches) == 2
    assert set(step.weights) == set(before)
    assert all(value.isfinite().all() for value in step.weights.values())


class Huge(torch.nn.Module):
    """The root of its input, whose gradient is infinite at 0."""

    def forward(self, x):
        return x + (x.detach() - x).abs().sqrt()


def test_the_first_layer_of_an_infinite_gradient_is_named(cfg, monkeypatch):
    trained(cfg, Recorded)
    folder = Path(cfg.OUTPUT_DIR, "bad_batch")
    build = Trainer.build_model.__func__

    def with_root(cls, cfg):
        model = build(cls, cfg)
        block = model.get_submodule("backbone.res3.0")
        block.conv2 = torch.nn.Sequential(block.conv2, Huge())
        return model

    monkeypatch.setattr(Trainer, "build_model", classmethod(with_root))
    step = read_step(folder)
    for name in [name for name in step.weights if name.startswith(f"{CONV}.")]:
        step.weights[name.replace(CONV, f"{CONV}.0")] = step.weights.pop(name)
    found = replay(step, load_config(str(folder / "config.yaml")))
    assert found.bad_output is None
    assert found.bad_gradient.name in (f"{CONV}.0", f"{CONV}.0.norm")
    assert found.bad_parameters[0].startswith(f"{CONV}.0")
    assert "backbone.stem.conv1.weight" in found.bad_parameters
    assert not any(name.startswith("sem_seg_head") for name in found.bad_parameters)


def test_a_folder_without_a_step_and_a_damaged_one_are_one_line(cfg, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    (tmp_path / "step.pth").write_bytes(b"abc")
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    first, second = capsys.readouterr().err.splitlines()
    assert "step.pth does not exist: give the folder bad_batch of a run" in first
    assert "step.pth cannot be read" in second
