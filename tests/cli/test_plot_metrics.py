"""The command line that plots a training run."""

import json

import pytest
from PIL import Image

from mask2former.cli.plot_metrics import draw, main

ROWS = [
    {"iteration": 19, "loss_ce": 2.0, "loss_mask": 1.0, "lr": 1e-4},
    {"iteration": 39, "loss_ce": 1.0, "loss_mask": 0.5, "lr": 1e-4},
    {"iteration": 39, "segm/AP": 31.0},
]


@pytest.fixture
def run(tmp_path):
    (tmp_path / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def test_each_curve_has_the_rows_with_its_key():
    lines = {
        line.get_label(): line.get_xydata().tolist()
        for axes in draw(ROWS).axes
        for line in axes.lines
    }
    assert lines == {
        "lr": [[19, 1e-4], [39, 1e-4]],
        "loss_ce": [[19, 2], [39, 1]],
        "loss_mask": [[19, 1], [39, 0.5]],
        "segm/AP": [[39, 31]],
    }


def test_averages_validation_losses_and_the_gradient_are_drawn_where_a_run_has_them():
    more = {"ema/segm/AP": 40.0, "validation/total_loss": 5.0, "gradient/norm": 7.0}
    figure = draw([*ROWS, {"iteration": 39, "total_loss": 4.0, **more}])
    panels = [{x.get_label(): x.get_xydata().tolist() for x in a.lines} for a in figure.axes]
    assert {"segm/AP": [[39, 31]], "ema/segm/AP": [[39, 40]]} in panels
    assert {"total_loss": [[39, 4]], "validation/total_loss": [[39, 5]]} in panels
    assert {"gradient/norm": [[39, 7]]} in panels
    (metric,) = (a for a in figure.axes if any(x.get_label() == "segm/AP" for x in a.lines))
    assert metric.get_ylim()[1] >= 40
    raw, average = metric.lines
    assert raw.get_color() == average.get_color() and raw.get_linestyle() != average.get_linestyle()
    names = [text.get_text() for text in metric.get_legend().get_texts()]
    assert names == ["segm/AP", "of averaged weights (ema/)"]
    assert all(len(a.lines) for a in draw(ROWS).axes)


@pytest.mark.parametrize(
    ("most", "limit"),
    [(0.03, 0.04), (1.7, 2), (0.96, 1.1), (17, 20), (62, 70), (96, 100), (100, 100), (0, 100),
     (float("nan"), 100)],
)  # fmt: skip
def test_low_metrics_fill_the_axis(most, limit):
    rows = [*ROWS[:2], {"iteration": 39, "segm/AP": most, "segm/AP50": most / 2}]
    axes = draw(rows).axes[1]
    assert axes.get_ylim() == pytest.approx((0, limit))


def test_steps_of_the_learning_rate_are_seen():
    def scale(*rates):
        rows = [{"iteration": i, "lr": rate} for i, rate in enumerate(rates)]
        (axes,) = (a for a in draw(rows).axes if any(x.get_label() == "lr" for x in a.lines))
        return axes.get_yscale()

    assert scale(1e-4, 1e-4, 5e-5) == "linear"
    assert scale(1e-4, 1e-5, 1e-6) == "log"
    assert scale(0, 0) == "linear"


def test_the_picture_is_written_where_it_is_asked_for(run, capsys):
    for arguments, path in (
        ([], run / "curves.png"),
        (["--output", str(run / "a.jpg")], run / "a.jpg"),
    ):
        assert main([str(run), *arguments]) == 0
        assert capsys.readouterr().out == f"Curves: {path}\n"
        with Image.open(path) as picture:
            assert picture.format == {".png": "PNG", ".jpg": "JPEG"}[path.suffix]


@pytest.mark.parametrize(
    ("metrics", "output", "message"),
    [
        (None, "a.png", "metrics.json: give the OUTPUT_DIR"),
        ("{", "a.png", "error: "),
        ("", "a.doc", "doc"),
        ("", "missing/a.png", "missing"),
    ],
)
def test_mistakes_are_named_and_leave_no_file(run, metrics, output, message, capsys):
    path = run / "metrics.json"
    path.unlink() if metrics is None else path.write_text(metrics)
    before = sorted(run.iterdir())
    with pytest.raises(SystemExit) as caught:
        main([str(run), "--output", str(run / output)])
    assert caught.value.code == (1 if message == "missing" else 2)
    assert message in capsys.readouterr().err
    assert sorted(run.iterdir()) == before
