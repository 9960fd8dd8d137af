import math

import pytest
import torch

from mask2former.modeling.ops import ms_deform_attn, reference_points

SHAPES = [(3, 5), (2, 2), (1, 1)]


def literal(value, shapes, locations, weights):
    """Equation 3 of Deformable DETR with one loop an index."""
    B, _, H, D = value.shape
    _, Q, _, L, P, _ = locations.shape
    out = torch.zeros(B, Q, H, D, dtype=value.dtype)
    for b in range(B):
        for q in range(Q):
            for h in range(H):
                for level in range(L):
                    height, width = shapes[level]
                    start = sum(a * c for a, c in shapes[:level])
                    for p in range(P):
                        x = float(locations[b, q, h, level, p, 0]) * width - 0.5
                        y = float(locations[b, q, h, level, p, 1]) * height - 0.5
                        x0, y0 = math.floor(x), math.floor(y)
                        for j in (y0, y0 + 1):
                            for i in (x0, x0 + 1):
                                if 0 <= j < height and 0 <= i < width:
                                    share = (1 - abs(x - i)) * (1 - abs(y - j))
                                    pixel = value[b, start + j * width + i, h]
                                    out[b, q, h] += weights[b, q, h, level, p] * share * pixel
    return out.flatten(2)


def inputs(dtype=torch.float64, B=2, Q=4, H=2, D=3, P=2):
    torch.manual_seed(0)
    S = sum(h * w for h, w in SHAPES)
    value = torch.randn(B, S, H, D, dtype=dtype)
    # some of them outside of the map
    locations = torch.rand(B, Q, H, len(SHAPES), P, 2, dtype=dtype) * 1.6 - 0.3
    weights = torch.rand(B, Q, H, len(SHAPES), P, dtype=dtype)
    return value, locations, weights


def test_equals_a_loop_over_every_index():
    value, locations, weights = inputs()
    result = ms_deform_attn(value, SHAPES, locations, weights)
    torch.testing.assert_close(result, literal(value, SHAPES, locations, weights))


def test_gradients_equal_finite_differences():
    value, locations, weights = (x.requires_grad_() for x in inputs(B=1, Q=2))
    assert torch.autograd.gradcheck(
        lambda v, loc, w: ms_deform_attn(v, SHAPES, loc, w), (value, locations, weights)
    )


def test_sampling_at_its_own_centre_gives_the_pixel():
    value, _, _ = inputs(B=1)
    points = reference_points(SHAPES, torch.device("cpu")).double()
    start = 0
    for level, (h, w) in enumerate(SHAPES):
        mine = slice(start, start + h * w)
        locations = points[mine].view(1, -1, 1, 1, 1, 2).expand(-1, -1, 2, len(SHAPES), 1, -1)
        weights = torch.zeros(1, h * w, 2, len(SHAPES), 1, dtype=torch.float64)
        weights[..., level, :] = 1
        out = ms_deform_attn(value, SHAPES, locations, weights)
        # a centre of 1/6 of a map is not representable in float32 exactly
        torch.testing.assert_close(out, value[:, mine].flatten(2), rtol=1e-5, atol=1e-5)
        start += h * w


@pytest.mark.parametrize(
    ("which", "change", "message"),
    [
        (0, lambda x: x[:, :-1], "spatial_shapes"),
        (0, lambda x: x[0], "value must be"),
        (1, lambda x: x[:, :, :1], "sampling_locations must be"),
        (2, lambda x: x[..., :1], "attention_weights must be"),
    ],
)
def test_shapes_that_do_not_fit_are_named(which, change, message):
    arguments = list(inputs())
    arguments[which] = change(arguments[which])
    value, locations, weights = arguments
    with pytest.raises(ValueError, match=message):
        ms_deform_attn(value, SHAPES, locations, weights)
