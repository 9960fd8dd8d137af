"""What the console shows of an evaluation."""

import logging

from mask2former.engine.loggers.console import console_filter, short_evaluation
from mask2former.engine.loggers.evaluation_summary import summary

PANOPTIC = {"panoptic_seg": {"PQ": 50.123, "SQ": 1.0}, "sem_seg": {"mIoU": 7.0, "fwIoU": 2.0}}


def test_a_line_has_the_first_metric_of_each_task():
    assert summary(PANOPTIC) == "panoptic_seg/PQ 50.12, sem_seg/mIoU 7.00"
    assert summary({"segm": {"AP": float("nan"), "AP50": 3.0}}) == "segm/AP nan"
    assert summary({}) == ""


def test_averaged_weights_are_below_the_weights():
    average = {"panoptic_seg": {"PQ": 1.0}, "validation": {"total_loss": 30.5, "loss_ce": 1.0}}
    assert summary({**PANOPTIC, "ema": average}).splitlines() == [
        "           panoptic_seg/PQ  sem_seg/mIoU  validation/total_loss",
        "  weights            50.12          7.00",
        "  average             1.00                                30.50",
    ]


def test_each_data_set_has_a_row():
    results = {name: {"segm": {"AP": value}} for name, value in (("one", 1), ("another", 2))}
    assert summary(results).splitlines() == [
        "                    segm/AP",
        "  one, weights         1.00",
        "  another, weights     2.00",
    ]


def record(message, level=logging.INFO, name="detectron2.evaluation.evaluator"):
    return logging.LogRecord(name, level, "", 0, message, None, None)


def test_a_long_evaluation_says_how_far_it_is(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    table, progress = record("Evaluation results for segm:"), record("Inference done 11/51.")
    assert console_filter.filter(table) and console_filter.filter(progress)
    with short_evaluation():
        assert not console_filter.filter(table) and not console_filter.filter(progress)
        assert console_filter.filter(record("no memory", logging.WARNING))
        now[0] += 61
        assert console_filter.filter(progress) and not console_filter.filter(progress)
    assert console_filter.filter(table)
