"""Deformable attention by what one linear layer gives for offsets and weights."""

import pytest
import torch
from cpu_kernel_checks import check_projected_attention, kernel_or_skip

from mask2former.modeling.ops import ms_deform_attn, ms_deform_attn_projected
from mask2former.modeling.ops.cpu_kernels import pytorch_forms

LEVELS = torch.tensor([[4, 4]])
START = torch.tensor([0])


def test_the_numbers_are_those_of_the_pytorch_form():
    check_projected_attention(120)


def test_an_empty_batch():
    kernel_or_skip("ms_deform_attn_projected")
    value, projected = torch.empty(0, 16, 2, 8), torch.empty(0, 5, 12)
    got = ms_deform_attn_projected(value, [(4, 4)], torch.rand(5, 2), projected)
    assert got.shape == (0, 5, 16)


def test_offsets_and_weights_of_each_head_level_and_point():
    """With one point per head and level, the sample that attention of one weight gives."""
    torch.manual_seed(0)
    levels, H = [(3, 5), (2, 2)], 3
    value = torch.randn(1, 19, H, 4)
    references, offsets = torch.rand(6, 2), torch.randn(1, 6, H, 2, 1, 2) / 5
    logits = torch.full((1, 6, H, 2, 1), -100.0)
    logits[:, :, 0, 1] = logits[:, :, 1, 0] = logits[:, :, 2, 1] = 100.0
    projected = torch.cat((offsets.flatten(2), logits.flatten(2)), dim=-1)
    weights = (logits > 0).float()
    locations = references[:, None, None, None] + offsets
    wanted = ms_deform_attn(value, levels, locations, weights)
    for forms in (pytorch_forms, torch.no_grad):
        with forms():
            got = ms_deform_attn_projected(value, levels, references, projected)
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"value": torch.zeros(1, 16, 2)}, r"value must be \(B, S, H, D\)"),
        ({"value": torch.zeros(2, 16, 2, 8)}, r"value must be \(B, S, H, D\)"),
        ({"references": torch.zeros(4, 2)}, r"float32 \(Q=5, 2\)"),
        ({"references": torch.zeros(5, 2).double()}, "references must be float32"),
        ({"projected": torch.zeros(1, 5, 13)}, r"H=2 heads and L=1 levels, got \[1, 5, 13\]"),
        ({"projected": torch.zeros(1, 5, 12).half()}, "the same or float32"),
        ({"spatial_shapes": torch.tensor([[4, 3]])}, "cover all S=16 positions"),
        ({"spatial_shapes": torch.tensor([[4, 4, 1]])}, r"int64 \(L, 2\)"),
        ({"spatial_shapes": torch.tensor([[4, 4]]).int()}, r"int64 \(L, 2\)"),
        ({"spatial_shapes": torch.zeros(0, 2).long(), "level_start_index": START[:0]}, "L=0"),
        ({"level_start_index": torch.tensor([1])}, "levels must follow each other"),
    ],
)
def test_wrong_arguments_are_errors(changed, message):
    kernel = kernel_or_skip("ms_deform_attn_projected")
    arguments = {
        "value": torch.zeros(1, 16, 2, 8),
        "spatial_shapes": LEVELS,
        "level_start_index": START,
        "references": torch.zeros(5, 2),
        "projected": torch.zeros(1, 5, 12),
    }
    with pytest.raises(ValueError, match=message):
        kernel(**{**arguments, **changed})
