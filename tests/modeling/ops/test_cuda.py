"""What only a GPU can show of the operator's kernels; the numbers' own tests run there as well."""

import functools
import subprocess
import sys

import pytest
import torch
from support import REPOSITORY

from mask2former.modeling.ops import ms_deform_attn, reference_points, triton_kernels
from mask2former.modeling.ops.library import implementation
from mask2former.modeling.ops.pytorch import (
    ms_deform_attn_backward_pytorch,
    ms_deform_attn_pytorch,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
OPS = torch.ops.mask2former
F32, F64, F16, BF16 = torch.float32, torch.float64, torch.float16, torch.bfloat16
DTYPES = [(F32, F32), (F64, F64), (F16, F16), (F16, F32), (BF16, BF16), (BF16, F32)]
SHAPES = [(25, 38), (50, 76), (100, 152)]  # of an image of 800x1216


@pytest.fixture
def compiled():
    if implementation("cuda").name != "compiled":
        pytest.skip(f"the CUDA kernels are not compiled: {implementation('cuda').reason}")


def problem(dtypes=DTYPES[0], *, B=2, Q=None, H=2, D=32, P=4, shapes=((7, 9), (13, 18))):
    """Locations around each query's position, as in a network, and some outside of the map."""
    generator = torch.Generator("cuda").manual_seed(0)
    random = functools.partial(torch.randn, generator=generator, device="cuda")
    sizes = torch.tensor(shapes)
    starts = sizes.prod(1).cumsum(0) - sizes.prod(1)
    S, L = int(sizes.prod(1).sum()), len(shapes)
    points = reference_points(shapes, torch.device("cuda"))
    points = points if Q is None else points[torch.arange(Q, device="cuda") % S]
    locations = (
        points[:, None, None, None]
        + 2 * random(B, len(points), H, L, P, 2) / sizes.flip(1).cuda()[:, None]
    )
    weights = random(B, len(points), H, L * P).softmax(-1).view(B, len(points), H, L, P)
    arguments = (
        random(B, S, H, D).to(dtypes[0]),
        sizes,
        starts,
        locations.to(dtypes[1]),
        weights.to(dtypes[1]),
    )
    return arguments, random(B, len(points), H * D).to(dtypes[0])


def assert_exact(results, arguments, grad_output):
    """Output and gradients are those of the same numbers in float64.

    That is up to the precision of sums, relative to the largest number, and one rounding to the
    dtype. The slope of a location jumps at pixels' centres: not compared where it is next to one.
    """
    value, sizes, starts, locations, weights = arguments
    doubles = (value.double(), sizes, starts, locations.double(), weights.double())
    expected = [
        ms_deform_attn_pytorch(*doubles),
        *ms_deform_attn_backward_pytorch(grad_output.double(), *doubles),
    ]
    pixels = doubles[3] * sizes.flip(1).to(value.device)[:, None] - 0.5
    smooth = (pixels - pixels.round()).abs() > 1e-4
    assert smooth.float().mean() > 0.8  # float16 has few numbers between two pixels
    sums = 1e-13 if value.dtype == F64 else 1e-5
    for result, true, like in zip(
        results, expected, (value, value, locations, weights), strict=True
    ):
        assert result.dtype == like.dtype
        atol = sums * float(true.abs().max())
        rtol = 1e-12 if like.dtype == F64 else torch.finfo(like.dtype).eps
        if like is locations:
            result, true = result[smooth], true[smooth]
        torch.testing.assert_close(result.double(), true, rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("D", [1, 3, 8, 16, 32, 40, 64, 96, 128, 192, 256, 1500])
def test_every_number_of_channels(dtypes, D):
    arguments, grad_output = problem(dtypes, D=D)
    results = OPS.ms_deform_attn(*arguments), *OPS.ms_deform_attn_backward(grad_output, *arguments)
    assert_exact(results, arguments, grad_output)


@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize(
    ("forward", "backward"),
    [
        (OPS.ms_deform_attn, OPS.ms_deform_attn_backward),
        (triton_kernels.ms_deform_attn_triton, triton_kernels.ms_deform_attn_backward_triton),
    ],
    ids=["chosen", "triton"],
)
def test_the_sizes_of_a_network(dtypes, forward, backward):
    arguments, grad_output = problem(dtypes, B=2, H=8, shapes=SHAPES)
    results = forward(*arguments), *backward(grad_output, *arguments)
    assert_exact(results, arguments, grad_output)


@pytest.mark.parametrize(
    ("changes"),
    [
        {"Q": 1},
        {"Q": 300},  # of no grid, as a decoder's queries
        {"P": 1},
        {"P": 5},
        {"P": 33},
        {"shapes": [(3, 2 + level) for level in range(11)], "P": 2},
        {"shapes": [(1, 1)]},
        {"B": 65537, "H": 1, "D": 4, "P": 1, "Q": 1, "shapes": [(1, 2)]},  # more than a grid's z
    ],
    ids=str,
)
@pytest.mark.parametrize("levels_on", ["cpu", "cuda"])
def test_sizes_of_every_kind(changes, levels_on):
    arguments, grad_output = problem(**changes)
    value, sizes, starts, *others = arguments
    given = (value, sizes.to(levels_on), starts.to(levels_on), *others)
    results = OPS.ms_deform_attn(*given), *OPS.ms_deform_attn_backward(grad_output, *given)
    assert_exact(results, arguments, grad_output)


@pytest.mark.parametrize("D", [3, 32])
def test_views_that_no_wide_load_may_read(D):
    arguments, grad_output = problem(D=D)

    def shifted(tensor):
        buffer = tensor.new_full((tensor.numel() + 1,), torch.nan)
        buffer[1:] = tensor.flatten()
        return buffer[1:].view(tensor.shape)

    value, sizes, starts, locations, weights = arguments
    views = (shifted(value), sizes, starts, shifted(locations), shifted(weights))
    assert all(x.data_ptr() % 16 for x in views if x.is_cuda)
    results = OPS.ms_deform_attn(*views), *OPS.ms_deform_attn_backward(shifted(grad_output), *views)
    assert_exact(results, arguments, grad_output)


def test_a_stream_of_ones_own():
    arguments, grad_output = problem(B=4, H=8, shapes=SHAPES)
    expected = OPS.ms_deform_attn(*arguments)
    value = torch.zeros_like(arguments[0])
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # what follows must wait for this stream, not another
        value.copy_(arguments[0])
        result = OPS.ms_deform_attn(value, *arguments[1:])
        grads = OPS.ms_deform_attn_backward(grad_output, value, *arguments[1:])
    stream.synchronize()
    torch.testing.assert_close(result, expected, rtol=0, atol=0)
    torch.testing.assert_close(grads, OPS.ms_deform_attn_backward(grad_output, *arguments))


def test_nothing_waits_for_the_gpu(compiled):
    """With sizes as numbers: what a CUDA graph may hold does not wait."""
    (value, sizes, _, locations, weights), _ = problem()
    shapes = [tuple(size) for size in sizes.tolist()]
    expected = ms_deform_attn(value, shapes, locations, weights)
    graph, results = torch.cuda.CUDAGraph(), None
    inputs = [x.clone().requires_grad_() for x in (value, locations, weights)]

    def step():
        output = ms_deform_attn(inputs[0], shapes, *inputs[1:])
        return output, *torch.autograd.grad(output.sum(), inputs)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        step()
    side.synchronize()
    with torch.cuda.graph(graph):
        results = step()
    results[0].detach().fill_(torch.nan)
    graph.replay()
    torch.testing.assert_close(results[0], expected, rtol=0, atol=0)
    for result, true in zip(results[1:], step()[1:], strict=True):
        torch.testing.assert_close(result, true)


def test_memory_of_the_backward(compiled):
    """Half types need a sum in float32 beside the gradients, float32 nothing."""
    for dtypes, factor in (((F32, F32), 0), ((F16, F32), 4)):
        arguments, grad_output = problem(dtypes, H=8, shapes=SHAPES)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        grads = OPS.ms_deform_attn_backward(grad_output, *arguments)
        peak = torch.cuda.max_memory_allocated() - before
        results = sum(g.numel() * g.element_size() for g in grads)
        assert peak <= results + factor * arguments[0].numel() + 2**20


WRONG_TABLE = """
import torch
from mask2former.modeling.ops import ms_deform_attn
arguments = [x.cuda() for x in (
    torch.ones(1, 4, 1, 4), torch.tensor([[2, 3]]), torch.full((1, 1, 1, 1, 1, 2), 0.5),
    torch.ones(1, 1, 1, 1, 1))]
ms_deform_attn(*arguments)
torch.cuda.synchronize()
"""


def test_a_table_on_the_gpu_that_leads_out_of_the_value(compiled):
    """It ends the program: to look at it before would wait for the GPU."""
    done = subprocess.run(
        [sys.executable, "-c", WRONG_TABLE],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "spatial_shapes or level_start_index point outside value" in done.stderr
