"""Walking through folders."""

import os

import pytest

from mask2former.data import DatasetError
from mask2former.data.files import walk_files


def write(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_links_to_other_folders_are_followed(tmp_path):
    write(tmp_path / "images/a.png", tmp_path / "elsewhere/inner/b.png")
    (tmp_path / "images/one").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images/two").symlink_to(tmp_path / "elsewhere/inner")
    (tmp_path / "images/three").symlink_to("two")
    (tmp_path / "linked").symlink_to("images")
    names = ["a.png", "one/inner/b.png", "three/b.png", "two/b.png"]
    assert sorted(walk_files(str(tmp_path / "images"))) == names
    assert sorted(walk_files(str(tmp_path / "linked"))) == names
    assert list(walk_files(str(tmp_path / "missing"))) == []


@pytest.mark.parametrize(
    ("links", "named"),
    [
        ({"images/self": "."}, "images/self"),
        ({"images/inner/up": "../.."}, "images/inner/up"),
        ({"images/one": ".", "images/two": "."}, "images/one"),
        ({"images/out": "../elsewhere", "elsewhere/back": "../images"}, "images/out/back"),
    ],
)
def test_a_link_to_a_folder_that_holds_it(links, named, tmp_path):
    write(tmp_path / "images/inner/a.png", tmp_path / "elsewhere/b.png")
    for path, target in links.items():
        (tmp_path / path).symlink_to(target)
    with pytest.raises(DatasetError) as caught:
        list(walk_files(str(tmp_path / "images")))
    path = os.path.join(tmp_path, named)
    assert str(caught.value) == f"{path} is a link to a folder that holds it: remove the link"
