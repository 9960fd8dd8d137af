"""Losses on the labelled pixels: points, targets, queries, and the whole criterion."""

import contextlib

import pytest
import torch
from criteria import make_criterion, make_matcher, random_case
from detectron2.structures import Instances
from torch.nn import functional as F

from mask2former.modeling.draws import draws_per_image, rand, rand_many
from mask2former.modeling.labelled_region import (
    LabelledRegion,
    draw_points,
    find_labelled_region,
)
from mask2former.modeling.losses import uncertain_points
from mask2former.modeling.ops.cpu_kernels import pytorch_forms
from mask2former.modeling.targets import image_target, sample_target
from mask2former.structures import PackedMasks

CPU = torch.device("cpu")
H, W = 12, 20
FORMS = {"kernels": contextlib.nullcontext, "pytorch": pytorch_forms}


def region(seed=0, right=3, share=0.4):
    """Ignored blobs, single pixels among them, and columns on the right."""
    generator = torch.Generator().manual_seed(seed)
    unknown = torch.rand(H, W, generator=generator) < share / 3
    unknown[2:8, 4:9] = True
    unknown[:, W - right :] = True
    return LabelledRegion(unknown)


def pixel_numbers(points, width=W, height=H):
    return (points[..., 1] * height).long() * width + (points[..., 0] * width).long()


# --- Where points are ---


def test_points_are_uniform_in_the_labelled_pixels():
    torch.manual_seed(0)
    where = region()
    points = draw_points([50], 8000, [where], CPU)
    assert points.min() >= 0 and points.max() < 1
    counts = torch.bincount(pixel_numbers(points).flatten(), minlength=H * W).view(H, W)
    assert not counts[where.ignored].any()
    labelled = counts[~where.ignored].double()
    wanted = labelled.sum() / len(labelled)
    chi_square = ((labelled - wanted) ** 2 / wanted).sum().item() / (len(labelled) - 1)
    assert chi_square == pytest.approx(1, abs=0.35)  # 5 standard deviations for 150 pixels
    # and uniform within the pixels, those that moved as well
    for axis, size in enumerate((W, H)):
        places = points[..., axis].double() * size % 1
        assert places.mean().item() == pytest.approx(0.5, abs=0.003)
        assert places.var().item() == pytest.approx(1 / 12, abs=0.001)


def test_only_points_in_ignored_pixels_move_and_only_there_more_is_drawn():
    where = region(1)
    seeds = [{"seed": 3}, {"seed": 4}]
    with draws_per_image(seeds, CPU):
        plain = rand_many([2, 3], 500, 2, device=CPU)
        after = rand([0, 1], 4, device=CPU)
    with draws_per_image(seeds, CPU):
        points = draw_points([2, 3], 500, [where, None], CPU)
        assert torch.equal(rand([0, 1], 4, device=CPU), after)
    assert torch.equal(points[2:], plain[2:])
    stays = ~where.ignored.flatten()[pixel_numbers(plain[:2])]
    assert torch.equal(points[:2][stays], plain[:2][stays])
    assert (points[:2] != plain[:2]).any(-1)[~stays].float().mean() > 0.99
    with draws_per_image(seeds, CPU):
        assert torch.equal(draw_points([2, 3], 500, [None, None], CPU), plain)
    with draws_per_image(seeds, CPU):
        assert torch.equal(draw_points([2, 3], 500, None, CPU), plain)


@pytest.mark.parametrize("size", [(1024, 1024), (800, 1333), (7, 3)])
def test_moved_points_do_not_leave_their_pixels_by_rounding(size):
    torch.manual_seed(0)
    unknown = torch.rand(size) < 0.5
    unknown[0, 0] = False
    where = LabelledRegion(unknown)
    points = torch.rand(20000, 2)
    points[::7] = 1 - 2**-24  # the last number below 1
    moved = where.moved(points, torch.rand(20000, 2))
    # the target of a point at the very border of its pixel is still interpolated
    target = {"labels": torch.zeros(1), "masks": PackedMasks.from_tensor(~unknown[None]),
              "region": where}  # fmt: skip
    values = sample_target(target, moved)
    assert values.isfinite().all() and moved.min() >= 0 and moved.max() <= 1
    height, width = size
    # the image has zeros around it, as ever
    inner = (torch.minimum(moved, 1 - moved) * moved.new_tensor([width, height]) > 0.5).all(1)
    torch.testing.assert_close(values[0, inner], torch.ones(int(inner.sum())))


def test_an_image_without_labels_moves_nothing():
    where = LabelledRegion(torch.ones(H, W).bool())
    points = torch.rand(2, 9, 2)
    assert len(where.ignored_points(points)) == 0


# --- What they read ---


@pytest.mark.parametrize("form", FORMS)
def test_targets_are_interpolated_between_labelled_pixels(form):
    torch.manual_seed(0)
    where = region()
    masks = (torch.rand(9, H, W) < 0.5) & ~where.ignored
    target = {"labels": torch.zeros(9), "masks": PackedMasks.from_tensor(masks), "region": where}
    points = draw_points([4], 40, [where], CPU)
    of = torch.tensor([8, 0, 3, 3])
    with FORMS[form]():
        each = sample_target(target, points, of)
        shared = sample_target(target, points[0])
    assert shared.shape == (9, 40)
    for row, mask in enumerate(of.tolist()):
        for p, (x, y) in enumerate(points[row].tolist()):
            wanted = literal_value(masks[mask], where.ignored, x, y)
            assert each[row, p].item() == pytest.approx(wanted, abs=1e-4)
    for p, (x, y) in enumerate(points[0].tolist()):
        assert shared[2, p].item() == pytest.approx(
            literal_value(masks[2], where.ignored, x, y), abs=1e-4
        )


def literal_value(mask, ignored, x, y):
    """The mean of the four pixels around a point by their weights, without those ignored."""
    x, y = x * W - 0.5, y * H - 0.5
    total, weights = 0.0, 0.0
    for column in (int(x // 1), int(x // 1) + 1):
        for row in (int(y // 1), int(y // 1) + 1):
            weight = (1 - abs(x - column)) * (1 - abs(y - row))
            inside = 0 <= column < W and 0 <= row < H
            if inside and ignored[row, column]:
                continue
            weights += weight  # around the image there are zeros, as ever
            total += weight * float(mask[row, column]) if inside else 0.0
    return total / weights


def test_the_mask_loss_estimates_its_mean_over_the_labelled_pixels():
    """Against an integral by a fine grid over the labelled pixels."""
    torch.manual_seed(0)
    where = region()
    outputs, target = case_in(where, scale=1.0, n=1)
    criterion = make_criterion(num_points=400_000, importance_sample_ratio=0.0)
    losses = criterion(outputs, [target])
    ((queries, _),) = make_matcher(100_000)(outputs, [target])
    fine = 16
    grid = torch.stack(
        torch.meshgrid(
            (torch.arange(W * fine) + 0.5) / (W * fine),
            (torch.arange(H * fine) + 0.5) / (H * fine),
            indexing="xy",
        ),
        -1,
    ).view(-1, 2)
    kept = grid[~where.ignored.flatten()[pixel_numbers(grid)]]
    logits = F.grid_sample(
        outputs["pred_masks"][:, queries], 2 * kept[None, None] - 1, align_corners=False
    )[0, 0, 0]
    wanted = F.binary_cross_entropy_with_logits(logits, sample_target(target, kept)[0])
    assert losses["loss_mask"].item() == pytest.approx(5 * wanted.item(), rel=5e-3)
    everywhere = criterion(outputs, [{**target, "region": None}])
    assert abs(everywhere["loss_mask"].item() - 5 * wanted.item()) > 0.05


# --- Which queries are left alone ---


def test_queries_on_ignored_pixels():
    where = region(right=4)
    size = (H // 2, W // 2)
    torch.manual_seed(0)
    masks = torch.randn(30, *size)
    masks[0], masks[1] = -1, 1  # nowhere and everywhere
    masks[2] = -1
    masks[2, :, -2:] = 1  # on the columns without labels
    masks[3] = -1
    masks[3, 1:4, 2:4] = 1  # on another region without labels
    ignored = where.ignored.float().unflatten(0, (-1, 2)).unflatten(2, (-1, 2)).mean((1, 3))
    wanted = []
    for mask in masks:
        inside = [(r, c) for r in range(size[0]) for c in range(size[1]) if mask[r, c] > 0]
        wanted.append(sum(float(ignored[i]) for i in inside) > 0.5 * len(inside))
    assert wanted[:4] == [False, False, True, True]
    for dtype in (torch.float32, torch.bfloat16):
        assert where.mostly_ignored(masks.to(dtype)).tolist() == wanted


def test_the_class_loss_without_these_queries_by_hand():
    torch.manual_seed(0)
    where = region()
    outputs, target = case_in(where, n=2, Q=6)
    outputs["pred_masks"][0, 3:] = -5
    outputs["pred_masks"][0, 3:5, 2:8, 4:9] = 5
    torch.manual_seed(3)
    losses = make_criterion()(outputs, [target])
    torch.manual_seed(3)
    ((queries, indices),) = make_matcher()(outputs, [target])
    log_probs = outputs["pred_logits"][0].log_softmax(-1)
    total, weight = 0.0, 0.0
    left_alone = 0
    for q in range(6):
        if q in queries.tolist():
            label, w = int(target["labels"][indices[queries == q]]), 1.0
        elif where.mostly_ignored(outputs["pred_masks"][0])[q]:
            left_alone += 1
            continue
        else:
            label, w = 3, 0.1
        total, weight = total - w * float(log_probs[q, label]), weight + w
    assert left_alone
    assert losses["loss_ce"].item() == pytest.approx(2.0 * total / weight, rel=1e-5)


# --- The whole criterion ---


def case_in(where, *, n=3, Q=5, scale=2.0, dtype=torch.float32):
    """Predictions of an image and a target of it, as `image_target` makes one."""
    outputs = {
        "pred_logits": torch.randn(1, Q, 4, dtype=dtype),
        "pred_masks": torch.randn(1, Q, H, W, dtype=dtype) * scale,
    }
    masks = (torch.rand(n, H, W) < 0.5) & ~where.ignored
    masks = PackedMasks.from_tensor(masks)
    return outputs, {"labels": torch.randint(3, (n,)), "masks": masks, "region": where}


@pytest.mark.parametrize("form", FORMS)
def test_gradients_equal_finite_differences(form):
    torch.manual_seed(0)
    outputs, target = case_in(region())
    direction = {key: torch.randn_like(value) for key, value in outputs.items()}
    criterion = make_criterion(num_points=4096, importance_sample_ratio=0.0)

    def total(step):
        torch.manual_seed(7)
        moved = {k: v + step * direction[k] for k, v in outputs.items()}
        with FORMS[form]():
            return sum(criterion(moved, [target]).values())

    step = torch.zeros((), requires_grad=True)
    (slope,) = torch.autograd.grad(total(step), step)
    with torch.no_grad():
        wanted = (total(torch.tensor(1e-2)) - total(torch.tensor(-1e-2))) / 2e-2
    assert slope.item() == pytest.approx(wanted.item(), rel=1e-2)


@pytest.mark.parametrize("ratio", [0.0, 0.75])
def test_predictions_far_from_labelled_pixels_have_no_gradient(ratio):
    torch.manual_seed(0)
    where = region()
    outputs, target = case_in(where)
    masks = outputs["pred_masks"].requires_grad_()
    losses = make_criterion(num_points=20_000, importance_sample_ratio=ratio)(outputs, [target])
    (losses["loss_mask"] + losses["loss_dice"]).backward()
    near = F.max_pool2d((~where.ignored).float()[None], 3, stride=1, padding=1)[0] > 0
    assert (~near).any()
    assert not masks.grad[0, :, ~near].any()
    matched = masks.grad[0].flatten(1).any(1)
    assert matched.sum() == 3
    assert (masks.grad[0, matched][:, ~where.ignored] != 0).float().mean() > 0.95


def test_uncertain_points_are_labelled_and_the_least_certain_of_them():
    torch.manual_seed(0)
    x = torch.linspace(-8, 8, 64).expand(1, 64, 64)  # the boundary is the vertical middle
    unknown = torch.zeros(64, 64, dtype=torch.bool)
    unknown[:, 24:40] = True
    where = LabelledRegion(unknown)
    points = uncertain_points(x, 400, 3.0, 0.75, regions=[where])
    distance = (points[0, :, 0] - 0.5).abs()
    assert distance.min() >= 8 / 64 - 1e-6
    # The nearest 300 of 1200 points in the rest of the image, and a few at its upper
    # and lower border, where there are zeros around it.
    assert (distance[:300] < 8 / 64 + 0.1).float().mean() > 0.98
    assert distance[300:].max() > 0.4


def test_images_without_ignored_pixels_have_the_matches_and_draws_as_before():
    """In a batch with others."""
    torch.manual_seed(0)
    outputs, targets = random_case((3, 2, 4), Q=5)
    targets = [{**t, "masks": PackedMasks.from_tensor(t["masks"])} for t in targets]
    unknown = torch.zeros(16, 16, dtype=torch.bool)
    unknown[:5, 2:] = True
    where = LabelledRegion(unknown)
    mixed = [targets[0], {**targets[1], "masks": targets[1]["masks"].without(unknown),
                          "region": where}, targets[2]]  # fmt: skip
    found = []
    for batch in (targets, mixed):
        with draws_per_image([{"seed": i} for i in range(3)], CPU):
            matches = make_matcher().match(outputs, batch)
        masks = outputs["pred_masks"].clone().requires_grad_()
        with draws_per_image([{"seed": i} for i in range(3)], CPU):
            loss, dice = make_criterion()._mask_losses(masks, batch, matches, 9.0)
        (loss + dice).backward()
        found.append((matches, masks.grad))
    for image in (0, 2):
        for a, b in zip(found[0][0][image], found[1][0][image], strict=True):
            assert torch.equal(a, b)
        assert torch.equal(found[0][1][image], found[1][1][image])
    assert not torch.equal(found[0][1][1], found[1][1][1])


def test_an_image_that_nobody_labelled():
    torch.manual_seed(0)
    x = {
        "image": torch.zeros(3, H, W, dtype=torch.uint8),
        "instances": target_instances(torch.ones(2, H, W, dtype=torch.bool), [0, 1]),
        "ignored_mask": torch.ones(H, W, dtype=torch.bool),
    }
    target = image_target(x, num_classes=3, padded_size=(H, W), device=CPU, ignore_regions=True)
    assert len(target["labels"]) == len(target["masks"]) == 0
    outputs = {
        "pred_logits": torch.randn(1, 5, 4, requires_grad=True),
        "pred_masks": torch.randn(1, 5, 4, 6, requires_grad=True),
    }
    losses = make_criterion()(outputs, [target])
    assert all(loss.item() == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert not outputs["pred_logits"].grad.any() and not outputs["pred_masks"].grad.any()
    with torch.no_grad():
        outputs["pred_masks"][0, 1] = -1.0  # shows nothing, so it is "no object" as ever
    losses = make_criterion()(outputs, [target])
    wanted = -2 * outputs["pred_logits"][0, 1].log_softmax(-1)[3]
    torch.testing.assert_close(losses["loss_ce"], wanted)


def target_instances(masks, classes):
    return Instances(
        masks.shape[1:], gt_masks=PackedMasks.from_tensor(masks), gt_classes=torch.tensor(classes)
    )


# --- From an input ---


def test_the_region_of_an_input():
    image = torch.zeros(3, 8, 10, dtype=torch.uint8)
    x = {"image": image}
    assert find_labelled_region(x, (8, 10), CPU) is None
    nothing = torch.zeros(8, 10, dtype=torch.bool)
    assert find_labelled_region({**x, "ignored_mask": nothing}, (8, 10), CPU) is None
    ignored = nothing.clone()
    ignored[:, 2] = True
    padded = find_labelled_region({**x, "ignored_mask": ignored}, (9, 12), CPU)
    assert torch.equal(padded.ignored, F.pad(ignored, (0, 2, 0, 1)))  # padding is labelled
    with pytest.raises(ValueError, match=r"a\.png: ignored_mask has the shape \(8, 9\)"):
        find_labelled_region(
            {**x, "file_name": "a.png", "ignored_mask": ignored[:, :9]}, (8, 10), CPU
        )


def test_targets_lose_what_is_ignored_and_objects_without_any_other_pixel_go():
    masks = torch.zeros(3, H, W, dtype=torch.bool)
    masks[0, :4, :4], masks[1, :2], masks[2, 5:, 5:] = True, True, True
    ignored = torch.zeros(H, W, dtype=torch.bool)
    ignored[:2] = True
    x = {
        "image": torch.zeros(3, H, W, dtype=torch.uint8),
        "instances": target_instances(masks, [2, 0, 1]),
        "ignored_mask": ignored,
    }
    off = image_target(x, num_classes=3, padded_size=(16, 24), device=CPU)
    assert set(off) == {"labels", "masks"} and len(off["labels"]) == 3
    on = image_target(x, num_classes=3, padded_size=(16, 24), device=CPU, ignore_regions=True)
    assert on["labels"].tolist() == [2, 1]
    wanted = F.pad((masks & ~ignored)[[0, 2]], (0, 4, 0, 4))
    assert torch.equal(on["masks"].tensor, wanted)
