"""The post-processing against the model's, on random queries of many sizes."""

import tracemalloc

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mask2former.inference.predictor import best_classes, confident
from mask2former.modeling.postprocessing import (
    instance_inference,
    panoptic_inference,
    semantic_inference,
    upsample_masks,
)
from mask2former.modeling.query_prediction import QueryPrediction
from mask2former_runtime.bit_planes import unpack
from mask2former_runtime.postprocessing import Queries, class_map, instances, segments
from mask2former_runtime.resizing import Resizing

# The padded input, the image within it, and the output.
SIZES = {
    "as it is": ((64, 96), (64, 96), (64, 96)),
    "padded": ((64, 96), (50, 70), (50, 70)),
    "enlarged": ((64, 96), (60, 80), (211, 173)),
    "reduced": ((128, 160), (120, 131), (37, 60)),
    "one row": ((32, 96), (1, 90), (1, 341)),
    "one pixel": ((32, 32), (32, 32), (1, 1)),
    "to a larger side": ((96, 64), (96, 33), (40, 200)),
}
# A pixel may differ where the model's logit is this close to the threshold.
ROUNDING = 2e-5


def queries_of(sizes: str, seed: int = 0, classes: int = 4, count: int = 30) -> QueryPrediction:
    """Smooth blobs: some large, some small, some without a pixel."""
    padded, image, _ = SIZES[sizes]
    generator = torch.Generator().manual_seed(seed)
    shape = (padded[0] // 4, padded[1] // 4)
    noise = torch.randn(1, count, *(max(2, side // 4) for side in shape), generator=generator)
    masks = F.interpolate(noise, size=shape, mode="bicubic")[0] * 6
    masks -= torch.linspace(-3, 12, count)[:, None, None]
    logits = torch.randn(count, classes + 1, generator=generator) * 3
    return QueryPrediction(logits, masks.contiguous(), padded, image)


def as_arrays(queries: QueryPrediction) -> Queries:
    return Queries(
        queries.class_logits.numpy(),
        queries.mask_logits.numpy(),
        queries.padded_size,
        queries.image_size,
    )


@pytest.mark.parametrize("sizes", SIZES)
def test_resizing_is_that_of_interpolate(sizes):
    queries, output = queries_of(sizes), SIZES[sizes][2]
    expected = upsample_masks(queries.mask_logits, queries, output).numpy()
    resizing = as_arrays(queries).resizing(output)
    for most in (1, 7, 1000):
        bands = list(resizing.bands(queries.mask_logits.numpy(), most, (0, output[0])))
        assert [band[0] for band in bands] == [
            (first, min(first + most, output[0])) for first in range(0, output[0], most)
        ]
        found = np.concatenate([rows for _, rows in bands], axis=1)
        np.testing.assert_allclose(found, expected, atol=ROUNDING / 2)


@pytest.mark.parametrize(("inputs", "outputs"), [(1333, 4000), (800, 1001), (1216, 600), (1, 5)])
def test_positions_have_the_rounding_of_interpolate(inputs, outputs):
    """Half a thousandth of a pixel would move edges where masks are steep."""
    maps = torch.randn(1, 1, 1, inputs, generator=torch.Generator().manual_seed(0)) * 1000
    expected = F.interpolate(maps, size=(1, outputs), mode="bilinear", align_corners=False)
    found = Resizing.plain((1, inputs), (1, outputs)).rows(maps[0].numpy(), (0, 1))
    np.testing.assert_allclose(found, expected[0].numpy(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("things", [None, (1, 2)])
def test_instances(sizes, threshold, things):
    queries, output = queries_of(sizes), SIZES[sizes][2]
    expected = confident(
        instance_inference(queries, output, max_detections=40, thing_classes=things), threshold
    )
    found = instances(
        as_arrays(queries),
        output,
        max_detections=40,
        threshold=threshold,
        thing_classes=things,
    )
    np.testing.assert_array_equal(found.labels, expected.pred_classes)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    assert found.boxes.shape == (len(expected), 4) and found.boxes.dtype == np.float32
    assert len(found.planes) == -(-len(expected) // 8)
    for n, mask in enumerate(expected.pred_masks.numpy()):
        np.testing.assert_array_equal(unpack(found.planes, n), mask)
    np.testing.assert_array_equal(found.boxes, expected.pred_boxes.tensor)
    assert threshold or len(expected) > 5 or sizes.startswith("one")


@pytest.mark.parametrize("classes", [1, 7])
@pytest.mark.parametrize("most", [1, 3, 1000])
def test_few_classes_and_candidates(classes, most):
    queries, output = queries_of("enlarged", classes=classes), SIZES["enlarged"][2]
    expected = confident(instance_inference(queries, output, max_detections=most), 0.01)
    found = instances(as_arrays(queries), output, max_detections=most, threshold=0.01)
    np.testing.assert_array_equal(found.labels, expected.pred_classes)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    masks = [unpack(found.planes, n) for n in range(len(found.labels))]
    np.testing.assert_array_equal(np.array(masks), expected.pred_masks)


def test_no_instances():
    queries = queries_of("padded")
    queries.mask_logits.fill_(-1)
    found = instances(as_arrays(queries), (50, 70), max_detections=100, threshold=0.0)
    assert found.labels.shape == found.scores.shape == (0,)
    assert found.boxes.shape == (0, 4) and found.planes.shape == (0, 50, 70)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("resize_first", [False, True])
@pytest.mark.parametrize("classes", [1, 5, 40])
def test_classes(sizes, resize_first, classes, monkeypatch):
    """As the predictor finds them, at the size of the image within the input or of the output."""
    queries, output = queries_of(sizes, classes=classes), SIZES[sizes][2]
    size = output if resize_first else queries.image_size
    scores = semantic_inference(queries, size, resize_first=resize_first)
    expected = best_classes(scores, output).numpy()
    if size != output:
        scores = F.interpolate(scores[None], size=output, mode="bilinear")[0]
    best = np.sort(scores.numpy(), axis=0)[-2:]
    clear = best[-1] - best[0] > 1e-6 if classes > 1 else np.ones(output, bool)
    for pixels in (1 << 24, 3000, 1):
        monkeypatch.setattr("mask2former_runtime.postprocessing.BAND_PIXELS", pixels)
        found = class_map(as_arrays(queries), output, resize_first=resize_first)
        assert found.shape == output and clear.mean() > 0.999
        np.testing.assert_array_equal(found[clear], expected[clear])


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("threshold", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("overlap", [0.0, 0.6, 1.0])
def test_segments(sizes, threshold, overlap, monkeypatch):
    queries, output = queries_of(sizes, seed=3), SIZES[sizes][2]
    options = {"overlap_threshold": overlap, "thing_classes": {0, 2}}
    ids, expected = panoptic_inference(queries, output, object_mask_threshold=threshold, **options)
    for pixels in (1 << 24, 3000):
        monkeypatch.setattr("mask2former_runtime.postprocessing.BAND_PIXELS", pixels)
        id_map, found = segments(
            as_arrays(queries), output, object_mask_threshold=threshold, **options
        )
        np.testing.assert_array_equal(id_map, ids.numpy())
        assert [{**s, "score": 0} for s in found] == [{**s, "score": 0} for s in expected]
        for one, other in zip(found, expected, strict=True):
            assert one["score"] == pytest.approx(other["score"], abs=1e-6)
    if threshold == 1:
        assert not expected


def test_memory_is_that_of_the_result_and_a_band():
    """100 masks of 2 megapixels; all of them as float32 would take 860 MB."""
    padded, output = (256, 384), (1200, 1800)
    noise = torch.randn(1, 100, 8, 12, generator=torch.Generator().manual_seed(0))
    masks = F.interpolate(noise, size=(64, 96), mode="bicubic")[0].numpy() * 6
    logits = np.zeros((100, 4), np.float32)
    logits[:, 0] = 5
    queries = Queries(logits, masks, padded, padded)
    megabytes = {}
    for name, run in {
        "instances": lambda: instances(queries, output, max_detections=100, threshold=0.3),
        "classes": lambda: class_map(queries, output, resize_first=True),
        "segments": lambda: segments(
            queries,
            output,
            object_mask_threshold=0.5,
            overlap_threshold=0.0,
            thing_classes=[0],
        ),
    }.items():
        tracemalloc.start()
        run()
        megabytes[name] = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
    # Twice the masks' bits, a map of int32, and bands of 17 MB.
    assert megabytes["instances"] < 2 * 27 + 30, megabytes
    assert megabytes["classes"] < 9 + 90, megabytes
    assert megabytes["segments"] < 9 + 90, megabytes


@pytest.mark.parametrize("sizes", ["padded", "enlarged", "one row"])
@pytest.mark.parametrize("most", [0.0, 0.3, 0.8])
def test_suppression_and_thresholds_of_classes_are_those_of_the_package(sizes, most):
    output, lowest = SIZES[sizes][2], [0.1, 0.0, 0.3, 0.2]
    compared = 0
    for seed in range(3):
        queries = queries_of(sizes, seed)
        queries.mask_logits[15:] = queries.mask_logits[:15] + 0.02  # doubles
        whole = instance_inference(queries, output, max_detections=40)
        expected = confident(
            instance_inference(queries, output, max_detections=40, mask_nms=most), lowest
        )
        found = instances(
            as_arrays(queries), output, max_detections=40, threshold=lowest, mask_nms=most
        )
        np.testing.assert_array_equal(found.labels, expected.pred_classes)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
        compared += len(confident(whole, lowest)) - len(found.labels)
    assert compared > 0 or sizes == "one row"
