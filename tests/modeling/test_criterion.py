import itertools
import math

import pytest
import torch
from criteria import make_criterion, make_matcher, random_case
from detectron2.utils.events import EventStorage
from torch.nn import functional as F

from mask2former.modeling.losses import (
    dice_loss,
    pairwise_dice,
    pairwise_sigmoid_ce,
    sample_points,
    sample_shared_points,
    sigmoid_ce_loss,
    uncertain_points,
)
from mask2former.structures import PackedMasks

WEIGHTS = {"class": 2.0, "mask": 5.0, "dice": 5.0}


@pytest.mark.parametrize("counts", [(3, 1), (4, 0), (6, 2)])  # equal to, fewer, more than queries
def test_matching_equals_brute_force(counts):
    for seed in range(5):
        torch.manual_seed(seed)
        outputs, targets = random_case(counts)
        # the same points for matcher and brute force: the matcher draws them image by image
        torch.manual_seed(100 + seed)
        matches = make_matcher()(outputs, targets)
        torch.manual_seed(100 + seed)
        for b, (target, (rows, columns)) in enumerate(zip(targets, matches, strict=True)):
            points = torch.rand(512, 2)
            cost = literal_costs(outputs, target, b, points)
            n, Q = len(target["labels"]), 4
            assert len(rows) == len(columns) == min(Q, n)
            assert rows.dtype == columns.dtype == torch.int64
            best = brute_force(cost)
            assert cost[rows, columns].sum().item() == pytest.approx(best, rel=1e-4, abs=1e-4)


def literal_costs(outputs, target, b, points):
    probs = outputs["pred_logits"][b].softmax(-1)
    x = sample_shared_points(outputs["pred_masks"][b], points)
    t = sample_shared_points(target["masks"], points)
    cost = torch.zeros(len(x), len(t))
    for q, n in itertools.product(range(len(x)), range(len(t))):
        p = x[q].sigmoid()
        mask = F.binary_cross_entropy(p, t[n])
        dice = 1 - (2 * (p * t[n]).sum() + 1) / (p.sum() + t[n].sum() + 1)
        cost[q, n] = (
            -WEIGHTS["class"] * probs[q, target["labels"][n]]
            + WEIGHTS["mask"] * mask
            + WEIGHTS["dice"] * dice
        )
    return cost


def brute_force(cost):
    rows, columns = cost.shape
    if columns > rows:
        cost, rows, columns = cost.T, columns, rows
    return min(
        sum(float(cost[r, c]) for c, r in enumerate(chosen))
        for chosen in itertools.permutations(range(rows), columns)
    )


@pytest.mark.parametrize("counts", [(3, 1), (4, 0), (20, 2)])
def test_packed_masks_have_the_losses_of_plain_ones(counts):
    torch.manual_seed(0)
    outputs, targets = random_case(counts)
    packed = [{**t, "masks": PackedMasks.from_tensor(t["masks"])} for t in targets]
    losses = []
    for kind in (targets, packed):
        torch.manual_seed(1)
        losses.append(make_criterion()(outputs, kind))
    assert losses[0] == losses[1]


def test_targets_are_packed_once_for_all_predictions(monkeypatch):
    outputs, targets = random_case((3, 1))
    outputs["aux_outputs"] = [random_case((3, 1))[0] for _ in range(2)]
    packed, pack = [], PackedMasks.from_tensor
    monkeypatch.setattr(PackedMasks, "from_tensor", lambda masks: packed.append(0) or pack(masks))
    assert len(make_criterion()(outputs, targets)) == 9
    assert len(packed) == len(targets)


@pytest.mark.parametrize(("key", "loss"), [("pred_logits", "loss_ce"), ("pred_masks", "loss_mask")])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_costs_name_iteration_image_and_loss(key, loss, bad):
    torch.manual_seed(0)
    outputs, targets = random_case((2, 3))
    outputs[key][1] = bad
    criterion = make_criterion()
    with EventStorage(start_iter=1234), pytest.raises(FloatingPointError) as caught:
        criterion(outputs, targets)
    message = str(caught.value)
    for part in ("iteration 1234", "image 1 of the batch", loss, "SOLVER.BASE_LR"):
        assert part in message
    assert "image 0" not in message


def test_pairwise_losses_equal_torch():
    torch.manual_seed(0)
    x, t = torch.randn(4, 50) * 3, torch.rand(3, 50)
    for q, n in itertools.product(range(4), range(3)):
        one = x[q : q + 1], t[n : n + 1]
        wanted = F.binary_cross_entropy_with_logits(x[q], t[n])
        torch.testing.assert_close(pairwise_sigmoid_ce(x, t)[q, n], wanted)
        torch.testing.assert_close(sigmoid_ce_loss(*one, 1.0), wanted)
        torch.testing.assert_close(pairwise_dice(x, t)[q, n], dice_loss(*one, 1.0))


def test_losses_in_closed_form():
    logits = torch.zeros(2, 10)  # p = 1/2 everywhere
    targets = torch.cat((torch.ones(1, 10), torch.zeros(1, 10)))
    # cross-entropy ln 2 each, two masks over num_masks 4
    assert sigmoid_ce_loss(logits, targets, 4.0).item() == pytest.approx(2 * math.log(2) / 4)
    # 1 - (10 + 1) / (5 + 10 + 1) and 1 - (0 + 1) / (5 + 0 + 1)
    assert dice_loss(logits, targets, 4.0).item() == pytest.approx((5 / 16 + 5 / 6) / 4)
    big = torch.where(targets > 0, 100.0, -100.0)
    assert sigmoid_ce_loss(big, targets, 1.0).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(big, targets, 1.0).item() == pytest.approx(0, abs=1e-6)


def test_loss_gradients_equal_finite_differences():
    torch.manual_seed(0)
    t = torch.rand(2, 6, dtype=torch.float64)
    x = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: sigmoid_ce_loss(x, t, 3.0), x)
    assert torch.autograd.gradcheck(lambda x: dice_loss(x, t, 3.0), x)


def test_criterion_gradient_equals_finite_differences():
    """The whole criterion, along a random direction, with the same draws for each evaluation."""
    torch.manual_seed(0)
    outputs, targets = random_case((2, 3))
    direction = {key: torch.randn_like(value) for key, value in outputs.items()}
    criterion = make_criterion(num_points=4096, importance_sample_ratio=0.0)

    def total(step):
        torch.manual_seed(7)
        return sum(
            criterion({k: v + step * direction[k] for k, v in outputs.items()}, targets).values()
        )

    step = torch.zeros((), requires_grad=True)
    (slope,) = torch.autograd.grad(total(step), step)
    with torch.no_grad():
        wanted = (total(torch.tensor(1e-2)) - total(torch.tensor(-1e-2))) / 2e-2
    assert slope.item() == pytest.approx(wanted.item(), rel=1e-2)


def test_class_loss_is_the_weighted_cross_entropy_by_hand():
    torch.manual_seed(0)
    outputs, targets = random_case((2,))
    torch.manual_seed(3)
    losses = make_criterion()(outputs, targets)
    torch.manual_seed(3)
    ((queries, indices),) = make_matcher()(outputs, targets)
    log_probs = outputs["pred_logits"][0].log_softmax(-1)
    total, weight = 0.0, 0.0
    for q in range(4):
        matched = q in queries.tolist()
        label = int(targets[0]["labels"][indices[queries == q]]) if matched else 3
        w = 1.0 if matched else 0.1
        total, weight = total - w * float(log_probs[q, label]), weight + w
    assert losses["loss_ce"].item() == pytest.approx(2.0 * total / weight, rel=1e-5)


def test_one_set_of_losses_for_every_prediction():
    torch.manual_seed(0)
    outputs, targets = random_case((2, 1))
    outputs["aux_outputs"] = [random_case((2, 1))[0] for _ in range(3)]
    names = {"loss_ce", "loss_mask", "loss_dice"}
    wanted = names | {f"{name}_{i}" for name in names for i in range(3)}
    assert set(make_criterion()(outputs, targets)) == wanted
    assert set(make_criterion(deep_supervision=False)(outputs, targets)) == names


def test_images_without_instances():
    torch.manual_seed(0)
    outputs, targets = random_case((0, 0))
    for value in outputs.values():
        value.requires_grad_()
    losses = make_criterion()(outputs, targets)
    assert losses["loss_mask"].item() == losses["loss_dice"].item() == 0
    assert losses["loss_ce"].item() > 0
    sum(losses.values()).backward()
    # the mask branch stays in the graph, or distributed training would wait for it for ever
    assert outputs["pred_masks"].grad is not None


def test_masks_left_empty_by_the_crop_give_finite_losses():
    torch.manual_seed(0)
    outputs, targets = random_case((2,))
    targets[0]["masks"][0] = False
    assert all(loss.isfinite() for loss in make_criterion()(outputs, targets).values())


def test_perfect_predictions_have_almost_no_loss():
    torch.manual_seed(0)
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0, :8], masks[1, 8:] = True, True
    target = {"labels": torch.tensor([2, 0]), "masks": masks}
    logits = torch.full((1, 4, 4), -20.0)
    logits[0, 1, 2] = logits[0, 3, 0] = logits[0, 0, 3] = logits[0, 2, 3] = 20.0
    pred = torch.full((1, 4, 16, 16), -10.0)
    pred[0, 1, :8], pred[0, 3, 8:] = 10.0, 10.0
    criterion = make_criterion(importance_sample_ratio=0.0)
    losses = criterion({"pred_logits": logits, "pred_masks": pred}, [target])
    wrong = criterion({"pred_logits": logits, "pred_masks": pred.roll(4, 2)}, [target])
    assert losses["loss_ce"].item() < 1e-3
    # what is left comes from points between two pixels, where the target is between 0 and 1
    assert losses["loss_mask"].item() < 0.1 * wrong["loss_mask"].item()
    assert losses["loss_dice"].item() < 0.2 * wrong["loss_dice"].item()


def test_point_sampling_is_bilinear_between_pixel_centres():
    mask = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
    points = torch.tensor([[0.25, 0.25], [0.75, 0.25], [0.5, 0.5], [0.5, 0.75]])
    wanted = torch.tensor([[0.0, 1.0, 1.5, 2.5]])
    torch.testing.assert_close(sample_shared_points(mask, points), wanted)
    torch.testing.assert_close(sample_points(mask, points[None]), wanted)


def test_uncertain_points_lie_at_the_boundary():
    torch.manual_seed(0)
    x = torch.linspace(-8, 8, 64).expand(1, 64, 64)  # the boundary is the vertical middle
    points = uncertain_points(x, 400, oversample_ratio=3.0, importance_sample_ratio=0.75)
    assert points.shape == (1, 400, 2)
    assert points.min() >= 0 and points.max() <= 1
    distance = (points[0, :, 0] - 0.5).abs()
    # 300 nearest of 1200 uniform ones lie within about 1/8 of the middle; a quarter lie anywhere
    assert distance[:300].max() < 0.2
    assert distance[300:].max() > 0.3


CLASS_WEIGHTS = [0.5, 4.0, 1.5]


def test_weights_of_classes_by_hand():
    """The loss is a mean over queries, each with the weight of the class that it should have."""
    for seed in range(3):
        torch.manual_seed(seed)
        outputs, targets = random_case((3, 1))
        criterion = make_criterion(class_weights=CLASS_WEIGHTS)
        torch.manual_seed(9)
        matches = criterion.matcher(outputs, targets)
        total = weight = 0.0
        for b, (target, (rows, columns)) in enumerate(zip(targets, matches, strict=True)):
            wanted = dict(zip(rows.tolist(), target["labels"][columns].tolist(), strict=True))
            for q in range(4):
                k = wanted.get(q, 3)
                w = [*CLASS_WEIGHTS, 0.1][k]
                x = outputs["pred_logits"][b, q].double()
                total += w * float(x.exp().sum().log() - x[k])
                weight += w
        torch.manual_seed(9)
        losses = criterion(outputs, targets)
        assert losses["loss_ce"].item() == pytest.approx(2.0 * total / weight, rel=1e-5)
        torch.manual_seed(9)
        plain = make_criterion()(outputs, targets)
        assert losses["loss_ce"].item() != pytest.approx(plain["loss_ce"].item(), rel=1e-3)
        for name in ("loss_mask", "loss_dice"):
            assert losses[name] == plain[name]


def test_weights_of_1_change_no_bit():
    losses = []
    for weights in (None, [1, 1.0, 1]):
        torch.manual_seed(0)
        outputs, targets = random_case((3, 1))
        outputs["pred_logits"].requires_grad_()
        torch.manual_seed(1)
        found = make_criterion(class_weights=weights)(outputs, targets)
        found["loss_ce"].backward()
        losses.append((found, outputs["pred_logits"].grad))
    assert losses[0][0] == losses[1][0]
    assert torch.equal(losses[0][1], losses[1][1])


def test_gradients_with_class_weights_equal_finite_differences():
    torch.manual_seed(0)
    outputs, targets = random_case((2, 3), dtype=torch.float64)
    criterion = make_criterion(class_weights=CLASS_WEIGHTS)
    logits = outputs["pred_logits"]

    def loss(x):
        torch.manual_seed(1)  # the same points, so the same matches
        return criterion({**outputs, "pred_logits": x}, targets)["loss_ce"].double()

    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits), logits)
    with torch.no_grad():
        for b, q, k in itertools.product(range(2), range(4), range(4)):
            step = torch.zeros_like(logits)
            step[b, q, k] = 1e-2
            slope = (loss(logits + step) - loss(logits - step)) / 2e-2
            assert slope.item() == pytest.approx(gradient[b, q, k].item(), abs=2e-4)


def test_the_config_decides_on_class_weights_and_not_a_file():
    with pytest.raises(ValueError, match="CLASS_LOSS_WEIGHTS has 2 numbers; the model has 3"):
        make_criterion(class_weights=[1, 2])
    criterion = make_criterion(class_weights=CLASS_WEIGHTS)
    before = {"empty_weight": torch.tensor([1.0, 1.0, 1.0, 0.3])}
    criterion.load_state_dict(before)
    assert criterion.empty_weight.tolist() == pytest.approx([*CLASS_WEIGHTS, 0.1])
    assert before["empty_weight"].tolist() == pytest.approx([1, 1, 1, 0.3])
