import itertools
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mask2former.modeling import postprocessing
from mask2former.modeling.ops.cpu_kernels import pytorch_forms
from mask2former.modeling.postprocessing import (
    instance_inference,
    mask_boxes,
    panoptic_inference,
    semantic_inference,
)
from mask2former.modeling.query_prediction import QueryPrediction

OUTPUTS = [(50, 70), (25, 36), (13, 90)]
CHUNKS = [1, 1 << 13, 1 << 24]


def resized(masks, size):
    return F.interpolate(masks[None], size=size, mode="bilinear", align_corners=False)[0]


def full_size(mask_logits, padded, image, output):
    """All masks at once, in the two steps of the published models."""
    return resized(resized(mask_logits, padded)[..., : image[0], : image[1]], output)


def literal_instances(class_logits, mask_logits, padded, image, output, n):
    """All masks at full size first, then one (query, class) pair after the other."""
    big = full_size(mask_logits, padded, image, output)
    probs = class_logits.softmax(-1)
    pairs = [
        (float(probs[q, k]), q, k) for q in range(len(probs)) for k in range(probs.shape[1] - 1)
    ]
    pairs.sort(reverse=True)
    for p, q, k in pairs[:n]:
        mask = big[q] > 0
        inside = big[q][mask].sigmoid()
        yield k, mask, p * float(inside.sum() / (mask.sum() + 1e-6))


def literal_semantic(class_logits, mask_logits, padded, image, output, resize_first):
    """Every pixel, class and query in turn."""
    target = output if resize_first else image
    masks = full_size(mask_logits, padded, image, target).sigmoid().double().numpy()
    probs = class_logits.softmax(-1).double().numpy()
    scores = np.zeros((probs.shape[1] - 1, *target))
    for k, y, x in np.ndindex(scores.shape):
        scores[k, y, x] = sum(probs[q, k] * masks[q, y, x] for q in range(len(probs)))
    return resized(torch.from_numpy(scores).float(), output)


def literal_panoptic(class_logits, masks, object_threshold, overlap_threshold, things):
    """Every pixel and query in turn, from mask probabilities at the size of the output."""
    probs = class_logits.softmax(-1).numpy()
    queries = [
        q for q, p in enumerate(probs) if p.argmax() < len(p) - 1 and p.max() > object_threshold
    ]
    height, width = masks.shape[1:]
    won = {q: [] for q in queries}
    for y, x in itertools.product(range(height), range(width)):
        if queries:
            won[max(queries, key=lambda q: probs[q].max() * masks[q, y, x])].append((y, x))
    result, segments = np.zeros((height, width), int), []
    for q in queries:
        area = sum(masks[q, y, x] >= 0.5 for y in range(height) for x in range(width))
        visible = [pixel for pixel in won[q] if masks[q][pixel] >= 0.5]
        if not visible or len(won[q]) / area < overlap_threshold:
            continue
        label = int(probs[q].argmax())
        same = [s for s in segments if s["category_id"] == label and label not in things]
        if not same:
            same = [{"id": len(segments) + 1, "isthing": label in things, "category_id": label}]
            same[0]["score"] = 0.0
            segments += same
        same[0]["score"] = max(same[0]["score"], probs[q].max())
        for pixel in visible:
            result[pixel] = same[0]["id"]
    return result, segments


def blobs(Q=8, K=4, size=(8, 10), seed=0):
    """Logits of round masks that overlap, the last of them empty; classes repeat."""
    generator = torch.Generator().manual_seed(seed)
    y, x = (torch.arange(n) + 0.5 for n in size)
    centers = torch.rand(Q, 2, generator=generator) * torch.tensor(size)
    radii = 1.5 + 3 * torch.rand(Q, generator=generator)
    distance = (
        (y[:, None] - centers[:, 0, None, None]) ** 2 + (x - centers[:, 1, None, None]) ** 2
    ).sqrt()
    masks = 2 * (radii[:, None, None] - distance) + 0.1 * torch.randn(Q, *size, generator=generator)
    masks[-1] = -3.0
    classes = torch.randn(Q, K + 1, generator=generator) * 0.3
    for q in range(Q):
        classes[q, q % (K + 1)] += 1 + 4 * torch.rand(1, generator=generator)[0]
    return classes, masks


def given(class_logits, mask_logits, padded, image, output):
    """A prediction, and the size of its result."""
    return QueryPrediction(class_logits, mask_logits, padded, image), output


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("chunk", [None, *CHUNKS])
def test_instances_equal_the_literal_rule(monkeypatch, output, chunk):
    if chunk is not None:  # else the compiled kernel, if there is one
        monkeypatch.setattr(postprocessing, "CHUNK_PIXELS", chunk)
    torch.manual_seed(0)
    class_logits, mask_logits = torch.randn(6, 4), torch.randn(6, 8, 10) * 3
    mask_logits[2] = -1.0  # an empty mask
    where = (32, 40), (25, 36), output
    with nullcontext() if chunk is None else pytorch_forms():
        got = instance_inference(*given(class_logits, mask_logits, *where), max_detections=10)
    wanted = list(literal_instances(class_logits, mask_logits, *where, 10))
    assert len(got) == 10 and got.image_size == output
    assert got.pred_masks.dtype == torch.bool
    for i, (label, mask, score) in enumerate(wanted):
        assert got.pred_classes[i] == label
        assert torch.equal(got.pred_masks[i], mask)
        assert got.scores[i].item() == pytest.approx(score, rel=1e-5, abs=1e-7)
        assert torch.equal(got.pred_boxes.tensor[i], mask_boxes(mask[None])[0])


@pytest.mark.parametrize("things", [{0, 2}, set(), {0, 1, 2}])
def test_instances_of_things_are_the_same_without_the_others(things):
    torch.manual_seed(0)
    logits = torch.randn(6, 4), torch.randn(6, 8, 10)
    where = (32, 40), (25, 36), (20, 30)
    every = instance_inference(*given(*logits, *where), max_detections=10)
    got = instance_inference(*given(*logits, *where), max_detections=10, thing_classes=things)
    kept = [i for i, label in enumerate(every.pred_classes.tolist()) if label in things]
    assert len(kept) < 10 or len(things) == 3  # none takes the place of those left out
    assert torch.equal(got.pred_classes, every.pred_classes[kept])
    assert torch.equal(got.scores, every.scores[kept])
    assert torch.equal(got.pred_masks, every.pred_masks[kept])
    assert torch.equal(got.pred_boxes.tensor, every.pred_boxes.tensor[kept])


def test_more_detections_than_pairs_gives_all_pairs():
    result = instance_inference(
        *given(torch.randn(2, 3), torch.randn(2, 4, 4), (16, 16), (16, 16), (16, 16)),
        max_detections=100,
    )
    assert len(result) == 4


def test_logits_of_a_model_that_records_gradients():
    logits = torch.randn(6, 4, requires_grad=True), torch.randn(6, 8, 10, requires_grad=True)
    where = (32, 40), (25, 36), (20, 30)
    instances = instance_inference(*given(*logits, *where), max_detections=10)
    assert len(instances) == 10 and not instances.scores.requires_grad
    ids, segments = panoptic_inference(
        *given(*logits, *where), object_mask_threshold=0.0, overlap_threshold=0.0, thing_classes={0}
    )
    assert ids.max() == len(segments) > 0


def test_boxes_enclose_masks_tightly():
    masks = torch.zeros(2, 5, 7, dtype=torch.bool)
    masks[1, 1, 2] = masks[1, 3, 5] = True
    assert mask_boxes(masks).tolist() == [[0, 0, 0, 0], [2, 1, 6, 4]]


@pytest.mark.parametrize("resize_first", [True, False])
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("chunk", CHUNKS)
def test_semantic_scores_equal_the_literal_rule(monkeypatch, output, chunk, resize_first):
    monkeypatch.setattr(postprocessing, "CHUNK_PIXELS", chunk)
    class_logits, mask_logits = blobs()
    where = (32, 40), (25, 36), output
    got = semantic_inference(*given(class_logits, mask_logits, *where), resize_first=resize_first)
    wanted = literal_semantic(class_logits, mask_logits, *where, resize_first)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_the_order_of_resizing_and_combining_matters():
    where = (32, 40), (25, 36), (50, 72)
    first, last = (
        semantic_inference(*given(*blobs(), *where), resize_first=value) for value in (True, False)
    )
    assert 1e-3 < (first - last).abs().max() < 0.2


def test_semantic_scores_under_autocast_stay_float32():
    where = (32, 40), (25, 36), (25, 36)
    wanted = semantic_inference(*given(*blobs(), *where), resize_first=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(semantic_inference(*given(*blobs(), *where), resize_first=True), wanted)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("thresholds", [(0.0, 0.0), (0.5, 0.6), (0.0, 0.9), (0.8, 0.8)])
def test_segments_equal_the_literal_rule(monkeypatch, output, chunk, thresholds):
    monkeypatch.setattr(postprocessing, "CHUNK_PIXELS", chunk)
    for seed in range(3):
        class_logits, mask_logits = blobs(seed=seed)
        where = (32, 40), (25, 36), output
        got, segments = panoptic_inference(
            *given(class_logits, mask_logits, *where),
            object_mask_threshold=thresholds[0],
            overlap_threshold=thresholds[1],
            thing_classes={0, 2},
        )
        masks = full_size(mask_logits, *where).sigmoid().numpy()
        wanted, infos = literal_panoptic(class_logits, masks, *thresholds, {0, 2})
        assert got.dtype == torch.int32 and got.shape == output
        assert np.array_equal(got.numpy(), wanted)
        assert segments == [{**s, "score": pytest.approx(s["score"])} for s in infos]
        assert all(type(s["score"]) is float for s in segments)  # as JSON needs it
        assert sorted(set(got.unique().tolist()) - {0}) == [s["id"] for s in segments]


def panoptic(classes, masks, *, num_classes=3, overlap=0.8, threshold=0.5, things=frozenset({0})):
    """Of confident queries with the given (class, score), masks of probabilities at full size."""
    logits = torch.zeros(len(classes), num_classes + 1)
    for row, (label, score) in zip(logits, classes, strict=True):
        row[:] = (1 - score) / num_classes
        row[label] = score
    size = tuple(masks.shape[1:])
    result, infos = panoptic_inference(
        *given(logits.log(), masks.logit(), size, size, size),
        object_mask_threshold=threshold,
        overlap_threshold=overlap,
        thing_classes=things,
    )
    return result.tolist(), infos


def test_no_confident_query_gives_an_empty_map():
    masks = torch.full((2, 1, 3), 0.9)
    # the first is "no object", the second below the threshold
    assert panoptic([(3, 0.9), (0, 0.4)], masks) == ([[0, 0, 0]], [])
    # at the threshold is not above it
    assert panoptic([(0, 1.0), (1, 1.0)], masks, threshold=1.0) == ([[0, 0, 0]], [])


def test_the_product_of_class_and_mask_probability_decides():
    masks = torch.tensor([[[0.9, 0.9, 0.9, 0.6]], [[0.1, 0.1, 0.1, 0.8]]])
    # at the last pixel 0.9 * 0.6 < 0.7 * 0.8
    result, infos = panoptic([(0, 0.9), (0, 0.7)], masks, overlap=0.7)
    assert result == [[1, 1, 1, 2]]
    assert [(s["id"], s["isthing"], s["category_id"]) for s in infos] == [
        (1, True, 0),
        (2, True, 0),
    ]
    assert [s["score"] for s in infos] == [pytest.approx(0.9), pytest.approx(0.7)]


def test_the_first_of_equal_queries_wins():
    result, infos = panoptic([(1, 0.9), (0, 0.9)], torch.full((2, 1, 2), 0.9))
    assert result == [[1, 1]] and [s["category_id"] for s in infos] == [1]


def test_a_pixel_outside_the_mask_of_its_winner_stays_empty():
    masks = torch.tensor([[[0.9, 0.45, 0.1]], [[0.1, 0.1, 0.9]]])
    assert panoptic([(0, 0.9), (1, 0.9)], masks)[0] == [[1, 0, 2]]


def test_a_share_of_just_the_threshold_is_enough():
    # the first wins 3 pixels of the 4 of its mask
    masks = torch.tensor([[[0.9, 0.9, 0.9, 0.6]], [[0.1, 0.1, 0.1, 0.9]]])
    assert panoptic([(0, 0.9), (1, 0.9)], masks, overlap=0.75)[0] == [[1, 1, 1, 2]]
    # its pixels are not given to others
    assert panoptic([(0, 0.9), (1, 0.9)], masks, overlap=0.76)[0] == [[0, 0, 0, 1]]


def test_stuff_of_a_class_is_one_segment_and_things_are_not():
    masks = torch.full((4, 1, 4), 0.1)
    for q in range(4):
        masks[q, 0, q] = 0.9
    result, infos = panoptic([(1, 0.8), (0, 0.9), (1, 0.95), (0, 0.7)], masks)
    assert result == [[1, 2, 1, 3]]
    assert infos == [
        {"id": 1, "isthing": False, "category_id": 1, "score": pytest.approx(0.95)},
        {"id": 2, "isthing": True, "category_id": 0, "score": pytest.approx(0.9)},
        {"id": 3, "isthing": True, "category_id": 0, "score": pytest.approx(0.7)},
    ]


class LargestTensor(TorchDispatchMode):
    """Elements of the largest floating-point and of the largest tensor that any operation made."""

    floating = any = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.any = max(self.any, tensor.numel())
                if tensor.is_floating_point():
                    self.floating = max(self.floating, tensor.numel())
        return result


def test_no_tensor_is_larger_than_the_result_or_a_chunk(monkeypatch):
    monkeypatch.setattr(postprocessing, "CHUNK_PIXELS", 1)
    logits = torch.randn(20, 4), torch.randn(20, 8, 10)
    where = (32, 40), (32, 40), (100, 100)
    with LargestTensor() as largest:
        panoptic_inference(
            *given(*logits, *where),
            object_mask_threshold=0.0,
            overlap_threshold=0.0,
            thing_classes={0},
        )
    assert largest.any == 100 * 100
    with LargestTensor() as largest:
        semantic_inference(*given(*logits, *where), resize_first=True)
    assert largest.any == 3 * 100 * 100
    with LargestTensor() as largest:
        instance_inference(*given(*logits, *where), max_detections=20)
    assert largest.floating <= 100 * 100 and largest.any == 20 * 100 * 100
    with LargestTensor() as largest, pytorch_forms():
        instance_inference(*given(*logits, *where), max_detections=20)
    assert largest.floating == 100 * 100 and largest.any == 20 * 100 * 100


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("most", [0.0, 0.2, 0.5, 0.9])
def test_suppression_of_doubles(seed, most):
    """The oracle compares every pair of whole masks."""
    generator = torch.Generator().manual_seed(seed)
    masks = F.interpolate(
        torch.randn(1, 30, 3, 4, generator=generator), size=(16, 24), mode="bicubic"
    )[0]
    masks[15:] = masks[:15] + 0.02 * masks[15:]  # doubles
    masks[0] = -1.0  # empty
    prediction = QueryPrediction(
        torch.randn(30, 3, generator=generator) * 2, masks, (64, 96), (60, 90)
    )
    options = {"max_detections": 40}
    everything = instance_inference(prediction, (50, 70), **options)
    found = instance_inference(prediction, (50, 70), mask_nms=most, **options)
    pixels, kept = everything.pred_masks.numpy(), []
    for i in sorted(range(len(everything)), key=lambda i: -float(everything.scores[i])):
        rivals = [j for j in kept if everything.pred_classes[j] == everything.pred_classes[i]]
        unions = [(pixels[i] | pixels[j]).sum() for j in rivals]
        shared = [(pixels[i] & pixels[j]).sum() for j in rivals]
        if all(s <= most * u for s, u in zip(shared, unions, strict=True)):
            kept.append(i)
    kept.sort()
    assert 2 <= len(kept) < len(everything)
    torch.testing.assert_close(found.scores, everything.scores[kept], rtol=0, atol=0)
    np.testing.assert_array_equal(found.pred_masks.numpy(), pixels[kept])
    np.testing.assert_array_equal(found.pred_classes, everything.pred_classes[kept])
    same = instance_inference(prediction, (50, 70), mask_nms=1.0, **options)
    assert len(same) == len(everything)
