"""Which files the arguments name, and where the results go."""

from pathlib import Path

import pytest
from PIL import Image

from mask2former_runtime.inputs import expand_inputs, image_ids, output_paths


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in ("b.jpg", "a.PNG", "note.txt", ".hidden.png", "sub/c.webp", "sub/deep/d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["."], ["a.PNG", "b.jpg"]),
        (["b.jpg", "a.PNG"], ["b.jpg", "a.PNG"]),
        (["*"], ["a.PNG", "b.jpg"]),
        (["sub/**/*.*"], ["sub/c.webp", "sub/deep/d.jpg"]),
        (["note.txt"], ["note.txt"]),  # an explicit name counts whatever its suffix
        (["b.jpg", "*.jpg", "./b.jpg", "sub"], ["b.jpg", "sub/c.webp"]),  # no repetition
        (["missing.jpg"], ["missing.jpg"]),
    ],
)
def test_expand_inputs(tree, arguments, expected):
    assert [str(path) for path in expand_inputs(arguments)] == expected


def test_a_file_name_may_look_like_a_pattern(tree):
    Path("x[1].png").touch()
    assert expand_inputs(["x[1].png"]) == [Path("x[1].png")]


@pytest.mark.parametrize("argument", ["*.gif", "nowhere/*", "folder.jpg"])
def test_nothing_found_is_an_error(tree, argument):
    with pytest.raises(ValueError, match="no image"):
        expand_inputs([argument])


def test_an_empty_path_is_not_the_current_folder(tree):
    with pytest.raises(ValueError, match="is empty"):
        expand_inputs([""])


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["x/a.jpg", "x/b.JPEG", "x/c.tif"], ["a.jpg", "b.JPEG", "c.png"]),
        (["x/a.jpg", "y/a.jpg", "y/b.jpg"], ["x/a.jpg", "y/a.jpg", "b.jpg"]),
        (["x/a.jpg", "x/deep/a.jpg"], ["a.jpg", "deep/a.jpg"]),
        (["x/a.png", "x/a.tif", "x/a.bmp"], ["a.png", "a-2.png", "a-3.png"]),
        (["x/a.png", "x/a.tif", "x/a-2.png"], ["a.png", "a-2.png", "a-2-2.png"]),
        (["x/A.png", "y/a.png"], ["x/A.png", "y/a.png"]),
        (["x/y/a.png", "z/y/a.png"], ["x/y/a.png", "z/y/a.png"]),
    ],
)
def test_output_paths_are_distinct(inputs, expected):
    paths = output_paths([Path("/data", path) for path in inputs], Path("/out"))
    names = [str(path.relative_to("/out")) for path in paths]
    assert names == expected
    assert len({name.casefold() for name in names}) == len(inputs)


def test_output_file(tmp_path):
    assert output_paths([Path("a.jpg")], tmp_path / "x.png") == [tmp_path / "x.png"]
    with pytest.raises(ValueError, match="name a folder"):
        output_paths([Path("a.jpg"), Path("b.jpg")], tmp_path / "x.png")


def test_heic_files_are_read_but_not_written(monkeypatch):
    monkeypatch.delitem(Image.SAVE, "HEIF", raising=False)
    with pytest.raises(ValueError, match=r"x\.heic: cannot write.*\.png"):
        output_paths([Path("a.heic")], Path("x.heic"))
    assert output_paths([Path("a.heic")], Path("out")) == [Path("out/a.png")]


def test_inputs_are_never_replaced(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ValueError, match="would replace an input"):
        output_paths([tmp_path / "a.jpg"], tmp_path)
    with pytest.raises(ValueError, match="would replace an input"):
        output_paths([tmp_path / "b.tif", tmp_path / "b.png"], tmp_path)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["000000000139.jpg", "7.png"], [139, 7]),
        (["139.jpg", "cat.jpg"], [1, 2]),
        (["x/1.jpg", "y/1.jpg"], [1, 2]),
        (["1.jpg", "01.jpg"], [1, 2]),
    ],
)
def test_image_ids(names, expected):
    assert image_ids([Path(name) for name in names]) == expected
