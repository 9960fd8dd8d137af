"""Dividing a set of images into training and validation."""

import json
import random
from collections import Counter

import pytest

from mask2former.data import DatasetError
from mask2former.data.checks.report import ImageContent
from mask2former.data.split import draw_split, read_split


def contents(seed, count):
    """Images with objects of 8 classes, of which the last ones are rare."""
    draw = random.Random(seed)
    images = {}
    for number in range(count):
        classes = [c for c in range(8) if draw.random() < 0.9 * 0.6**c]
        units = Counter({c: draw.randint(1, 5) for c in classes})
        images[f"{number}.jpg"] = ImageContent((10, 10), units)
    return images


@pytest.mark.parametrize("count", [2, 3, 5, 11, 40, 400])
@pytest.mark.parametrize("seed", range(5))
def test_parts_are_of_the_right_size_and_hold_each_class(seed, count):
    images = contents(seed, count)
    split = draw_split(images, seed)
    assert sorted((*split.train, *split.val)) == sorted(images)
    assert not set(split.train) & set(split.val)
    assert len(split.val) == max(1, round(0.18 * count))
    for c in range(8):
        total, held = (
            sum(c in images[name].units for name in names) for names in (images, split.val)
        )
        if count >= 40:
            assert held < total or not total
            if total >= 3:
                assert held >= 1
            if total >= 20:
                assert 0.08 < held / total < 0.4
    assert draw_split(dict(reversed(images.items())), seed) == split
    if count >= 40:
        assert draw_split(images, seed + 1).val != split.val


def test_one_image_is_not_divided():
    assert draw_split(contents(0, 1), 0) is None
    assert draw_split({}, 0) is None


def test_a_split_is_read_as_it_was_written(tmp_path):
    split = draw_split(contents(3, 20), 3)
    split.save(tmp_path)
    assert read_split(tmp_path / "split.json") == split
    assert "3 of" not in split.summary() and split.summary().startswith("4 of 20 images")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "an object with 'train' and 'val'"),
        ({"train": ["a"]}, "'val' must be a list"),
        ({"train": ["a"], "val": []}, "'val' must be a list"),
        ({"train": [1], "val": ["b"]}, "'train' must be a list"),
        ({"train": ["a", "b"], "val": ["b"]}, "both 'train' and 'val' list b"),
    ],
)
def test_mistakes(content, message, tmp_path):
    path = tmp_path / "split.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=message):
        read_split(path)
