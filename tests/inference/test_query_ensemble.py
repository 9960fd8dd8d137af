"""The mean of views: its invariants, and its equality with a literal implementation."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from mask2former.inference.query_ensemble import (
    MIN_OVERLAP,
    QueryEnsemble,
    mask_overlap,
    resampled,
)
from mask2former.modeling.query_prediction import QueryPrediction

Q, K = 4, 3


def prediction(seed, queries=Q, scale=4.0, size=(6, 8)):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randn(queries, 3, 4, generator=generator) * scale
    masks = F.interpolate(masks[None], size=size, mode="bilinear")[0]
    logits = torch.randn(queries, K + 1, generator=generator) * 2
    return QueryPrediction(logits, masks, (24, 32), (24, 32))


def changed(first, noise, seed, order=None):
    """Return the same objects in another order and slightly changed."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(first.class_logits), generator=generator) if order is None else order
    shake = [
        torch.randn(t.shape, generator=generator) for t in (first.class_logits, first.mask_logits)
    ]
    return QueryPrediction(
        (first.class_logits + noise * shake[0])[order],
        (first.mask_logits + noise * shake[1])[order],
        first.padded_size,
        first.image_size,
    )


def mean_of(first, *others):
    ensemble = QueryEnsemble(first)
    for other in others:
        ensemble.add(other, flipped=False)
    return ensemble.result()


def assert_same(got, wanted, atol=1e-5):
    probabilities = [p.class_logits.softmax(-1) for p in (got, wanted)]
    torch.testing.assert_close(*probabilities, rtol=1e-5, atol=atol)
    torch.testing.assert_close(got.mask_logits, wanted.mask_logits, rtol=1e-4, atol=10 * atol)
    assert (got.padded_size, got.image_size) == (wanted.padded_size, wanted.image_size)


def test_one_view_is_its_own_mean_bit_for_bit():
    first = prediction(0)
    assert mean_of(first) is first


@pytest.mark.parametrize("scale", [0.0, 1.0, 40.0, 400.0])
@pytest.mark.parametrize("views", [2, 5])
def test_the_order_of_queries_in_equal_views_does_not_matter(scale, views):
    for seed in range(5):
        first = prediction(seed, queries=12, scale=scale)
        others = [changed(first, 0.0, seed=i) for i in range(views - 1)]
        assert_same(mean_of(first, *others), first)


def literal_mean(first, *others):
    """Average objects that are lists of (class probabilities, mask logits), one pair per view."""
    objects = [[pair] for pair in pairs_of(first)]
    for views, other in enumerate(others, start=2):
        queries = pairs_of(other)
        cost = [[literal_cost(mean_of_members(m), query) for query in queries] for m in objects]
        best = min(
            itertools.permutations(range(len(objects)), len(queries)),
            key=lambda chosen: sum(cost[o][q] for q, o in enumerate(chosen)),
        )
        new = []
        for q, o in enumerate(best):
            (objects[o] if cost[o][q] < 2 else new).append(
                queries[q] if cost[o][q] < 2 else [queries[q]]
            )
        objects += new
        while len(objects) > len(queries):
            weakest = min(objects, key=lambda m: float(all_views(m, views)[:-1].sum()))
            objects = [members for members in objects if members is not weakest]
    classes = [all_views(members, 1 + len(others)) for members in objects]
    masks = [mean_of_members(members)[1] for members in objects]
    return torch.stack(classes), torch.stack(masks)


def pairs_of(view):
    return list(zip(view.class_logits.softmax(-1), view.mask_logits, strict=True))


def mean_of_members(members):
    """Return the geometric mean of probabilities, which for masks is the mean of their logits."""
    geometric = torch.stack([c for c, _ in members]).prod(0) ** (1 / len(members))
    return geometric / geometric.sum(), sum(mask for _, mask in members) / len(members)


def all_views(members, views):
    nothing = F.one_hot(torch.tensor(K), K + 1).float()
    return (len(members) * mean_of_members(members)[0] + (views - len(members)) * nothing) / views


def literal_cost(a, b):
    p, q = a[1].sigmoid(), b[1].sigmoid()
    overlap = 2 * float((p * q).sum()) / float((p**2).sum() + (q**2).sum())
    if overlap < MIN_OVERLAP:
        return 2.0
    return 2 - overlap - float((a[0] * b[0]).sqrt().sum())


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.5, 4.0])
def test_the_mean_equals_the_literal_rule(noise):
    opened = 0
    for seed in range(10):
        first = prediction(seed)
        # In the third view, another object takes the place of one.
        others = [changed(first, noise, seed=10 * seed + i) for i in range(3)]
        others[1] = QueryPrediction(
            others[1].class_logits,
            torch.cat((others[1].mask_logits[:3], prediction(seed + 50).mask_logits[:1])),
            *((24, 32),) * 2,
        )
        got = mean_of(first, *others)
        classes, masks = literal_mean(first, *others)
        torch.testing.assert_close(got.class_logits.softmax(-1), classes, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(got.mask_logits, masks, rtol=1e-4, atol=1e-4)
        agree = mask_overlap(masks.sigmoid(), first.mask_logits.sigmoid()).amax(1) > MIN_OVERLAP
        opened += int((~agree).sum())
    assert opened  # objects that are not in the first view


def confident(rows):
    """Build queries from (class, probability, columns of the mask) on 4 x 12 cells."""
    classes = torch.full((3, K + 1), 1e-4)
    masks = torch.full((3, 4, 12), -8.0)
    classes[:, -1] = 1.0
    for i, (label, probability, columns) in enumerate(rows):
        classes[i, label], classes[i, -1] = probability, 1 - probability
        masks[i, :, columns] = 8.0
    return QueryPrediction(classes.log(), masks, (16, 48), (16, 48))


def test_objects_that_a_view_misses_are_less_certain_and_new_ones_are_added():
    left, right = (0, 0.9, slice(0, 4)), (0, 0.8, slice(6, 12))
    result = mean_of(confident([left]), confident([right]))
    found = {
        tuple(mask[0].gt(0).nonzero()[:, 0].tolist()): float(p[0])
        for mask, p in zip(result.mask_logits, result.class_logits.softmax(-1), strict=True)
        if p[0] > 0.3
    }
    # The same class in different places: two objects.
    assert found == {
        tuple(range(4)): pytest.approx(0.45, abs=1e-3),
        tuple(range(6, 12)): pytest.approx(0.4, abs=1e-3),
    }


def test_classes_of_an_object_are_averaged():
    where = slice(2, 9)
    result = mean_of(confident([(0, 0.9, where)]), confident([(0, 0.7, where)]))
    root = math.sqrt(0.9 * 0.7), math.sqrt(0.1 * 0.3)
    wanted = root[0] / sum(root)
    assert result.class_logits.softmax(-1)[0, 0].item() == pytest.approx(wanted, abs=1e-3)


def test_overlap_of_masks():
    torch.manual_seed(0)
    a, b = torch.rand(3, 4, 5), torch.rand(2, 4, 5)
    got = mask_overlap(a, b)
    for i, j in itertools.product(range(3), range(2)):
        wanted = 2 * (a[i] * b[j]).sum() / (a[i] ** 2 + b[j] ** 2).sum()
        torch.testing.assert_close(got[i, j], wanted, rtol=0, atol=1e-4)
    torch.testing.assert_close(mask_overlap(a, a).diagonal(), torch.ones(3))
    # For binary masks the overlap is 2 IoU / (1 + IoU): here 2/3, from an IoU of 1/2.
    a, b = torch.zeros(1, 1, 6), torch.zeros(1, 1, 6)
    a[..., :4], b[..., 2:4] = 1.0, 1.0
    assert mask_overlap(a, b).item() == pytest.approx(2 / 3, abs=1e-3)
    assert mask_overlap(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)).item() == 1


def ramp(padded, image, cells, flipped):
    """Build logits that are linear in the position within the image, exact at cell centres."""
    y = (torch.arange(cells[0]) + 0.5) * padded[0] / cells[0] / image[0]
    x = (torch.arange(cells[1]) + 0.5) * padded[1] / cells[1] / image[1]
    x = 1 - x if flipped else x
    masks = torch.stack((torch.ones(cells[0], 1) * x, y[:, None] * torch.ones(cells[1])))
    return QueryPrediction(torch.zeros(2, K + 1), masks, padded, image)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize(
    "view", [((64, 96), (50, 70), (16, 24)), ((96, 160), (80, 140), (24, 40))], ids=str
)
def test_views_are_aligned_in_the_image(view, flipped):
    here, there = ramp(*view, flipped), ramp((64, 96), (60, 88), (16, 24), False)
    got = resampled(here, there, flipped=flipped)
    assert got.shape == there.mask_logits.shape
    # These cells have their centres in the image, away from the border.
    inside = (..., slice(1, 14), slice(1, 21))
    torch.testing.assert_close(got[inside], there.mask_logits[inside], rtol=0, atol=1e-5)
    assert got.isfinite().all() and got.min() > -0.1 and got.max() < 1.1


def test_a_view_of_the_same_size_is_not_resampled():
    first = prediction(0)
    assert resampled(first, first, flipped=False) is first.mask_logits
    flipped = QueryPrediction(first.class_logits, first.mask_logits.flip(-1), (24, 32), (24, 32))
    got = resampled(flipped, first, flipped=True)
    torch.testing.assert_close(got, first.mask_logits, rtol=0, atol=1e-4)
