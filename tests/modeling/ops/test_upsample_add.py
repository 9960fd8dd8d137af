"""The compiled kernel that adds a resized feature map to a larger one."""

import pytest
import torch
from cpu_kernel_checks import check_upsample_add, kernel_or_skip


def test_the_numbers_are_those_of_the_pytorch_form():
    check_upsample_add(120)


@pytest.mark.parametrize(
    ("lateral", "above", "message"),
    [
        (torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 2, 2), r"must be \(B, C, H, W\)"),
        (torch.zeros(1, 2, 4, 4), torch.zeros(2, 2, 2), r"must be \(B, C, H, W\)"),
        (torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 0, 2), "must have pixels"),
        (torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 2, 2).bfloat16(), "and the same"),
        (torch.zeros(1, 2, 4, 4).double(), torch.zeros(1, 2, 2, 2).double(), "must be float32"),
        (torch.zeros(1, 2, 4, 8)[..., ::2], torch.zeros(1, 2, 2, 2), "must be contiguous"),
    ],
)
def test_wrong_arguments_are_errors(lateral, above, message):
    kernel = kernel_or_skip("upsample_add_", torch.empty(0))
    with pytest.raises(ValueError, match=message):
        kernel(lateral, above)
