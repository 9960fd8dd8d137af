"""What oneDNN computes in one pass equals the layers one by one."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mask2former.modeling.fused import convolution, linear, softmax_of_few

DTYPES = {None: 1e-6, torch.bfloat16: 0.01}


def operators(function) -> set[str]:
    """Return the names of what PyTorch runs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function()
    return {event.key for event in profile.key_averages()}


def relative_error(found, expected) -> float:
    return float((found.double() - expected.double()).abs().max() / expected.abs().max())


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_linear(relu, bias, dtype):
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 40, bias=bias), torch.randn(2, 7, 24)
    expected = F.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
    expected = expected.relu() if relu else expected
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        found = linear(layer, x, relu=relu)
    assert found.dtype == (dtype or torch.float32)
    assert relative_error(found, expected) <= DTYPES[dtype]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel, stride, groups", [(1, 1, 1), (1, 2, 1), (3, 1, 4), (3, 2, 1)])
@torch.no_grad()
def test_convolution(layout, added, relu, dtype, kernel, stride, groups):
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 12, kernel, stride, kernel // 2, groups=groups).to(memory_format=layout)
    x = torch.randn(2, 8, 9, 10).to(memory_format=layout)
    expected = layer.double()(x.double())
    other = torch.randn(expected.shape).to(memory_format=layout) if added else None
    before = None if other is None else other.clone()
    expected = expected if other is None else expected + other
    expected = expected.relu() if relu else expected
    layer.float()
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        found = convolution(layer, x, layer.weight, layer.bias, added=other, relu=relu)
    assert found.dtype == (dtype or torch.float32)
    assert found.is_contiguous(memory_format=layout)
    assert relative_error(found, expected) <= DTYPES[dtype]
    assert other is None or torch.equal(other, before)


@pytest.mark.parametrize("shape", [(2, 5, 3, 12), (4, 1), (0, 3)])
def test_softmax(shape):
    torch.manual_seed(0)
    x = (torch.randn(shape) * 30).requires_grad_()
    expected = x.double().softmax(-1)
    found = softmax_of_few(x)
    assert found.is_contiguous()
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)
    weights = torch.randn(shape)
    (grad,) = torch.autograd.grad((found * weights).sum(), x, retain_graph=True)
    (expected_grad,) = torch.autograd.grad((expected * weights).sum(), x)
    torch.testing.assert_close(grad, expected_grad, rtol=0, atol=1e-6)


def test_one_operator_unless_gradients_are_recorded():
    layer, x = nn.Linear(4, 4), torch.randn(2, 4)
    assert "aten::relu" in operators(lambda: linear(layer, x, relu=True))
    with torch.inference_mode():
        assert "aten::relu" not in operators(lambda: linear(layer, x, relu=True))
    with torch.no_grad():
        assert "mkldnn::_linear_pointwise" in operators(lambda: linear(layer, x, relu=True))


@torch.no_grad()
def test_a_program_has_the_plain_operators():
    class Layers(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.conv = nn.Linear(4, 4), nn.Conv2d(3, 3, 1)

        def forward(self, x):
            x = convolution(self.conv, x, self.conv.weight, self.conv.bias, added=x, relu=True)
            return linear(self.fc, x, relu=True)

    layers, x = Layers(), torch.randn(1, 3, 4, 4)
    program = torch.export.export(layers, (x,))
    assert "mkldnn" not in str(program.graph)
    traced = torch.jit.trace(layers, x)
    assert "mkldnn" not in str(traced.inlined_graph)
    torch.testing.assert_close(program.module()(x), layers(x))
    torch.testing.assert_close(traced(x), layers(x))
