"""A criterion with the published weights, and random predictions and targets for it."""

import torch

from mask2former.modeling import HungarianMatcher, SetCriterion


def make_matcher(num_points=512) -> HungarianMatcher:
    return HungarianMatcher(cost_class=2.0, cost_mask=5.0, cost_dice=5.0, num_points=num_points)


def make_criterion(num_points=512, num_classes=3, **changes) -> SetCriterion:
    arguments: dict = dict(  # noqa: C408
        matcher=make_matcher(num_points),
        weight_dict={"loss_ce": 2.0, "loss_mask": 5.0, "loss_dice": 5.0},
        deep_supervision=True,
        no_object_weight=0.1,
        num_points=num_points,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
    )
    return SetCriterion(num_classes, **{**arguments, **changes})


def random_case(counts, Q=4, K=3, size=8, dtype=torch.float32, scale=2.0):
    outputs = {
        "pred_logits": torch.randn(len(counts), Q, K + 1, dtype=dtype),
        "pred_masks": torch.randn(len(counts), Q, size, size, dtype=dtype) * scale,
    }
    targets = [
        {"labels": torch.randint(K, (n,)), "masks": torch.rand(n, 2 * size, 2 * size) < 0.5}
        for n in counts
    ]
    return outputs, targets
