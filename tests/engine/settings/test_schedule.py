"""Schedules of runs of another length."""

import pytest
from support import REPOSITORY

from mask2former import load_config
from mask2former.engine.settings.schedule import scaled_schedule

R50 = REPOSITORY / "configs/coco/instance-segmentation/maskformer2_R50_bs16_50ep.yaml"


def test_steps_keep_their_share():
    cfg = load_config(str(R50))
    scaled = load_config(str(R50), scaled_schedule(cfg, 10_000))
    assert scaled.SOLVER.MAX_ITER == 10_000
    shares = [step / cfg.SOLVER.MAX_ITER for step in cfg.SOLVER.STEPS]
    assert [step / 10_000 for step in scaled.SOLVER.STEPS] == pytest.approx(shares, abs=1e-4)
    assert scaled.SOLVER.CHECKPOINT_PERIOD == scaled.TEST.EVAL_PERIOD == 2500


def test_a_longer_run_keeps_its_warm_up_and_periods():
    cfg = load_config(str(R50))
    scaled = load_config(str(R50), scaled_schedule(cfg, 2 * cfg.SOLVER.MAX_ITER))
    assert scaled.SOLVER.WARMUP_ITERS == cfg.SOLVER.WARMUP_ITERS
    assert scaled.TEST.EVAL_PERIOD == cfg.TEST.EVAL_PERIOD


def test_same_length_changes_nothing():
    cfg = load_config(str(R50))
    assert load_config(str(R50), scaled_schedule(cfg, cfg.SOLVER.MAX_ITER)) == cfg


def test_no_evaluation_stays_no_evaluation():
    cfg = load_config(str(R50), ["TEST.EVAL_PERIOD", 0])
    assert load_config(str(R50), scaled_schedule(cfg, 100)).TEST.EVAL_PERIOD == 0


def test_a_run_has_an_iteration():
    with pytest.raises(ValueError, match="at least 1"):
        scaled_schedule(load_config(str(R50)), 0)
