"""Mask-piloted training: what pilots are given, that nothing leaks from them, and their losses."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances
from support import QUICKSTART, TINY

from mask2former import load_config
from mask2former.modeling import MultiScaleMaskedTransformerDecoder
from mask2former.modeling.draws import draws_per_image
from mask2former.modeling.piloted import PilotedQueries, noisy_masks
from mask2former.structures import PackedMasks

K, C, Q, LAYERS = 5, 16, 6, 3
SIZE = (64, 96)  # of images
MASK_SIZE, SIZES = (16, 24), [(2, 3), (4, 6), (8, 12)]
ARGUMENTS = {
    "groups": 3,
    "max_queries": 100,
    "label_noise": 0.0,
    "noise": "point",
    "mask_noise": 0.0,
    "mask_layers": LAYERS,
}
ON = ["MODEL.MASK_FORMER.PILOTED.GROUPS", 3]


def rectangles(n, seed=0):
    """The target of an image with n rectangles."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(n, *SIZE, dtype=torch.bool)
    for mask in masks:
        y, x = (int(torch.randint(s - 20, (), generator=generator)) for s in SIZE)
        mask[y : y + 20, x : x + 16] = True
    labels = torch.randint(K, (n,), generator=generator)
    return {"labels": labels, "masks": PackedMasks.from_tensor(masks)}


def make(**changes):
    torch.manual_seed(0)
    return PilotedQueries(K, C, **{**ARGUMENTS, **changes})


def make_decoder(**changes):
    torch.manual_seed(0)
    decoder = MultiScaleMaskedTransformerDecoder(
        C,
        num_classes=K,
        hidden_dim=C,
        num_queries=Q,
        nheads=2,
        dim_feedforward=32,
        mask_dim=C,
        dec_layers=LAYERS,
        piloted={**ARGUMENTS, **changes},
    )
    return decoder.double().train()


def features(batch):
    torch.manual_seed(1)
    maps = [torch.randn(batch, C, *size, dtype=torch.float64) for size in SIZES]
    return maps, torch.randn(batch, C, *MASK_SIZE, dtype=torch.float64)


def inputs(counts, seeds=True):
    """Inputs of a model, with so many objects each."""
    found = []
    for i, n in enumerate(counts):
        target = rectangles(n, seed=i)
        generator = torch.Generator().manual_seed(i)
        image = torch.randint(256, (3, *SIZE), generator=generator, dtype=torch.uint8)
        instances = Instances(SIZE, gt_classes=target["labels"], gt_masks=target["masks"])
        found.append({"image": image, "instances": instances, **({"seed": i} if seeds else {})})
    return found


def small_model(*overrides):
    torch.manual_seed(0)
    return build_model(load_config(str(QUICKSTART), [*TINY, *overrides])).train()


# --- What pilots are given ---


def test_without_noise_pilots_are_given_their_own_targets():
    targets = [rectangles(2, 0), rectangles(0), rectangles(4, 1)]
    piloted = make()
    pilots = piloted(targets, MASK_SIZE, SIZES)
    assert pilots.queries.shape == (3, 12, C)
    for b, (target, (rows, columns)) in enumerate(zip(targets, pilots.matches, strict=True)):
        n = len(target["labels"])
        assert rows.tolist() == list(range(3 * n))
        assert columns.tolist() == list(range(n)) * 3
        assert pilots.groups[b].tolist() == [g for g in (1, 2, 3) for _ in range(n)] + [-1] * (
            12 - 3 * n
        )
        wanted = piloted.class_queries.weight[target["labels"][columns]]
        assert torch.equal(pilots.queries[b, rows], wanted)
        for size, masks in zip(SIZES, pilots.masks, strict=True):
            # an oracle by pixels: whole cells of 8, 16 and 32 pixels
            cell = SIZE[0] // size[0]
            cover = target["masks"].tensor.float().unflatten(1, (-1, cell)).unflatten(3, (-1, cell))
            cover = cover.mean((2, 4)).flatten(1)[columns]
            got = masks[b, rows]
            assert (got & (cover == 0)).sum() == 0
            assert got[cover == 1].all()
            assert got.any(-1).all()


def test_a_mask_smaller_than_a_position_keeps_what_it_covers_most():
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    masks[0, 40:44, 68:72] = True  # the second one has no pixel
    target = {"labels": torch.tensor([1, 2]), "masks": PackedMasks.from_tensor(masks)}
    coarse, *_ = noisy_masks(
        [target], [torch.arange(2)], MASK_SIZE, SIZES, noise="point", strength=0.0
    )
    assert coarse[0].nonzero().flatten().tolist() == [1 * 3 + 2]
    assert coarse[1].all()


@pytest.mark.parametrize(
    ("n", "groups", "per_group"), [(1, 3, 1), (4, 2, 4), (9, 1, 9), (25, 1, 10)]
)
def test_the_number_of_pilots_is_bounded(n, groups, per_group):
    pilots = make(max_queries=10)([rectangles(n)], MASK_SIZE, SIZES)
    ((rows, columns),) = pilots.matches
    assert len(rows) == groups * per_group
    assert pilots.groups.max() == groups
    assert len(set(columns.tolist())) == per_group  # no target twice in a group


def test_who_sees_whom():
    pilots = make(groups=2)([rectangles(2), rectangles(1)], MASK_SIZE, SIZES)
    visible = pilots.visible(1)
    assert visible.int().tolist() == [
        [[1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 1, 1], [1, 0, 0, 1, 1]],
        [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [1, 0, 0, 1, 1], [1, 0, 0, 1, 1]],
    ]


def test_label_noise_replaces_the_share():
    torch.manual_seed(0)
    labels = torch.zeros(20000, dtype=torch.long)
    noisy = make(label_noise=0.3)._noisy_labels(labels, [20000])
    assert noisy.min() >= 0 and noisy.max() == K - 1
    # a fifth of the random classes happens to be the same
    assert (noisy != 0).float().mean().item() == pytest.approx(0.3 * (K - 1) / K, abs=0.01)


def box_of(masks, size):
    ys, xs = masks.view(-1, *size)[0].nonzero().unbind(1)
    return ys.min().item(), ys.max().item() + 1, xs.min().item(), xs.max().item() + 1


@pytest.mark.parametrize("noise", ["point", "shift", "scale"])
def test_noise_has_the_promised_strength(noise):
    side = 64
    masks = torch.zeros(1, side, side, dtype=torch.bool)
    masks[0, 16:48, 20:40] = True  # 32 x 20
    target = {"labels": torch.tensor([0]), "masks": PackedMasks.from_tensor(masks)}
    indices = [torch.zeros(400, dtype=torch.long)]
    size = (side, side)
    torch.manual_seed(0)
    (found,) = noisy_masks([target], indices, size, [size], noise=noise, strength=0.5)
    if noise == "point":
        turned = (found != masks.flatten(1)).float().sum(1)
        assert turned.mean().item() == pytest.approx(0.5 * 32 * 20, rel=0.05)
        return
    boxes = torch.tensor([box_of(m, size) for m in found], dtype=torch.float)
    heights, widths = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    moved = boxes[:, :2].mean(1) - 32, boxes[:, 2:].mean(1) - 30
    if noise == "shift":
        assert (heights - 32).abs().max() <= 1 and (widths - 20).abs().max() <= 1
        for distance, most in zip(moved, (8, 5), strict=True):
            assert most - 1 < distance.abs().max() <= most + 0.5
    else:
        assert max(distance.abs().max() for distance in moved) <= 1
        assert 32 / 1.5 - 1.5 <= heights.min() <= 24 and 44 <= heights.max() <= 49
        torch.testing.assert_close(widths / 20, heights / 32, rtol=0.15, atol=0.0)


# --- The decoder ---


@torch.no_grad()
def test_nothing_leaks_to_the_models_own_queries():
    decoder = make_decoder(mask_noise=0.2, label_noise=0.2)
    without = decoder(*features(2))
    runs = [
        decoder(*features(2), targets)
        for targets in (
            [rectangles(3, 0), rectangles(2, 1)],
            [rectangles(3, 7), rectangles(2, 8)],  # as many others
            [rectangles(0), rectangles(9, 2)],
        )
    ]
    for run in runs:
        pairs = zip([*run["aux_outputs"], run], [*without["aux_outputs"], without], strict=True)
        for got, wanted in pairs:
            for key in ("pred_logits", "pred_masks"):
                torch.testing.assert_close(got[key], wanted[key], rtol=0.0, atol=1e-12)
    assert torch.equal(runs[0]["pred_masks"], runs[1]["pred_masks"])
    pilots = [run["piloted"]["outputs"][-1]["pred_masks"] for run in runs]
    assert (pilots[0] - pilots[1]).abs().max() > 1e-3  # what is compared above could have differed


@torch.no_grad()
def test_groups_and_images_do_not_see_each_other():
    """The pilots of a group, and of an image, are those that it has alone."""
    targets = [rectangles(3, 0), rectangles(1, 1)]
    maps, mask_features = features(2)
    together = make_decoder()(maps, mask_features, targets)["piloted"]
    for b, target in enumerate(targets):
        n = len(target["labels"])
        alone = make_decoder(groups=1)(
            [m[b : b + 1] for m in maps], mask_features[b : b + 1], [target]
        )["piloted"]
        for got, wanted in zip(together["outputs"], alone["outputs"], strict=True):
            for group in range(3):
                part = slice(group * n, (group + 1) * n)
                torch.testing.assert_close(got["pred_masks"][b, part], wanted["pred_masks"][0])


@torch.no_grad()
def test_given_masks_are_used_in_the_first_layers_only():
    """The masks of other targets of the same classes change what comes after these layers."""
    first, second = rectangles(2, 0), {**rectangles(2, 3), "labels": rectangles(2, 0)["labels"]}
    for layers in (0, 1, LAYERS):
        decoder = make_decoder(mask_layers=layers)
        runs = [decoder(*features(1), [t])["piloted"]["outputs"] for t in (first, second)]
        same = torch.equal(runs[0][-1]["pred_masks"], runs[1][-1]["pred_masks"])
        assert same == (layers == 0)
    assert len(runs[0]) == LAYERS


@torch.no_grad()
def test_targets_are_not_used_at_inference():
    decoder = make_decoder().eval()
    found = decoder(*features(1))
    assert set(found) == {"pred_logits", "pred_masks", "aux_outputs"}


# --- The losses ---


def test_off_is_as_before_and_on_leaves_the_losses_of_the_queries():
    off, on = small_model(), small_model(*ON)
    # whatever the other keys say
    other = small_model("MODEL.MASK_FORMER.PILOTED.MASK_NOISE", 1.0)
    extra = set(on.state_dict()) - set(off.state_dict())
    assert extra == {"sem_seg_head.predictor.piloted.class_queries.weight"}
    assert [n for n, _ in on.named_parameters() if n not in extra] == [
        n for n, _ in off.named_parameters()
    ]
    for name, tensor in off.state_dict().items():
        assert torch.equal(on.state_dict()[name], tensor)
    found = []
    for model in (off, other, on):
        torch.manual_seed(3)
        found.append(model(inputs([2, 0, 5], seeds=False)))
    assert found[0] == found[1]
    assert not any("_mp" in name for name in found[0])
    names = {f"loss_{k}_mp{s}" for k in ("ce", "mask", "dice") for s in ("", "_1")}
    assert set(found[2]) - set(found[0]) == names


def test_fixed_matches_are_the_hungarian_ones_of_perfect_predictions():
    model = small_model(*ON)
    target = rectangles(4)
    pilots = make(groups=1)([target], MASK_SIZE, SIZES)
    logits = torch.nn.functional.one_hot(target["labels"], K + 1)[None] * 20.0
    masks = target["masks"].tensor[None] * 40.0 - 20.0
    ((rows, columns),) = model.criterion.matcher.match(
        {"pred_logits": logits, "pred_masks": masks}, [target]
    )
    assert torch.equal(rows, pilots.matches[0][0]) and torch.equal(columns, pilots.matches[0][1])
    output = {"pred_logits": logits, "pred_masks": masks}
    losses = model.criterion._piloted_losses([target], [output], pilots.matches)
    rolled = [(rows, columns.roll(1))]
    wrong = model.criterion._piloted_losses([target], [output], rolled)
    assert losses["loss_ce_mp"] < 1e-3 < 0.1 < wrong["loss_ce_mp"]
    assert 5 * losses["loss_dice_mp"] < wrong["loss_dice_mp"]
    # cross-entropy by hand, a mean over pilots, times its weight
    by_hand = -logits[0].log_softmax(-1)[rows, target["labels"][columns.roll(1)]].mean()
    assert wrong["loss_ce_mp"].item() == pytest.approx(2.0 * by_hand.item(), rel=1e-5)


def test_losses_of_a_batch_are_those_of_its_images():
    """Means over pilots: those of single images, weighted by their pilots."""
    model = small_model(*ON, "MODEL.MASK_FORMER.PILOTED.MAX_QUERIES", 8)
    model.eval()  # batch statistics would differ
    model.sem_seg_head.predictor.train()
    counts, pilots = (2, 1, 0, 10), (6, 3, 0, 8)
    batch = inputs(counts)

    def losses(part):
        with draws_per_image(part, model.device), torch.no_grad():
            return model._losses(part)

    together, alone = losses(batch), [losses([x]) for x in batch]
    for name in (name for name in together if "_mp" in name):
        wanted = sum(n * one[name] for n, one in zip(pilots, alone, strict=True)) / sum(pilots)
        torch.testing.assert_close(together[name], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("counts", [(0, 0), (3, 0)])
@pytest.mark.parametrize("noise", ["point", "shift", "scale"])
def test_every_parameter_gets_a_gradient(counts, noise):
    model = small_model(*ON, "MODEL.MASK_FORMER.PILOTED.NOISE", noise)
    losses = model(inputs(counts))
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    gradient = model.sem_seg_head.predictor.piloted.class_queries.weight.grad
    assert gradient.isfinite().all()
    assert gradient.any() == (sum(counts) > 0)


def test_the_losses_of_pilots_fall():
    model = small_model(*ON)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batch, totals = inputs((2, 3)), []
    for _ in range(60):
        losses = model(batch)
        totals.append(sum(v.item() for k, v in losses.items() if "_mp" in k))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert sum(totals[-5:]) < 0.6 * sum(totals[:5])


def test_decoders_without_masked_attention_are_refused():
    with pytest.raises(ValueError, match=r"PILOTED\.GROUPS is for MultiScale.* is Standard"):
        small_model(
            *ON,
            *("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "StandardTransformerDecoder"),
            *("MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", "res5"),
        )
    with pytest.raises(ValueError, match=r"PILOTED\.GROUPS needs layers"):
        small_model(*ON, "MODEL.MASK_FORMER.DEC_LAYERS", 1)
