"""A page is sound HTML that shows what it is given, and runs and loads nothing."""

import io
import math

import numpy as np
import pytest
from browser import find_chromium
from html_pages import HOSTILE, assert_self_contained, dump_dom, parse, texts
from PIL import Image

from mask2former.report.charts import Axis, Series, line_chart
from mask2former.report.page import (
    Beside,
    Chart,
    Picture,
    Pictures,
    Section,
    Table,
    Text,
    Tiles,
    confusion_matrix,
    confusion_table,
    render,
)


def page_of(names: list[str]) -> str:
    """A page with every kind of block, and the names wherever names can be."""
    confusion = np.arange(len(names) ** 2).reshape(len(names), -1)
    chart = line_chart([Series(n, [0, 1], [0, 1]) for n in names], Axis("x"), Axis("y"))
    picture = Image.new("RGB", (40, 30), (200, 30, 30))
    first = names[0]
    blocks = [
        Tiles([(n, "1.0") for n in names]),
        Table([first, "number"], [(n, 1.25) for n in names], {1: 2.0}, caption=first, note=first),
        Table([first, "number"], [(n, math.nan) for n in names], {1: 2.0}, folded=True),
        Table(["nothing"], [], caption="empty"),
        Beside([Chart(first, chart, names, note=first)]),
        confusion_matrix(names, confusion, title=first, note=first),
        confusion_table(names, confusion, "objects"),
        Pictures(first, [Picture.of(picture, n, 20) for n in names], note=first),
        Text(first),
        Text(first, code="\n".join(names)),
    ]
    sections = [Section(n, blocks) for n in names[:2]]
    return render(first, [(n, n) for n in names], sections)


def test_names_from_files_are_text(tmp_path):
    page = page_of(HOSTILE)
    assert_self_contained(page)
    tree = parse(page)
    assert texts(tree, "h1") == [HOSTILE[0]]
    assert not texts(tree, "b") and not texts(tree, "script")
    assert texts(tree, "pre")[0].split("\n")[:2] == HOSTILE[:2]
    cells = texts(tree, "td")
    for name in HOSTILE[:4]:
        assert name in cells
    assert all(len(cell) <= 60 for cell in cells)
    assert "\0" not in page and "\x1b" not in page and "\u202e" not in page


@pytest.mark.skipif(find_chromium() is None, reason="needs Chromium")
def test_chromium_shows_names_as_text(tmp_path):
    path = tmp_path / "report.html"
    path.write_bytes(page_of(HOSTILE).encode(errors="replace"))
    document = dump_dom(path, tmp_path / "profile")
    assert "<script" not in document and "<b>" not in document
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in document


def test_cells(tmp_path):
    table = Table(["name", "n", "%"], [("a", 12345, 1.26)], {2: 100.0})
    assert [table.text(c) for c in ("a", 12345, 1.26, math.nan)] == ["a", "12,345", "1.3", "–"]  # noqa: RUF001
    assert table.share(2, 50) == 0.5
    assert table.share(2, 500) == 1
    assert table.share(1, 50) is None and table.share(2, math.nan) is None
    assert Table(["n"], [(0,)], {0: 0}).share(0, 0) == 0


def test_matrix_of_few_classes_shows_all():
    confusion = np.array([[3, 1, 4], [0, 0, 0], [2, 5, 0]])
    matrix = confusion_matrix(["a", "b"], confusion, missed="missed", invented="new", title="")
    assert list(matrix.rows) == ["a", "b", "new"] and list(matrix.columns) == ["a", "b", "missed"]
    assert [matrix.text(0, j) for j in range(3)] == ["3", "1", "4"]
    assert matrix.heat(0, 2) == 50
    assert matrix.heat(1, 0) == 0  # a class without objects
    assert matrix.heat(2, 1) == 0  # not a part of any class


def test_matrix_of_many_classes_shows_those_that_are_confused():
    K = 80
    confusion = np.eye(K, dtype=int) * 1000
    confusion[70, 3], confusion[5, 60] = 9, 8
    names = [f"class {k}" for k in range(K)]
    matrix = confusion_matrix(names, confusion, title="", percent=True)
    assert len(matrix.rows) == 24
    assert {"class 70", "class 3", "class 5", "class 60"} <= set(matrix.rows)
    i, j = matrix.rows.index("class 70"), matrix.columns.index("class 3")
    assert matrix.counts[i, j] == 9 and matrix.text(i, j) == f"{900 / 1009:.1f}"
    assert "24 of 80" in matrix.note
    table = confusion_table(names, confusion, "pixels")
    assert [row[:3] for row in table.rows] == [
        ("class 70", "class 3", 9),
        ("class 5", "class 60", 8),
    ]
    assert confusion_table(names, np.eye(K, dtype=int), "pixels").rows == []


def test_pictures_are_small():
    noise = np.random.default_rng(0).integers(0, 256, (3000, 4000, 3), dtype=np.uint8)
    picture = Picture.of(Image.fromarray(noise), "noise", 1100)
    assert picture.size[0] <= 1100 and picture.size[0] / picture.size[1] == pytest.approx(
        4 / 3, abs=0.02
    )
    assert 50_000 < len(picture.jpeg) <= 1100**2 / 4
    with Image.open(io.BytesIO(picture.jpeg)) as image:
        assert image.size == picture.size
    plain = Picture.of(Image.new("RGB", (3000, 2000)), "plain", 1100)
    assert plain.size == (1100, 733)
    small = Picture.of(Image.new("RGB", (30, 20)), "small", 1100)
    assert small.size == (30, 20)
    tiny = Picture.of(Image.fromarray(noise[:200, :200]), "tiny", 8)
    assert tiny.size == (8, 8)
