"""What is said before training about objects that a model will miss."""

from collections import Counter

import numpy as np
import pytest
from detectron2.data.transforms import ResizeShortestEdge

from mask2former import load_config, model_zoo
from mask2former.data.checks.coco_instances import check_coco_json
from mask2former.data.checks.coco_panoptic import check_panoptic_json
from mask2former.data.checks.report import ImageContent
from mask2former.engine.settings.data_warnings import data_warnings


def config(name, *overrides):
    return load_config(model_zoo.get_config_file(name), overrides)


def test_areas_are_those_of_the_masks(datasets):
    """The same objects come as polygons or run lengths, and as segments of panoptic PNG files."""
    root = datasets / "synthetic_shapes"
    instances = check_coco_json(str(root / "annotations/instances_train.json"), str(root / "train"))
    panoptic = check_panoptic_json(
        str(root / "annotations/panoptic_train.json"),
        str(root / "train"),
        str(root / "panoptic_train"),
    )
    assert instances.images.keys() == panoptic.images.keys()
    for name, content in instances.images.items():
        assert len(content.areas) == content.units.total() > 0
        things = sum(
            count
            for id_, count in panoptic.images[name].units.items()
            if panoptic.classes.is_thing(panoptic.classes.index[id_])
        )
        assert len(panoptic.images[name].areas) == things
        # Polygons run through the middles or edges of pixels: areas agree to an outline.
        for a, b in zip(sorted(content.areas), sorted(panoptic.images[name].areas), strict=False):
            assert a == pytest.approx(b, abs=4 * np.sqrt(max(a, b)) + 4)


@pytest.mark.parametrize("size", [(100, 100), (300, 500), (900, 200), (4000, 3000)])
def test_small_is_what_the_network_sees(size):
    """The oracle resizes the image as evaluation does."""
    cfg = config("quickstart/photos")
    resize = ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    seen = resize.get_transform(np.zeros((*size, 3), np.uint8))
    scale = (getattr(seen, "new_h", size[0]) * getattr(seen, "new_w", size[1])) / np.prod(size)
    border = 64 / scale  # pixels of the image
    areas = [0.5 * border, 0.98 * border, 1.02 * border, 9 * border]
    images = {"a.png": ImageContent(size, Counter({1: 4}), areas)}
    (warning,) = data_warnings(cfg, images, "instance")
    assert warning.startswith("2 of 4 objects are smaller than 8 x 8 pixels")
    assert "INPUT." in warning
    images["a.png"].areas = areas[2:]
    assert not list(data_warnings(cfg, images, "instance"))


def test_few_small_objects_are_not_worth_a_warning():
    areas = [1.0] + [10_000.0] * 200
    images = {"a.png": ImageContent((300, 300), Counter({1: 10}), areas)}
    assert not list(data_warnings(config("quickstart/photos"), images, "instance"))


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_images_with_more_objects_than_queries(task):
    cfg = config("quickstart/photos", "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 3)
    images = {
        "at the limit": ImageContent((300, 300), Counter({1: 2, 2: 1})),
        "many of few classes": ImageContent((300, 300), Counter({1: 30, 2: 10})),
        "many classes": ImageContent((300, 300), Counter(dict.fromkeys(range(7), 1))),
    }
    (warning,) = data_warnings(cfg, images, task)
    count, most = ("1 of 3 images has", 7) if task == "semantic" else ("2 of 3 images have", 40)
    assert warning.startswith(count)
    assert f"the most is {most}" in warning
    assert "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES" in warning
