"""SAHI with our models: whole images and slices."""

import numpy as np
import pytest
from scipy import ndimage

pytest.importorskip("sahi")

from sahi.predict import get_prediction, get_sliced_prediction

from mask2former import Mask2Former
from mask2former.inference.sahi_model import SahiModel


@pytest.fixture(scope="module")
def model(panoptic_config) -> Mask2Former:
    return Mask2Former.from_pretrained(panoptic_config.parent)


def test_a_whole_image_gives_the_models_instances(model, photo):
    expected = model.predict(photo, task="instance", threshold=0.3)
    found = get_prediction(photo, SahiModel(model, confidence_threshold=0.3)).object_prediction_list
    assert len(found) == len(expected) > 3
    for one, name, score, mask in zip(
        found, expected.names, expected.scores, expected.masks, strict=True
    ):
        assert one.category.name == name
        assert one.score.value == pytest.approx(score)
        filled = ndimage.binary_fill_holes(mask)  # it does not keep holes, nor single pixels
        overlap = (one.mask.bool_mask & filled).sum() / (one.mask.bool_mask | filled).sum()
        assert overlap > 0.9


def test_slices_are_put_in_their_places(model, photo):
    sahi = SahiModel(model, confidence_threshold=0.3)
    result = get_sliced_prediction(
        photo,
        sahi,
        slice_height=300,
        slice_width=256,
        overlap_height_ratio=0.0,
        overlap_width_ratio=0.0,
        perform_standard_pred=False,
        postprocess_match_threshold=1.1,  # no merging
        verbose=0,
    )
    pixels, expected = np.asarray(photo), []
    for y in (0, 300):
        for x in (0, 256):
            part = model.predict(pixels[y : y + 300, x : x + 256], task="instance", threshold=0.3)
            boxes = part.boxes + np.array([x, y, x, y])
            expected += list(zip(part.names, boxes.tolist(), strict=True))
    found = [(p.category.name, p.bbox.to_xyxy()) for p in result.object_prediction_list]
    assert len(found) == len(expected) > 3
    key = lambda entry: (entry[0], *map(float, entry[1]))  # noqa: E731
    for (name, box), (other, other_box) in zip(
        sorted(found, key=key), sorted(expected, key=key), strict=True
    ):
        assert name == other
        np.testing.assert_allclose(box, other_box, atol=1)
