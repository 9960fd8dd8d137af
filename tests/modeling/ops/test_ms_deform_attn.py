"""The operator's numbers, whatever computes it: see test_implementations.py for all of them."""

import math

import pytest
import torch

from mask2former.modeling.ops import ms_deform_attn, reference_points
from mask2former.modeling.ops.pytorch import ms_deform_attn_pytorch

SHAPES = [(3, 5), (2, 2), (1, 1)]
STARTS = [0, 15, 19]
DTYPES = [
    (torch.float32, torch.float32),
    (torch.float64, torch.float64),
    (torch.bfloat16, torch.bfloat16),
    (torch.bfloat16, torch.float32),
    (torch.float16, torch.float16),
    (torch.float16, torch.float32),
]


def literal(value, shapes, locations, weights):
    """Equation 3 of Deformable DETR with one loop an index."""
    B, _, H, D = value.shape
    _, Q, _, L, P, _ = locations.shape
    out = value.new_zeros(B, Q, H, D)
    for b in range(B):
        for q in range(Q):
            for h in range(H):
                for level in range(L):
                    height, width = shapes[level]
                    start = sum(a * c for a, c in shapes[:level])
                    for p in range(P):
                        x = float(locations[b, q, h, level, p, 0]) * width - 0.5
                        y = float(locations[b, q, h, level, p, 1]) * height - 0.5
                        if not (-1 < x < width and -1 < y < height):
                            continue
                        x0, y0 = math.floor(x), math.floor(y)
                        for j in (y0, y0 + 1):
                            for i in (x0, x0 + 1):
                                if 0 <= j < height and 0 <= i < width:
                                    share = (1 - abs(x - i)) * (1 - abs(y - j))
                                    pixel = value[b, start + j * width + i, h]
                                    out[b, q, h] += weights[b, q, h, level, p] * share * pixel
    return out.flatten(2)


def inputs(dtype=torch.float64, B=2, Q=4, H=2, D=3, P=2, device="cpu"):
    torch.manual_seed(0)
    S = sum(h * w for h, w in SHAPES)
    value = torch.randn(B, S, H, D, dtype=dtype)
    # some of them outside of the map
    locations = torch.rand(B, Q, H, len(SHAPES), P, 2, dtype=dtype) * 1.6 - 0.3
    weights = torch.rand(B, Q, H, len(SHAPES), P, dtype=dtype)
    return value.to(device), locations.to(device), weights.to(device)


def gradients(function, tensors, grad_output):
    tensors = [tensor.detach().requires_grad_() for tensor in tensors]
    output = function(*tensors)
    return output, *torch.autograd.grad(output, tensors, grad_output.to(output))


def oracle(value, locations, weights):
    return ms_deform_attn_pytorch(
        value, torch.tensor(SHAPES), torch.tensor(STARTS), locations, weights
    )


def test_equals_a_loop_over_every_index(device):
    value, locations, weights = inputs(device=device)
    result = ms_deform_attn(value, SHAPES, locations, weights)
    torch.testing.assert_close(result, literal(value, SHAPES, locations, weights))
    torch.testing.assert_close(oracle(value, locations, weights), result)


def test_gradients_equal_finite_differences(device):
    value, locations, weights = (x.requires_grad_() for x in inputs(B=1, Q=2, device=device))
    # a directional derivative: the full Jacobian takes minutes in Triton's interpreter
    assert torch.autograd.gradcheck(
        lambda v, loc, w: ms_deform_attn(v, SHAPES, loc, w),
        (value, locations, weights),
        fast_mode=True,
        nondet_tol=1e-9,  # of sums in no fixed order, on a GPU
    )


@pytest.mark.parametrize("D", [1, 3, 16, 33])
@pytest.mark.parametrize(("dtype", "coordinates"), DTYPES)
def test_output_and_gradients_equal_the_oracle_in_float64(dtype, coordinates, D, device):
    value, locations, weights = inputs(B=1, Q=3, D=D, device=device)
    tensors = value.to(dtype), locations.to(coordinates), weights.to(coordinates)
    grad = torch.randn(1, 3, 2 * D).to(dtype)
    results = gradients(lambda v, loc, w: ms_deform_attn(v, SHAPES, loc, w), tensors, grad)
    expected = gradients(oracle, [tensor.double() for tensor in tensors], grad)
    for result, exact, like in zip(results, expected, (value, *tensors), strict=True):
        precision = dtype if like is value else like.dtype
        assert result.dtype == precision
        # Half precision is rounded once, at the end (Triton's interpreter cuts off: a whole place).
        rtol = max(torch.finfo(precision).eps, 2e-5 if dtype != torch.float64 else 1e-12)
        torch.testing.assert_close(result.double(), exact, rtol=rtol, atol=rtol / 10 + 1e-6)


def test_sampling_at_its_own_centre_gives_the_pixel(device):
    value, _, _ = inputs(B=1, device=device)
    points = reference_points(SHAPES, torch.device(device)).double()
    start = 0
    for level, (h, w) in enumerate(SHAPES):
        mine = slice(start, start + h * w)
        locations = points[mine].view(1, -1, 1, 1, 1, 2).expand(-1, -1, 2, len(SHAPES), 1, -1)
        weights = value.new_zeros(1, h * w, 2, len(SHAPES), 1)
        weights[..., level, :] = 1
        out = ms_deform_attn(value, SHAPES, locations, weights)
        # a centre of 1/6 of a map is not representable in float32 exactly
        torch.testing.assert_close(out, value[:, mine].flatten(2), rtol=1e-5, atol=1e-5)
        start += h * w


@pytest.mark.parametrize("function", [oracle, lambda *t: ms_deform_attn(t[0], SHAPES, *t[1:])])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_location_that_is_nowhere_contributes_nothing(function, axis, device):
    value, locations, weights = inputs(torch.float32, device=device)
    nowhere = torch.zeros(weights.shape, dtype=torch.bool, device=device)
    nowhere[:, ::2, 0, :, 1] = True
    harmless = locations.masked_fill(nowhere[..., None], 0.5)
    places = torch.tensor([math.nan, math.inf, -math.inf, 1e30, -1e30, 7.0, -7.0], device=device)
    locations[..., axis].masked_scatter_(nowhere, places.repeat(2))
    grad = torch.randn(2, 4, 6)
    out, grad_value, grad_locations, grad_weights = gradients(
        function, (value, locations, weights), grad
    )
    expected = gradients(function, (value, harmless, weights.masked_fill(nowhere, 0)), grad)
    torch.testing.assert_close((out, grad_value), expected[:2])
    assert grad_locations[nowhere].eq(0).all()
    assert grad_weights[nowhere].eq(0).all()
    torch.testing.assert_close(grad_locations[~nowhere], expected[2][~nowhere])
    torch.testing.assert_close(grad_weights[~nowhere], expected[3][~nowhere])


@pytest.mark.parametrize("function", [oracle, lambda *t: ms_deform_attn(t[0], SHAPES, *t[1:])])
@pytest.mark.parametrize(("place", "slope"), [(-0.25, 0), (-0.2, 2), (1.2, -2), (1.25, 0)])
def test_the_slope_ends_a_pixel_outside(function, place, slope, device):
    """Level 1 is 2 x 2: a quarter of it outside is a pixel away from the nearest centre."""
    value, locations, weights = inputs(B=1, Q=1, H=1, D=1, P=1, device=device)
    value[:], locations[:], weights[:] = 1, 0.5, 0
    weights[0, 0, 0, 1] = 1
    locations[0, 0, 0, 1, 0, 0] = place
    _, grad_value, grad_locations, _ = gradients(
        function, (value, locations, weights), torch.ones(1, 1, 1)
    )
    assert grad_locations[0, 0, 0, 1, 0, 0].item() == pytest.approx(slope)
    assert grad_value.sum().item() == pytest.approx(0.1 if slope else 0)


def test_non_contiguous_arguments(device):
    tensors = inputs(device=device)
    grad = torch.randn(2, 6, 4, dtype=torch.float64, device=device).transpose(1, 2)  # (2, 4, 6)
    strided = [x.transpose(0, -1).contiguous().transpose(0, -1) for x in tensors]
    strided[0] = torch.stack([tensors[0]] * 2, dim=-1)[..., 1]
    assert not any(x.is_contiguous() for x in (*strided, grad))

    def function(value, locations, weights):
        return ms_deform_attn(value, SHAPES, locations, weights)

    for result, expected in zip(
        gradients(function, strided, grad),
        gradients(function, tensors, grad.contiguous()),
        strict=True,
    ):
        torch.testing.assert_close(result, expected)
        assert result.is_contiguous()


def test_an_expanded_gradient(device):
    """As the sum of an output gives it: one number in memory."""
    tensors = [x.requires_grad_() for x in inputs(device=device)]
    ms_deform_attn(tensors[0], SHAPES, *tensors[1:]).sum().backward()
    expected = gradients(oracle, tensors, torch.ones(2, 4, 6))
    for tensor, grad in zip(tensors, expected[1:], strict=True):
        torch.testing.assert_close(tensor.grad, grad)


@pytest.mark.parametrize("empty", ["B", "Q", "H", "D", "P"])
def test_empty_arguments(empty, device):
    tensors = [x.requires_grad_() for x in inputs(torch.float32, device=device, **{empty: 0})]
    out = ms_deform_attn(tensors[0], SHAPES, *tensors[1:])
    B, Q, H = tensors[2].shape[:3]
    assert out.shape == (B, Q, H * tensors[0].shape[3])
    assert out.eq(0).all()
    out.sum().backward()
    assert all(x.grad.shape == x.shape and x.grad.eq(0).all() for x in tensors)


def test_no_levels(device):
    value, locations, weights = inputs(device=device)
    out = ms_deform_attn(value[:, :0], [], locations[:, :, :, :0], weights[:, :, :, :0])
    torch.testing.assert_close(out, value.new_zeros(2, 4, 6))


def test_shapes_as_a_tensor(device):
    value, locations, weights = inputs(device=device)
    expected = ms_deform_attn(value, SHAPES, locations, weights)
    for place in ("cpu", device):
        shapes = torch.tensor(SHAPES, device=place)
        torch.testing.assert_close(ms_deform_attn(value, shapes, locations, weights), expected)


def test_a_batch_equals_its_images_one_by_one(device):
    value, locations, weights = inputs(torch.float32, device=device)
    out = ms_deform_attn(value, SHAPES, locations, weights)
    for image in range(2):
        mine = slice(image, image + 1)
        torch.testing.assert_close(
            out[mine], ms_deform_attn(value[mine], SHAPES, locations[mine], weights[mine])
        )


def test_training_after_inference_at_the_same_shapes(device):
    """What is kept for the shapes must not be an inference tensor."""
    value, locations, weights = inputs(device=device)
    shapes = [(5, 3), (2, 2), (1, 1)]  # which no other test has
    with torch.inference_mode():
        expected = ms_deform_attn(value, shapes, locations, weights)
    out = ms_deform_attn(value.requires_grad_(), shapes, locations, weights)
    out.sum().backward()
    torch.testing.assert_close(out, expected.clone())


@pytest.mark.parametrize("size", [(1, 8), (8, 1)], ids=["x", "y"])
def test_at_the_centre_of_a_pixel_the_gradient_is_that_towards_larger_coordinates(device, size):
    axis = 0 if size[1] == 8 else 1
    pixels = torch.tensor([3.0, -1.0, 4.0, 1.0, -5.0, 9.0, 2.0, 6.0], dtype=torch.float64)
    centres = (torch.arange(8, dtype=torch.float64) + 0.5) / 8  # exact, as 8 is a power of two
    locations = torch.full((1, 8, 1, 1, 1, 2), 0.5, dtype=torch.float64)
    locations[..., axis] = centres.view(1, 8, 1, 1, 1)
    locations = locations.to(device).requires_grad_()
    weights = torch.ones(1, 8, 1, 1, 1, dtype=torch.float64, device=device)
    output = ms_deform_attn(pixels.view(1, 8, 1, 1).to(device), [size], locations, weights)
    (gradient,) = torch.autograd.grad(output.sum(), locations)
    right = torch.cat([pixels[1:], torch.zeros(1, dtype=torch.float64)])  # zeros beyond the map
    expected = 8 * (right - pixels)
    torch.testing.assert_close(gradient[..., axis].flatten().cpu(), expected, rtol=0, atol=1e-12)
