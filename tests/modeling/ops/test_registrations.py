"""The operator with what PyTorch builds on operators: autograd, autocast, compile, export."""

import pytest
import torch
from torch import nn

from mask2former.modeling.ops import ms_deform_attn
from mask2former.modeling.ops.library import implementation

OPS = torch.ops.mask2former


def inputs(height=3, width=5, dtype=torch.float32, device="cpu"):
    """Two levels' maps (2, H_l, W_l, 2, 4), locations and weights of 7 queries."""
    torch.manual_seed(0)
    tensors = (
        torch.randn(2, height, width, 2, 4, dtype=dtype),
        torch.randn(2, 2 * height, 2 * width, 2, 4, dtype=dtype),
        torch.rand(2, 7, 2, 2, 3, 2, dtype=dtype),
        torch.rand(2, 7, 2, 2, 3, dtype=dtype),
    )
    return tuple(tensor.to(device) for tensor in tensors)


def arguments(dtype=torch.float32, requires_grad=False, device="cpu"):
    """The operator's own."""
    coarse, fine, locations, weights = inputs(dtype=dtype, device=device)
    value = torch.cat([coarse.flatten(1, 2), fine.flatten(1, 2)], dim=1)
    tensors = (value, torch.tensor([[3, 5], [6, 10]]), torch.tensor([0, 15]), locations, weights)
    return tuple(
        t.requires_grad_() if requires_grad and t.is_floating_point() else t for t in tensors
    )


class Attention(nn.Module):
    """Takes the levels' sizes from maps, as the pixel decoder does."""

    def forward(self, coarse, fine, locations, weights):
        shapes = [(x.shape[1], x.shape[2]) for x in (coarse, fine)]
        value = torch.cat([coarse.flatten(1, 2), fine.flatten(1, 2)], dim=1)
        return ms_deform_attn(value, shapes, locations, weights)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_the_forward_is_registered_correctly(requires_grad, device):
    given = arguments(requires_grad=requires_grad, device=device)
    torch.library.opcheck(OPS.ms_deform_attn.default, given)


def test_the_backward_is_registered_correctly(device):
    given = (torch.randn(2, 7, 8, device=device), *arguments(device=device))
    torch.library.opcheck(OPS.ms_deform_attn_backward.default, given)


@pytest.mark.parametrize("op", [OPS.ms_deform_attn.default, OPS.ms_deform_attn_backward.default])
def test_the_operators_are_tagged_for_the_compiler(op):
    assert torch.Tag.pt2_compliant_tag in op.tags


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_as_one_graph(dynamic, device):
    torch.compiler.reset()
    compiled = torch.compile(Attention(), fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for size in ((3, 5), (4, 6)):
        tensors = [x.requires_grad_() for x in inputs(*size, device=device)]
        out, expected = compiled(*tensors), Attention()(*tensors)
        torch.testing.assert_close(out, expected)
        grad = torch.randn_like(out)
        torch.testing.assert_close(
            torch.autograd.grad(out, tensors, grad), torch.autograd.grad(expected, tensors, grad)
        )


@pytest.mark.slow
def test_compiles_with_the_default_compiler(device):
    torch.compiler.reset()
    compiled = torch.compile(Attention(), fullgraph=True)
    tensors = [x.requires_grad_() for x in inputs(device=device)]
    out, expected = compiled(*tensors), Attention()(*tensors)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(
        torch.autograd.grad(out.sum(), tensors), torch.autograd.grad(expected.sum(), tensors)
    )


def test_compiles_with_shapes_as_a_tensor(device):
    torch.compiler.reset()
    value, shapes, _, locations, weights = arguments(device=device)
    compiled = torch.compile(ms_deform_attn, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        compiled(value, shapes, locations, weights),
        ms_deform_attn(value, shapes, locations, weights),
    )


@pytest.mark.parametrize("strict", [False, True])
def test_exports_with_sizes_left_open(strict, device):
    Dim = torch.export.Dim
    height, width = Dim("height", min=2, max=64), Dim("width", min=2, max=64)
    sizes = ({1: height, 2: width}, {1: 2 * height, 2: 2 * width}, {}, {})
    program = torch.export.export(
        Attention(), inputs(device=device), dynamic_shapes=sizes, strict=strict
    )
    assert OPS.ms_deform_attn.default in [node.target for node in program.graph.nodes]
    for size in ((3, 5), (4, 9)):
        tensors = inputs(*size, device=device)
        torch.testing.assert_close(program.module()(*tensors), Attention()(*tensors))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("compiled", [False, True])
def test_autocast_spares_the_coordinates(dtype, compiled, device):
    torch.compiler.reset()
    tensors = [x.requires_grad_() for x in inputs(device=device)]
    function = Attention()
    if compiled:
        function = torch.compile(function, fullgraph=True, backend="aot_eager")
    with torch.autocast(device, dtype=dtype):
        out = function(*tensors)
    assert out.dtype == dtype
    # the same as values rounded, and coordinates not
    rounded = [x.to(dtype) for x in tensors[:2]]
    torch.testing.assert_close(out, Attention()(*rounded, *tensors[2:]), rtol=0, atol=0)
    grads = torch.autograd.grad(out.sum(), tensors)
    assert all(grad.dtype == torch.float32 for grad in grads)


def test_autocast_makes_positions_float32(device):
    tensors = inputs(dtype=torch.bfloat16, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        out = Attention()(*tensors)
    expected = Attention()(*tensors[:2], *(x.float() for x in tensors[2:]))
    torch.testing.assert_close(out, expected, rtol=0, atol=0)


def test_autocast_leaves_float64_alone(device):
    tensors = inputs(dtype=torch.float64, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        out = Attention()(*tensors)
    torch.testing.assert_close(out, Attention()(*tensors), rtol=0, atol=0)


def test_a_second_derivative_is_an_error(device):
    value, shapes, starts, locations, weights = arguments(requires_grad=True, device=device)
    out = OPS.ms_deform_attn(value, shapes, starts, locations, weights)
    (grad,) = torch.autograd.grad(out.square().sum(), value, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative of ms_deform_attn"):
        grad.sum().backward()


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_deterministic_algorithms(deterministic, device):
    """The same bits twice, or an error where sums are taken in no fixed order."""
    value, shapes, starts, locations, weights = arguments(requires_grad=True, device=device)
    runs = []
    for _ in range(2):
        out = OPS.ms_deform_attn(value, shapes, starts, locations, weights)
        if device == "cuda" or implementation(device).name == "triton":
            with pytest.raises(RuntimeError, match="deterministic"):
                out.sum().backward()
            return
        runs.append([out, *torch.autograd.grad(out.square().sum(), (value, locations, weights))])
    torch.testing.assert_close(runs[0], runs[1], rtol=0, atol=0)


def test_inference_mode(device):
    given = arguments(device=device)
    grad_output = torch.randn(2, 7, 8, device=device)
    expected = OPS.ms_deform_attn(*given), *OPS.ms_deform_attn_backward(grad_output, *given)
    with torch.inference_mode():
        out = OPS.ms_deform_attn(*given), *OPS.ms_deform_attn_backward(grad_output, *given)
    for result, known in zip(out, expected, strict=True):
        assert result.is_inference()
        torch.testing.assert_close(result.clone(), known)


def test_meta_tensors_give_meta_tensors():
    value, shapes, starts, locations, weights = arguments()
    out = OPS.ms_deform_attn(
        value.to("meta"), shapes, starts, *(x.to("meta") for x in (locations, weights))
    )
    assert out.is_meta and out.shape == (2, 7, 8)
    public = ms_deform_attn(
        value.to("meta"), [(3, 5), (6, 10)], locations.to("meta"), weights.to("meta")
    )
    assert public.is_meta and public.shape == (2, 7, 8)


def test_only_what_needs_a_gradient_gets_one(device):
    value, shapes, starts, locations, weights = arguments(device=device)
    weights.requires_grad_()
    OPS.ms_deform_attn(value, shapes, starts, locations, weights).sum().backward()
    assert weights.grad is not None
    assert value.grad is None and locations.grad is None
