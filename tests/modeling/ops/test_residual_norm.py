"""The compiled kernel that normalises the sum of a residual and a branch."""

import pytest
import torch
from cpu_kernel_checks import check_residual_norm, kernel_or_skip
from torch import nn

from mask2former.modeling.fused import residual_norm
from mask2former.modeling.ops.cpu_kernels import pytorch_forms


def test_the_numbers_are_those_of_the_pytorch_form():
    check_residual_norm(120)


@torch.no_grad()
def test_other_norms_than_the_kernels_take_pytorchs_form():
    torch.manual_seed(0)
    x, branch, norm = torch.randn(2, 5, 8), torch.randn(2, 5, 8), nn.LayerNorm(8)
    wanted = norm(x + branch)
    sums = []
    norm.register_forward_hook(lambda module, inputs, output: sums.append(inputs[0]))
    assert torch.equal(residual_norm(norm, x, branch), wanted)
    assert torch.equal(sums[0], x + branch)
    norm._forward_hooks.clear()
    transposed = x.transpose(0, 2).contiguous().transpose(0, 2)
    torch.testing.assert_close(residual_norm(norm, transposed, branch), wanted)
    torch.testing.assert_close(
        residual_norm(norm.double(), x.double(), branch.double()).float(), wanted
    )


def test_gradients_are_those_of_the_layers():
    torch.manual_seed(0)
    norm = nn.LayerNorm(8)
    x, branch = (torch.randn(2, 5, 8, requires_grad=True) for _ in range(2))
    leaves = (x, branch, *norm.parameters())
    found = torch.autograd.grad(residual_norm(norm, x, branch).square().sum(), leaves)
    with pytorch_forms():
        wanted = torch.autograd.grad(norm(x + branch).square().sum(), leaves)
    for got, want in zip(found, wanted, strict=True):
        assert torch.equal(got, want)


X = torch.zeros(2, 3, 4)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": X[0]}, r"x and out must be \(B, rows, C\)"),
        ({"x": torch.zeros(2, 4, 3).transpose(1, 2)}, "each image contiguous"),
        ({"branch": X[:1]}, "the same shape"),
        ({"out": X[:, :2]}, "the same shape"),
        ({"branch": X.double()}, "branch must be float32"),
        ({"x": X.half()}, "x the same or float32"),
        ({"out": X.bfloat16()}, "out like x"),
        ({"weight": torch.ones(3)}, r"float32 \(C=4\)"),
        ({"bias": torch.ones(4).half()}, r"float32 \(C=4\)"),
    ],
)
def test_wrong_arguments_are_errors(changed, message):
    kernel = kernel_or_skip("residual_norm")
    row = torch.ones(4)
    arguments = {"x": X, "branch": X, "weight": row, "bias": row, "eps": 1e-5, "out": X.clone()}
    with pytest.raises(ValueError, match=message):
        kernel(**{**arguments, **changed})
