"""Losses, matches and gradients against those of `transformers`, at the same points.

Both draw their points with `torch.rand`, in the same order and number, so the same seed gives both
the same points: for each prediction, the last one first, those of the matching image by image,
then the candidates and the uniform ones of the losses.

Rules that differ:

- Theirs returns the losses without their weights, which its model multiplies in afterwards.
- Theirs replaces NaN and infinite costs by the largest number and goes on; ours stops.
- Theirs always trains the auxiliary predictions; ours by `deep_supervision`.
- Theirs takes the batch norms of a ResNet as trainable; ours has them frozen, as published.
"""

import math

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances
from hf_models import config_of_hf_folder
from torch import nn

from mask2former.checkpoint.huggingface.weight_names import hf_to_d2
from mask2former.modeling import HungarianMatcher, SetCriterion

transformers = pytest.importorskip("transformers")
mask2former = pytest.importorskip("transformers.models.mask2former.modeling_mask2former")

K, POINTS = 4, 200
WEIGHTS = {"loss_ce": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
THEIR_NAMES = {"loss_ce": "loss_cross_entropy", "loss_mask": "loss_mask", "loss_dice": "loss_dice"}


def our_criterion(deep_supervision=True):
    matcher = HungarianMatcher(cost_class=2.0, cost_mask=5.0, cost_dice=5.0, num_points=POINTS)
    return SetCriterion(
        K,
        matcher=matcher,
        weight_dict=WEIGHTS,
        deep_supervision=deep_supervision,
        no_object_weight=0.1,
        num_points=POINTS,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
    )


def their_criterion():
    config = transformers.Mask2FormerConfig(num_labels=K, train_num_points=POINTS)
    return mask2former.Mask2FormerLoss(config, weight_dict={})


def case(counts, Q=7, predictions=3, size=16):
    """Predictions of all layers, the last of the model last, and targets of as many objects."""
    torch.manual_seed(len(counts))
    B = len(counts)
    layers = [
        {
            "pred_logits": torch.randn(B, Q, K + 1, requires_grad=True),
            "pred_masks": (3 * torch.randn(B, Q, size, size)).requires_grad_(),
        }
        for _ in range(predictions)
    ]
    targets = [
        {"labels": torch.randint(K, (n,)), "masks": torch.rand(n, 4 * size, 4 * size) < 0.4}
        for n in counts
    ]
    return layers, targets


def our_losses(layers, targets, **options):
    torch.manual_seed(7)
    return our_criterion(**options)({**layers[-1], "aux_outputs": layers[:-1]}, targets)


def their_losses(layers, targets):
    """Under our names, with weights."""
    torch.manual_seed(7)
    renamed = [
        {"class_queries_logits": x["pred_logits"], "masks_queries_logits": x["pred_masks"]}
        for x in layers
    ]
    losses = their_criterion()(
        **renamed[-1],
        mask_labels=[t["masks"].float() for t in targets],
        class_labels=[t["labels"] for t in targets],
        auxiliary_predictions=renamed[:-1],
    )
    suffixes = ["", *(f"_{i}" for i in range(len(layers) - 1))]
    assert len(losses) == 3 * len(suffixes)
    return {
        ours + suffix: WEIGHTS[ours] * losses[theirs + suffix]
        for ours, theirs in THEIR_NAMES.items()
        for suffix in suffixes
    }


# objects of each image: fewer than queries, none in one image, more than queries, none at all
COUNTS = [(3, 5), (4, 0, 2), (9, 7), (0, 0)]


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_matched_pairs_are_equal(counts):
    layers, targets = case(counts)
    for layer in layers:
        torch.manual_seed(7)
        ours = our_criterion().matcher(layer, targets)
        torch.manual_seed(7)
        theirs = their_criterion().matcher(
            layer["pred_masks"],
            layer["pred_logits"],
            [t["masks"].float() for t in targets],
            [t["labels"] for t in targets],
        )
        for (queries, indices), (their_queries, their_indices) in zip(ours, theirs, strict=True):
            assert torch.equal(queries, their_queries)
            assert torch.equal(indices, their_indices)


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_losses_and_their_gradients_are_equal(counts):
    layers, targets = case(counts)
    ours, theirs = our_losses(layers, targets), their_losses(layers, targets)
    assert ours.keys() == theirs.keys()
    for name, loss in ours.items():
        torch.testing.assert_close(loss, theirs[name], rtol=1e-5, atol=1e-6, msg=name)
    leaves = [tensor for layer in layers for tensor in layer.values()]
    our_gradients = torch.autograd.grad(sum(ours.values()), leaves)
    their_gradients = torch.autograd.grad(sum(theirs.values()), leaves)
    for got, wanted in zip(our_gradients, their_gradients, strict=True):
        assert (got.abs().max() > 1e-3) or not any(counts)
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_costs_that_are_not_finite_stop_ours_only(bad):
    # Theirs: such a pair is matched if there is no other. Ours: an error that says where.
    layers, targets = case((3, 5))
    with torch.no_grad():
        layers[-1]["pred_masks"][1] = bad
    with pytest.raises(FloatingPointError, match="image 1 of the batch"):
        our_losses(layers, targets)
    theirs = their_losses(layers, targets)
    assert not theirs["loss_mask"].isfinite() and theirs["loss_ce"].isfinite()


def test_deep_supervision_can_be_off_in_ours_only():
    # Theirs: the key `use_auxiliary_loss` does not reach the loss.
    layers, targets = case((3, 5))
    ours = our_losses(layers, targets, deep_supervision=False)
    assert set(ours) == set(WEIGHTS) < set(their_losses(layers, targets))


# --- A whole model ---


def their_model(backbone):
    if backbone == "swin":
        config = transformers.SwinConfig(
            embed_dim=8,
            depths=[1, 1, 2, 1],
            num_heads=[1, 2, 2, 4],
            window_size=4,
            drop_path_rate=0.0,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        )
    else:
        config = transformers.ResNetConfig(
            hidden_sizes=[64, 128, 256, 512],
            depths=[2, 2, 2, 2],
            layer_type="basic",
            out_features=["stage1", "stage2", "stage3", "stage4"],
        )
    torch.manual_seed(0)
    model = transformers.Mask2FormerForUniversalSegmentation(
        transformers.Mask2FormerConfig(
            backbone_config=config,
            num_labels=K,
            feature_size=64,  # a bias ahead of a group norm of single channels has no gradient
            mask_feature_size=32,
            hidden_dim=64,
            encoder_feedforward_dim=48,
            encoder_layers=1,
            decoder_layers=4,
            num_attention_heads=4,
            dim_feedforward=48,
            num_queries=6,
            train_num_points=POINTS,
        )
    ).eval()  # the mode matters to batch norms only, which ours has frozen
    for parameter in model.parameters():  # zeros and ones would hide mistakes
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.1)
        else:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("backbone", ["swin", "resnet"])
def test_gradients_of_all_parameters_are_equal(backbone, tmp_path):
    theirs = their_model(backbone)
    theirs.save_pretrained(tmp_path)
    transformers.Mask2FormerImageProcessor().save_pretrained(tmp_path)
    cfg = config_of_hf_folder(tmp_path, task="instance")
    cfg.MODEL.DEVICE = "cpu"
    ours = build_model(cfg).train()
    ours.load_state_dict(hf_to_d2(theirs.state_dict()))

    images = torch.randint(256, (2, 3, 64, 96), dtype=torch.uint8)
    instances = []
    for count in (2, 3):
        instances.append(Instances((64, 96), gt_classes=torch.randint(K, (count,))))
        instances[-1].gt_masks = torch.rand(count, 64, 96) > torch.linspace(0, 1, 96)
    inputs = [{"image": x, "instances": y} for x, y in zip(images, instances, strict=True)]
    torch.manual_seed(1)
    our_loss = sum(ours(inputs).values())
    our_loss.backward()

    torch.manual_seed(1)
    their_loss = theirs(
        pixel_values=(images - ours.pixel_mean) / ours.pixel_std,
        mask_labels=[x.gt_masks.float() for x in instances],
        class_labels=[x.gt_classes for x in instances],
    ).loss
    their_loss.backward()
    torch.testing.assert_close(our_loss, their_loss, rtol=1e-5, atol=0)

    # names map as those of the weights, which are linear in what is concatenated
    named = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    wanted = hf_to_d2(named)
    for name, parameter in ours.named_parameters():
        gradient = wanted.pop(name)
        scale = gradient.abs().max().item()
        assert scale > 0, name
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=5e-5 * scale)
    # what is left of theirs is fixed in ours: frozen norms, and what follows from a window's size
    assert wanted.keys() <= dict(ours.named_buffers()).keys()
