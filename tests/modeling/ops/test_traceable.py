"""The operator as tensor operations: equal to the operator itself, and open to any size."""

import pytest
import torch

from mask2former.modeling.ops import ms_deform_attn
from mask2former.modeling.ops.traceable import FORMS, traced_as

LEVELS = [((3, 5),), ((1, 1), (4, 2), (7, 9))]
H, D, P, Q = 2, 4, 3, 11


def arguments(batch, sizes):
    torch.manual_seed(0)
    positions = sum(height * width for height, width in sizes)
    value = torch.randn(batch, positions, H, D)
    locations = torch.rand(batch, Q, H, len(sizes), P, 2) * 1.6 - 0.3
    special = torch.tensor([0.0, 1.0, 0.5, 1e6, -1e6, torch.nan, torch.inf, -torch.inf])
    locations[0, :8, 0, 0, 0, 0] = special
    locations[0, :8, 0, 0, 1, 1] = special
    # exactly at the first and the last centre, and one pixel outside
    height, width = sizes[-1]
    locations[0, 0, 1, -1, 0] = torch.tensor([0.5 / width, 0.5 / height])
    locations[0, 1, 1, -1, 0] = torch.tensor([1 - 0.5 / width, 1 - 0.5 / height])
    locations[0, 2, 1, -1, 0] = torch.tensor([-0.5 / width, 1 + 0.5 / height])
    return value, sizes, locations, torch.rand(batch, Q, H, len(sizes), P)


@pytest.mark.parametrize("sizes", LEVELS, ids=str)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ["gather", "grid_sample"])
def test_forms_equal_the_operator(name, batch, sizes):
    given = arguments(batch, sizes)
    expected = ms_deform_attn(*given)
    with traced_as(FORMS[name]):
        found = ms_deform_attn(*given)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["gather", "grid_sample"])
def test_forms_use_no_operator_of_this_project(name):
    class Module(torch.nn.Module):
        def forward(self, value, locations, weights):
            return ms_deform_attn(value, LEVELS[1], locations, weights)

    value, _, locations, weights = arguments(2, LEVELS[1])
    with traced_as(FORMS[name]):
        program = torch.export.export(Module(), (value, locations, weights))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not any("mask2former" in name for name in called)


def test_the_operator_is_itself_again_afterwards():
    given = arguments(1, LEVELS[0])
    with traced_as(lambda *_: "replaced"):
        assert ms_deform_attn(*given) == "replaced"
    assert torch.is_tensor(ms_deform_attn(*given))
