"""Charts show the numbers they are given."""

import itertools
import math
import re
from xml.etree import ElementTree

import pytest
from html_pages import HOSTILE

from mask2former.report.charts import Axis, Series, line_chart, reliability_chart


def tree(svg):
    return ElementTree.fromstring(str(svg))


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 100), (0, 7), (-3, 2), (1e-6, 1e-4), (0, 90000), (0.2, 0.21)]
)
def test_ticks_are_round_and_few(low, high):
    axis = Axis("x", low, high)
    ticks = axis.ticks()
    assert 3 <= len(ticks) <= 8
    assert all(low - 1e-9 <= t <= high * (1 + 1e-9) for t in ticks)
    step = ticks[1] - ticks[0]
    assert all(b - a == pytest.approx(step) for a, b in itertools.pairwise(ticks))
    leading = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert min(abs(leading - m) for m in (1, 2, 2.5, 5, 10)) < 1e-6


@pytest.mark.parametrize("values", [[0.3, 0.7], [5, 5], [0, 0], [-2, -2], [math.nan, 3], []])
def test_an_axis_holds_its_values(values):
    axis = Axis.around("y", values)
    assert axis.low < axis.high
    assert all(axis.low <= v <= axis.high for v in values if math.isfinite(v))
    assert Axis.around("y", [3, 4], zero=True).low == 0


def test_points_are_where_their_values_are():
    chart = tree(line_chart([Series("a", [0, 5, 10], [0, 50, 100])], Axis("x", 0, 10),
                            Axis("y", 0, 100), markers=True))  # fmt: skip
    circles = [(float(c.get("cx")), float(c.get("cy"))) for c in chart.iter("circle")]
    (left, bottom), middle, (right, top) = circles
    assert left < right and top < bottom  # y grows downwards
    assert middle == pytest.approx(((left + right) / 2, (top + bottom) / 2), abs=0.1)
    path = next(chart.iter("path")).get("d")
    numbers = [float(n) for n in re.findall(r"[\d.]+", path)]
    assert numbers == pytest.approx([v for point in circles for v in point])


def test_a_line_has_gaps_where_values_are_missing():
    series = [Series("a", range(5), [1, math.nan, 2, math.inf, 3])]
    chart = tree(line_chart(series, Axis("x", 0, 4), Axis("y", 0, 3)))
    assert next(chart.iter("path")).get("d").count("M") == 3


def test_many_points_are_thinned_and_the_last_stays():
    series = [Series("a", range(10001), [i / 10000 for i in range(10001)])]
    path = next(tree(line_chart(series, Axis("x", 0, 10000), Axis("y"))).iter("path")).get("d")
    assert 100 < path.count("L") < 500
    assert path.endswith("L410 10")


def test_reliability_has_a_bar_per_bin_with_predictions():
    chart = tree(
        reliability_chart([0.1, math.nan, 0.8, 0.9], [0.5, math.nan, 1.0, 0], [3, 0, 2, 1])
    )
    bars = list(chart.iter("rect"))
    assert len(bars) == 3
    heights = [float(bar.get("height")) for bar in bars]
    assert heights == pytest.approx([heights[1] / 2, heights[1], 0], abs=0.1)
    assert "3 predictions with a mean score of 0.10: 50% are right" in bars[0].find("title").text


@pytest.mark.parametrize("name", HOSTILE)
def test_names_stay_text(name):
    series = [Series(name, [0, 1], [0, 1])]
    svg = line_chart(series, Axis(name), Axis(name), markers=True)
    tags = {element.tag for element in tree(svg).iter()}
    assert tags == {"svg", "g", "line", "text", "path", "circle", "title"}
