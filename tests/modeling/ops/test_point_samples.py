"""The compiled kernels of the losses: samples of maps and packed masks, and sums over them."""

import pytest
import torch
from cpu_kernel_checks import (
    check_mask_losses,
    check_samples_of_bits,
    check_samples_of_maps,
    kernel_or_skip,
)


def test_samples_of_maps_are_those_of_grid_sample():
    check_samples_of_maps(80)


def test_samples_of_packed_masks_are_those_of_the_pytorch_form():
    check_samples_of_bits(80)


def test_losses_are_those_of_the_pytorch_form():
    check_mask_losses(60)


@pytest.mark.parametrize("odd", [torch.nan, torch.inf, -torch.inf])
def test_losses_of_odd_logits_are_not_finite(odd):
    kernel_or_skip("mask_loss_sums")
    logits, targets = torch.zeros(2, 40), torch.zeros(2, 40)
    logits[1, 39] = odd
    assert not torch.ops.mask2former.mask_loss_sums(logits, targets)[1, 0].isfinite()
    if odd != odd:
        assert torch.ops.mask2former.mask_probabilities(logits)[1][1].isnan()[:2].all()


def test_of_equal_points_the_first_are_chosen():
    kernel = kernel_or_skip("points_nearest_zero")
    points = torch.rand(1, 50, 2)
    maps, of = torch.zeros(1, 4, 4), torch.zeros(1, dtype=torch.long)
    assert torch.equal(kernel(maps, of, points, 20), points[:, :20])


def test_numbers_that_are_not_finite_are_chosen_last():
    kernel = kernel_or_skip("points_nearest_zero")
    points = torch.tensor([[[0.25, 0.5], [0.75, 0.5], [0.25, 0.5], [0.75, 0.5]]])
    for odd in (torch.nan, torch.inf, -torch.inf):
        maps = torch.tensor([[[odd, 1e30]]])
        got = kernel(maps, torch.zeros(1, dtype=torch.long), points, 3)
        assert got[0, :, 0].tolist() == [0.25, 0.75, 0.75] or got[0, :, 0].tolist() == [
            0.75,
            0.25,
            0.75,
        ]


MAPS, OF, POINTS = torch.zeros(3, 4, 5), torch.tensor([2, 0]), torch.rand(2, 6, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((MAPS[0], OF, POINTS), r"maps must be \(Q, H, W\)"),
        ((MAPS[:, :0], OF, POINTS), r"maps must be \(Q, H, W\)"),
        ((MAPS.int(), OF, POINTS), "wrong type"),
        ((MAPS, OF.int(), POINTS), r"of must be int64"),
        ((MAPS, OF, POINTS.double()), "points must be float32"),
        ((MAPS, OF[:1], POINTS), r"points must be float32 \(P, 2\) or \(N=1"),
        ((MAPS, OF, torch.rand(2, 6, 3)), "points must be float32"),
        ((MAPS, torch.tensor([0, 3]), POINTS), "map 3 is out of range: there are 3"),
        ((MAPS, torch.tensor([0, -1]), POINTS), "map -1 is out of range"),
    ],
)
def test_wrong_arguments_are_errors(arguments, message):
    kernel = kernel_or_skip("sample_maps", torch.empty(0))
    with pytest.raises((ValueError, IndexError), match=message):
        kernel(*arguments)


def test_wrong_arguments_of_the_other_kernels_are_errors():
    kernel_or_skip("sample_maps", torch.empty(0))
    ops = torch.ops.mask2former
    with pytest.raises(ValueError, match="cannot choose 7 of 6 points"):
        ops.points_nearest_zero(MAPS, OF, POINTS, 7)
    with pytest.raises(ValueError, match="grad must be float32"):
        ops.sample_maps_backward(torch.zeros(2, 5), MAPS, OF, POINTS)
    planes = torch.zeros(2, 4, 5, dtype=torch.uint8)
    with pytest.raises(ValueError, match="17 maps do not fit"):
        ops.sample_packed_masks(planes, 17, OF, POINTS, (4, 5))
    with pytest.raises(ValueError, match="do not fit into an image"):
        ops.sample_packed_masks(planes, 16, OF, POINTS, (4, 4))
    with pytest.raises(IndexError, match="map 2 is out of range: there are 1"):
        ops.sample_packed_masks(planes[:1], 1, OF, POINTS, (4, 5))
