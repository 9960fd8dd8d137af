"""A small data set in each format."""

import shutil

import pytest
from format_sets import convert, write_coco

from mask2former.formats import FORMATS


@pytest.fixture(scope="session")
def sound(tmp_path_factory):
    """A folder with a folder per format, which is not to be changed."""
    root = tmp_path_factory.mktemp("sound")
    write_coco(root / "coco")
    for to in FORMATS:
        if to not in ("coco", "coco-panoptic"):
            convert(root / "coco", root / to, to)
    return root


@pytest.fixture
def copied(sound, tmp_path):
    """Return a copy of the data in a format, to change it."""

    def copy(name):
        return shutil.copytree(sound / name, tmp_path / "data")

    return copy
