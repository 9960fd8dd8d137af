"""Metrics of a run, as its metrics.json holds them."""

import json

import pytest

from mask2former.report.run_metrics import points, read_metrics, upper_limit


def test_later_rows_of_an_iteration_count(tmp_path):
    rows = [
        {"iteration": 19, "loss_ce": 3.0},
        {"iteration": 39, "loss_ce": 2.0},
        {"iteration": 59, "loss_ce": 1.5},
        {"iteration": 39, "loss_ce": 1.9},  # resumed
        {"iteration": 39, "segm/AP": 12.0},
    ]
    path = tmp_path / "metrics.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_metrics(path)
    assert points(found, "loss_ce") == [(19, 3.0), (39, 1.9), (59, 1.5)]
    assert points(found, "segm/AP") == [(39, 12.0)]
    path.write_text("{")
    with pytest.raises(ValueError):
        read_metrics(path)


@pytest.mark.parametrize(("most", "limit"), [(1.7, 2), (17, 20), (62, 70), (99, 100), (0, 100)])
def test_upper_limit(most, limit):
    assert upper_limit([{"segm/AP": most / 2}, {"sem_seg/mIoU": most}]) == pytest.approx(limit)
