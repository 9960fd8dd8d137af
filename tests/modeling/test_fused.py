"""What oneDNN computes in one pass equals the layers one by one."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mask2former.modeling.backbone.swin_blocks import SwinBlock, split_windows
from mask2former.modeling.fused import convolution, linear, row_parts
from mask2former.modeling.ops import reference_points
from mask2former.modeling.ops.pytorch import softmax_of_few
from mask2former.modeling.pixel_decoder.msdeformattn import MSDeformAttnEncoderLayer

DTYPES = {None: 1e-6, torch.bfloat16: 0.01}


def operators(function) -> set[str]:
    """Return the names of what PyTorch runs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function()
    return {event.key for event in profile.key_averages()}


def relative_error(found, expected) -> float:
    return float((found.double() - expected.double()).abs().max() / expected.abs().max())


@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_linear(activation, bias, dtype):
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 40, bias=bias), torch.randn(2, 7, 24)
    expected = F.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
    expected = {"none": lambda x: x, "relu": F.relu, "gelu": F.gelu}[activation](expected)
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        found = linear(layer, x, activation)
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


@pytest.mark.parametrize("batch", [1, 3])
def test_rows_are_divided_where_it_is_worthwhile(batch, monkeypatch):
    monkeypatch.setattr("mask2former.modeling.fused._PART_BYTES", 4 * 100 * 6)
    x = torch.zeros(batch, 3, 7, 5)
    assert row_parts(x, 100) is None  # gradients might be recorded
    with torch.no_grad():
        parts = row_parts(x, 100)
        assert row_parts(x, 1) is None  # all at once
        assert row_parts(x[:0], 100) is None
        assert row_parts(x.to("meta"), 100) is None
        assert len(row_parts(x, 10**9)) == 21  # a row each
    rows = [row for part in parts for row in range(21)[part]]
    assert rows == list(range(21))
    assert 2 * batch <= max(len(range(21)[part]) for part in parts) * batch <= 6


@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_layers_in_parts_equal_whole_ones(dtype, monkeypatch):
    torch.manual_seed(0)
    shapes = ((3, 5), (6, 9))
    points = reference_points(shapes, torch.device("cpu"))
    sizes = {"dim": 16, "dim_feedforward": 64, "num_levels": 2, "num_heads": 4, "num_points": 3}
    layer = MSDeformAttnEncoderLayer(dropout=0.3, **sizes).eval()
    x, pos = torch.randn(2, len(points), 16), torch.randn(len(points), 16)
    block = SwinBlock(16, 4, 2, 2).eval()
    maps = torch.randn(2, 10, 13, 16)
    split = split_windows(2, 12, 16, 4, 2, torch.device("cpu"))
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        whole = layer(x, pos, points, shapes), block(maps, split)
        monkeypatch.setattr("mask2former.modeling.fused._PART_BYTES", 4096)
        assert row_parts(x, 64) is not None and row_parts(maps, 64) is not None
        parts = layer(x, pos, points, shapes), block(maps, split)
    for found, expected in zip(parts, whole, strict=True):
        assert found.dtype == expected.dtype
        assert relative_error(found, expected) <= DTYPES[dtype]


@torch.no_grad()
def test_maps_that_hooks_keep_stay_as_they_are(monkeypatch):
    monkeypatch.setattr("mask2former.modeling.fused._PART_BYTES", 4096)
    block = SwinBlock(16, 4, 2, 2).eval()
    maps = torch.randn(2, 10, 13, 16)
    split = split_windows(2, 12, 16, 4, 2, torch.device("cpu"))
    kept = []
    block.norm2.register_forward_hook(lambda norm, inputs, output: kept.append((*inputs, output)))
    block(maps, split)
    ((given, normed),) = kept
    torch.testing.assert_close(torch.nn.functional.layer_norm(given, (16,)), normed)


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
    assert "aten::relu" in operators(lambda: linear(layer, x, "relu"))
    with torch.inference_mode():
        assert "aten::relu" not in operators(lambda: linear(layer, x, "relu"))
    with torch.no_grad():
        assert "mkldnn::_linear_pointwise" in operators(lambda: linear(layer, x, "relu"))


@torch.no_grad()
def test_a_program_has_the_plain_operators():
    class Layers(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.conv = nn.Linear(4, 4), nn.Conv2d(3, 3, 1)

        def forward(self, x):
            x = convolution(self.conv, x, self.conv.weight, self.conv.bias, added=x, relu=True)
            return linear(self.fc, x, "relu")

    layers, x = Layers(), torch.randn(1, 3, 4, 4)
    program = torch.export.export(layers, (x,))
    assert "mkldnn" not in str(program.graph)
    traced = torch.jit.trace(layers, x)
    assert "mkldnn" not in str(traced.inlined_graph)
    torch.testing.assert_close(program.module()(x), layers(x))
    torch.testing.assert_close(traced(x), layers(x))
