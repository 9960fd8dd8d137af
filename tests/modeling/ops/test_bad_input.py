"""Mistakes in the arguments read the same whatever computes the operator, and in fake mode."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from mask2former.modeling.ops import ms_deform_attn
from mask2former.modeling.ops.pytorch import (
    ms_deform_attn_backward_pytorch,
    ms_deform_attn_pytorch,
)

FLOAT, DOUBLE, HALF, BFLOAT = torch.float32, torch.float64, torch.float16, torch.bfloat16


def arguments():
    return {
        "value": torch.zeros(2, 19, 3, 4),
        "spatial_shapes": torch.tensor([[3, 5], [2, 2]]),
        "level_start_index": torch.tensor([0, 15]),
        "sampling_locations": torch.zeros(2, 5, 3, 2, 1, 2),
        "attention_weights": torch.zeros(2, 5, 3, 2, 1),
    }


LOCATIONS = "sampling_locations must be (B=2, Q, H=3, L=2, P, 2), got "
WEIGHTS = "attention_weights must be (2, 5, 3, 2, 1) like sampling_locations, got "
# name of the argument, what is given instead of it, message
WITHOUT_DATA = [
    ("value", torch.zeros(19, 3, 4), "value must be (B, S, H, D), got (19, 3, 4)"),
    ("value", torch.zeros(()), "value must be (B, S, H, D), got ()"),
    (
        "value",
        torch.zeros(2, 19, 3, 4, dtype=torch.int64),
        "value must be float32, float64, bfloat16 or float16, got int64",
    ),
    (
        "value",
        torch.zeros(2, 19, 3, 4, dtype=DOUBLE),
        "value is float64 on cpu, but sampling_locations is float32 on cpu; "
        "it must be float64 on cpu",
    ),
    ("spatial_shapes", torch.tensor([3, 5]), "spatial_shapes must be (L, 2), got (2,)"),
    ("spatial_shapes", torch.ones(2, 3).long(), "spatial_shapes must be (L, 2), got (2, 3)"),
    ("spatial_shapes", torch.ones(2, 2).int(), "spatial_shapes must be int64, got int32"),
    # a gradient is possible for a floating-point tensor only
    (
        "spatial_shapes",
        torch.ones(2, 2, requires_grad=True),
        "spatial_shapes must be int64, got float32",
    ),
    (
        "level_start_index",
        torch.zeros(3).long(),
        "level_start_index must be (L=2,), got (3,)",
    ),
    (
        "level_start_index",
        torch.zeros(2, 1).long(),
        "level_start_index must be (L=2,), got (2, 1)",
    ),
    (
        "level_start_index",
        torch.zeros(2, requires_grad=True),
        "level_start_index must be int64, got float32",
    ),
    ("sampling_locations", torch.zeros(2, 5, 3, 2, 2), LOCATIONS + "(2, 5, 3, 2, 2)"),
    ("sampling_locations", torch.zeros(1, 5, 3, 2, 1, 2), LOCATIONS + "(1, 5, 3, 2, 1, 2)"),
    ("sampling_locations", torch.zeros(2, 5, 4, 2, 1, 2), LOCATIONS + "(2, 5, 4, 2, 1, 2)"),
    ("sampling_locations", torch.zeros(2, 5, 3, 3, 1, 2), LOCATIONS + "(2, 5, 3, 3, 1, 2)"),
    ("sampling_locations", torch.zeros(2, 5, 3, 2, 1, 3), LOCATIONS + "(2, 5, 3, 2, 1, 3)"),
    (
        "sampling_locations",
        torch.zeros(2, 5, 3, 2, 1, 2, dtype=HALF),
        "value is float32 on cpu, but sampling_locations is float16 on cpu; "
        "it must be float32 on cpu",
    ),
    ("attention_weights", torch.zeros(2, 5, 3, 2), WEIGHTS + "(2, 5, 3, 2)"),
    ("attention_weights", torch.zeros(2, 6, 3, 2, 1), WEIGHTS + "(2, 6, 3, 2, 1)"),
    ("attention_weights", torch.zeros(2, 5, 3, 2, 4), WEIGHTS + "(2, 5, 3, 2, 4)"),
    (
        "attention_weights",
        torch.zeros(2, 5, 3, 2, 1, dtype=DOUBLE),
        "sampling_locations is float32 on cpu, but attention_weights is float64 on cpu; "
        "it must be float32 on cpu",
    ),
]
COVER = "spatial_shapes {} cover {} positions, but value (2, 19, 3, 4) has 19"
STARTS = "level_start_index must be [0, 15] for spatial_shapes [[3, 5], [2, 2]], got "
WITH_DATA = [
    (
        "value",
        torch.zeros(2, 20, 3, 4),
        "spatial_shapes [[3, 5], [2, 2]] cover 19 positions, but value (2, 20, 3, 4) has 20",
    ),
    (
        "spatial_shapes",
        torch.tensor([[3, 5], [2, 3]]),
        COVER.format([[3, 5], [2, 3]], 21),
    ),
    (
        "spatial_shapes",
        torch.tensor([[1 << 20, 1 << 20], [2, 2]]),
        COVER.format([[1 << 20, 1 << 20], [2, 2]], (1 << 40) + 4),
    ),
    (
        "spatial_shapes",
        torch.tensor([[-3, -5], [2, 2]]),
        "spatial_shapes must be 1 or larger, got [[-3, -5], [2, 2]]",
    ),
    (
        "spatial_shapes",
        torch.tensor([[19, 1], [0, 2]]),
        "spatial_shapes must be 1 or larger, got [[19, 1], [0, 2]]",
    ),
    ("level_start_index", torch.tensor([0, 14]), STARTS + "[0, 14]"),
    ("level_start_index", torch.tensor([-1, 15]), STARTS + "[-1, 15]"),
]
GRADIENTS = [
    (torch.zeros(2, 5, 3, 4), "grad_output must be (B=2, Q=5, H*D=12), got (2, 5, 3, 4)"),
    (torch.zeros(2, 6, 12), "grad_output must be (B=2, Q=5, H*D=12), got (2, 6, 12)"),
    (
        torch.zeros(2, 5, 12, dtype=DOUBLE),
        "value is float32 on cpu, but grad_output is float64 on cpu; it must be float32 on cpu",
    ),
]


def names(cases):
    return [f"{case[0]}-{index}" for index, case in enumerate(cases)]


def message_of(function, *args):
    with pytest.raises(ValueError) as error:
        function(*args)
    return str(error.value)


def both_ways(given):
    """The operator and its backward, each with its arguments."""
    grad_output = torch.zeros(2, 5, 12, device=given["value"].device)
    yield torch.ops.mask2former.ms_deform_attn, tuple(given.values())
    yield torch.ops.mask2former.ms_deform_attn_backward, (grad_output, *given.values())
    yield ms_deform_attn_pytorch, tuple(given.values())
    yield ms_deform_attn_backward_pytorch, (grad_output, *given.values())


@pytest.mark.parametrize(
    ("name", "wrong", "message"), WITHOUT_DATA + WITH_DATA, ids=names(WITHOUT_DATA + WITH_DATA)
)
def test_the_argument_is_named(name, wrong, message, device):
    given = {**arguments(), name: wrong}
    for key in ("value", "sampling_locations", "attention_weights"):
        given[key] = given[key].to(device)
    message = message.replace("on cpu", f"on {given['value'].device}")
    for function, args in both_ways(given):
        assert message_of(function, *args) == message


@torch.inference_mode()
def test_the_argument_is_named_in_inference_mode():
    """Which comes to the kernels without the layers for autograd."""
    for name, wrong, message in (WITHOUT_DATA[0], WITH_DATA[0]):
        given = {**arguments(), name: wrong}
        for function, args in both_ways(given):
            assert message_of(function, *args) == message


@pytest.mark.parametrize(("name", "wrong", "message"), WITHOUT_DATA, ids=names(WITHOUT_DATA))
def test_and_in_fake_mode(name, wrong, message):
    mode = FakeTensorMode()
    given = {k: mode.from_tensor(v) for k, v in {**arguments(), name: wrong}.items()}
    grad_output = mode.from_tensor(torch.zeros(2, 5, 12))
    ops = torch.ops.mask2former
    with mode:
        assert message_of(ops.ms_deform_attn, *given.values()) == message
        assert message_of(ops.ms_deform_attn_backward, grad_output, *given.values()) == message


@pytest.mark.parametrize(("wrong", "message"), GRADIENTS)
def test_the_gradient_is_named(wrong, message):
    backward = torch.ops.mask2former.ms_deform_attn_backward
    assert message_of(backward, wrong, *arguments().values()) == message
    mode = FakeTensorMode()
    with mode:
        fake = [mode.from_tensor(x) for x in (wrong, *arguments().values())]
        assert message_of(backward, *fake) == message


@pytest.mark.parametrize("dtype", [HALF, BFLOAT])
def test_dtypes_that_go_with_half_precision(dtype):
    given = arguments()
    name = str(dtype).removeprefix("torch.")
    given["value"] = given["value"].to(dtype)
    given["sampling_locations"] = given["sampling_locations"].double()
    assert message_of(torch.ops.mask2former.ms_deform_attn, *given.values()) == (
        f"value is {name} on cpu, but sampling_locations is float64 on cpu; "
        f"it must be {name} or float32 on cpu"
    )
    given["sampling_locations"] = given["sampling_locations"].to(dtype)
    assert message_of(torch.ops.mask2former.ms_deform_attn, *given.values()) == (
        f"sampling_locations is {name} on cpu, but attention_weights is float32 on cpu; "
        f"it must be {name} on cpu"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "value",
            "value is float32 on cuda:0, but sampling_locations is float32 on cpu; "
            "it must be float32 on cuda:0",
        ),
        (
            "sampling_locations",
            "value is float32 on cpu, but sampling_locations is float32 on cuda:0; "
            "it must be float32 on cpu",
        ),
        (
            "attention_weights",
            "sampling_locations is float32 on cpu, but attention_weights is float32 on cuda:0; "
            "it must be float32 on cpu",
        ),
        (
            "spatial_shapes",
            "value is on cpu, but spatial_shapes is on cuda:0; "
            "it must be on the CPU or where value is",
        ),
        (
            "level_start_index",
            "value is on cpu, but level_start_index is on cuda:0; "
            "it must be on the CPU or where value is",
        ),
    ],
)
def test_devices_that_differ(name, message):
    """With fake tensors, which need no GPU; a tensor without data stands in for one on a GPU."""
    given = arguments()
    with FakeTensorMode() as mode:
        fake = {k: mode.from_tensor(v) for k, v in given.items()}
        fake[name] = torch.empty(given[name].shape, dtype=given[name].dtype, device="cuda:0")
        assert message_of(torch.ops.mask2former.ms_deform_attn, *fake.values()) == message
    for other in ("meta", "cuda:0") if torch.cuda.is_available() else ("meta",):
        mixed = {**given, name: given[name].to(other)}
        text = message.replace("cuda:0", other)
        assert message_of(torch.ops.mask2former.ms_deform_attn, *mixed.values()) == text
        assert message_of(ms_deform_attn_pytorch, *mixed.values()) == text


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(3, 5), (2, 3)], COVER.format([[3, 5], [2, 3]], 21)),
        ([(3, 5)], COVER.format([[3, 5]], 15)),
        ([(21, 1), (-1, 2)], "spatial_shapes must be 1 or larger, got [[21, 1], [-1, 2]]"),
        (
            [(3.0, 5), (2, 2)],
            "spatial_shapes must be integers (height, width), got [[3.0, 5], [2, 2]]",
        ),
        (
            [(3, 5, 1), (2, 2)],
            "spatial_shapes must be integers (height, width), got [[3, 5, 1], [2, 2]]",
        ),
        ([(15, 1), (2, 1), (2, 1)], LOCATIONS.replace("L=2", "L=3") + "(2, 5, 3, 2, 1, 2)"),
        (torch.tensor([3, 5]), "spatial_shapes must be (L, 2), got (2,)"),
        (torch.tensor([[3, 5], [2, 3]]), COVER.format([[3, 5], [2, 3]], 21)),
    ],
)
def test_shapes_given_as_numbers(shapes, message):
    given = arguments()
    tensors = [given[k] for k in ("value", "sampling_locations", "attention_weights")]
    assert message_of(ms_deform_attn, tensors[0], shapes, *tensors[1:]) == message


def test_a_value_of_the_wrong_rank_is_what_is_named():
    given = arguments()
    assert (
        message_of(
            ms_deform_attn,
            given["value"][0],
            [(3, 5), (2, 2)],
            given["sampling_locations"],
            given["attention_weights"],
        )
        == "value must be (B, S, H, D), got (19, 3, 4)"
    )
