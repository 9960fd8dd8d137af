"""Line and bar charts as SVG.

Colours and fonts come from the style sheet of the page, so that a chart follows the light or dark
scheme of its reader. Elements are built as a tree, which escapes every text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from markupsafe import Markup

from mask2former_runtime.text import one_line

# The size of a chart in units of the drawing, about pixels on a phone.
_WIDTH, _HEIGHT = 420, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 10, 10, 42
COLORS = 8  # that the style sheet has for series
_MOST_POINTS = 400


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        label: what it shows, with the unit.
        low: the value at its beginning.
        high: the value at its end, above `low`.
    """

    label: str
    low: float = 0.0
    high: float = 1.0

    @classmethod
    def around(cls, label: str, values: Sequence[float], *, zero: bool = False) -> Axis:
        """Return an axis that holds all finite values, and 0 if asked for."""
        finite = [v for v in values if math.isfinite(v)] + [0.0] * zero
        low, high = min(finite, default=0.0), max(finite, default=1.0)
        if low == high:
            low, high = (low, low + 1) if low >= 0 else (low, 0.0)
        step = _step(high - low)
        return cls(label, math.floor(low / step) * step, math.ceil(high / step) * step)

    def ticks(self) -> list[float]:
        """Return about five round values on the axis."""
        step = _step(self.high - self.low)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]

    def share(self, value: float) -> float:
        """Return the position of a value, 0 at the beginning and 1 at the end."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


def _step(span: float) -> float:
    """Return the distance between round values of which about five fit the span."""
    rough = span / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        name: its name in the legend.
        xs: positions.
        ys: values; the line has a gap where one is not finite.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]


def line_chart(series: Sequence[Series], x: Axis, y: Axis, *, markers: bool = False) -> Markup:
    """Draw lines, each in the next colour and dash pattern of the style sheet.

    Args:
        series: at most `COLORS` of them can be told apart.
        x: the horizontal axis.
        y: the vertical axis.
        markers: mark each point, whose value then shows under the pointer.
    """
    svg = _frame(x, y, f"{y.label} by {x.label}: {', '.join(s.name for s in series)}")
    for i, line in enumerate(series):
        group = ElementTree.SubElement(svg, "g", {"class": f"line c{i % COLORS}"})
        ElementTree.SubElement(group, "title").text = one_line(line.name)
        ElementTree.SubElement(group, "path", {"d": _path(line, x, y)})
        if not markers:
            continue
        for a, b in zip(line.xs, line.ys, strict=True):
            if math.isfinite(b):
                at = {"cx": _number(_across(x, a)), "cy": _number(_down(y, b)), "r": "3.5"}
                point = ElementTree.SubElement(group, "circle", at)
                text = f"{one_line(line.name)}: {b:.4g} at {a:g}"
                ElementTree.SubElement(point, "title").text = text
    return _markup(svg)


def reliability_chart(
    scores: Sequence[float], accuracies: Sequence[float], counts: Sequence[int]
) -> Markup:
    """Draw a reliability diagram: how often predictions are right, by their score.

    Args:
        scores: mean score of each bin of equal width, NaN if it is empty.
        accuracies: share of its predictions that are right.
        counts: number of its predictions.
    """
    x, y = Axis("score"), Axis("share of predictions that are right")
    svg = _frame(x, y, "share of right predictions by score")
    width, bins = 1 / len(counts), len(counts)
    for i, (score, accuracy, count) in enumerate(zip(scores, accuracies, counts, strict=True)):
        if not count:
            continue
        left, right = _across(x, i / bins), _across(x, i / bins + width)
        top = _down(y, accuracy)
        bar = ElementTree.SubElement(
            svg,
            "rect",
            {
                "class": "bar",
                "x": _number(left + 1.5),
                "y": _number(top),
                "width": _number(right - left - 3),
                "height": _number(_down(y, 0) - top),
            },
        )
        text = f"{count} predictions with a mean score of {score:.2f}: {accuracy:.0%} are right"
        ElementTree.SubElement(bar, "title").text = text
    ends = _across(x, 0), _down(y, 0), _across(x, 1), _down(y, 1)
    keys = ("x1", "y1", "x2", "y2")
    ideal = {"class": "ideal", **{k: _number(v) for k, v in zip(keys, ends, strict=True)}}
    ElementTree.SubElement(svg, "line", ideal)
    return _markup(svg)


def _frame(x: Axis, y: Axis, label: str) -> ElementTree.Element:
    """Return a chart without data."""
    svg = ElementTree.Element(
        "svg", {"viewBox": f"0 0 {_WIDTH} {_HEIGHT}", "role": "img", "aria-label": one_line(label)}
    )
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for value in y.ticks():
        at = _number(_down(y, value))
        ElementTree.SubElement(
            svg, "line", {"class": "grid", "x1": str(_LEFT), "x2": str(right), "y1": at, "y2": at}
        )
        _text(svg, _tick(value), _LEFT - 7, _down(y, value) + 4, "end")
    for value in x.ticks():
        _text(svg, _tick(value), _across(x, value), bottom + 16, "middle")
    baseline = {"x1": str(_LEFT), "x2": str(right), "y1": str(bottom), "y2": str(bottom)}
    ElementTree.SubElement(svg, "line", {"class": "axis", **baseline})
    _text(svg, x.label, (_LEFT + right) / 2, _HEIGHT - 7, "middle", "label")
    middle = (_TOP + bottom) / 2
    element = _text(svg, y.label, 12, middle, "middle", "label")
    element.set("transform", f"rotate(-90 12 {_number(middle)})")
    return svg


def _text(
    svg: ElementTree.Element, text: str, x: float, y: float, anchor: str, kind: str = "tick"
) -> ElementTree.Element:
    where = {"class": kind, "x": _number(x), "y": _number(y), "text-anchor": anchor}
    element = ElementTree.SubElement(svg, "text", where)
    element.text = one_line(text, 60)
    return element


def _path(line: Series, x: Axis, y: Axis) -> str:
    points = list(zip(line.xs, line.ys, strict=True))
    if len(points) > _MOST_POINTS:  # more do not show
        every = math.ceil(len(points) / _MOST_POINTS)
        points = points[:-1:every] + points[-1:]
    parts, pen = [], "M"
    for a, b in points:
        if not math.isfinite(b):
            pen = "M"
            continue
        parts.append(f"{pen}{_number(_across(x, a))} {_number(_down(y, b))}")
        pen = "L"
    return "".join(parts)


def _across(x: Axis, value: float) -> float:
    return _LEFT + x.share(value) * (_WIDTH - _LEFT - _RIGHT)


def _down(y: Axis, value: float) -> float:
    return _HEIGHT - _BOTTOM - y.share(value) * (_HEIGHT - _TOP - _BOTTOM)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _tick(value: float) -> str:
    if abs(value) >= 10000:
        return f"{value / 1000:g}k"
    if value and abs(value) < 1e-3:
        digits, _, power = f"{value:.1e}".partition("e")
        return f"{digits.removesuffix('.0')}e{int(power)}"
    return f"{value:.10g}"


def _markup(svg: ElementTree.Element) -> Markup:
    return Markup(ElementTree.tostring(svg, encoding="unicode"))
