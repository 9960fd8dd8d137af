"""The Triton programs: their numbers through Triton's interpreter, and that they compile.

With a GPU they run on it as well.
"""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import REPOSITORY

from mask2former.modeling.ops import triton_kernels
from mask2former.modeling.ops.pytorch import ms_deform_attn_backward_pytorch, ms_deform_attn_pytorch

ROOT = REPOSITORY
NAMES = ("output", "grad_value", "grad_sampling_locations", "grad_attention_weights")
PAIRS = [
    (torch.float32, torch.float32),
    (torch.float64, torch.float64),
    (torch.bfloat16, torch.bfloat16),
    (torch.bfloat16, torch.float32),
    (torch.float16, torch.float16),
    (torch.float16, torch.float32),
]
LEVELS = [(4, 6), (1, 1), (3, 2)]


def has_triton():
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return False
    return tuple(map(int, version.split(".")[:2])) >= (3, 3)


# The programs need no more than 3.0, but its interpreter and its compiler's interface are others.
needs_triton = pytest.mark.skipif(not has_triton(), reason="Triton 3.3 or newer is not installed")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def metadata(levels):
    sizes = [height * width for height, width in levels]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    shapes = torch.tensor(levels, dtype=torch.int64).view(-1, 2)
    return sum(sizes), shapes, torch.tensor(starts, dtype=torch.int64)


def make(dtypes=PAIRS[0], levels=LEVELS, B=2, Q=3, H=2, D=16, P=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    value_dtype, dtype = dtypes
    S, shapes, starts = metadata(levels)
    L = len(levels)
    value = torch.randn(B, S, H, D, generator=generator).to(value_dtype)
    # some of them outside of the level
    locations = (torch.rand(B, Q, H, L, P, 2, generator=generator) * 1.6 - 0.3).to(dtype)
    weights = torch.rand(B, Q, H, L, P, generator=generator).to(dtype)
    grad_output = torch.randn(B, Q, H * D, generator=generator).to(value_dtype)
    return {
        "arguments": [value, shapes, starts, locations, weights],
        "grad_output": grad_output,
    }


def borders():
    """Every place of interest, in sizes that are powers of two: its pixels are exact."""
    nan, inf = float("nan"), float("inf")
    case = make(levels=[(2, 4)], B=1, Q=144, H=1, D=2, P=1)
    # pixel -1.5, -1, -0.75, -0.5 (the border of the map), 0, 1.25, 3, 3.5, 4, ...
    x = (torch.tensor([-1.5, -1, -0.75, -0.5, 0, 1.25, 3, 3.5, 4, nan, inf, 1e30]) + 0.5) / 4
    y = (torch.tensor([-1.5, -1, -0.75, -0.5, 0, 0.25, 1, 1.5, 2, nan, -inf, -1e30]) + 0.5) / 2
    case["arguments"][3] = torch.cartesian_prod(x, y).view(1, 144, 1, 1, 1, 2)
    return case


def strided():
    """Tensors as other layers make them, views without a dense order."""
    case = make(D=8)
    value, shapes, starts, locations, weights = case["arguments"]
    case["arguments"] = [
        value.transpose(1, 2).contiguous().transpose(1, 2),
        shapes.flip(1).contiguous().flip(1).t().contiguous().t(),
        starts.repeat_interleave(2)[::2],
        torch.cat([locations, locations], dim=-1)[..., :2],
        weights.transpose(1, 3).contiguous().transpose(1, 3),
    ]
    case["grad_output"] = case["grad_output"][:1, :, :1].expand_as(case["grad_output"])
    return case


def infinite():
    """Values and attention that are not finite where nothing may read or use them."""
    case = make(levels=[(2, 2), (1, 2)], B=1, H=1, D=4, P=2)
    value, _, _, locations, weights = case["arguments"]
    value[:, 4:] = float("nan")  # the second level
    locations[:, :, :, 1] = 1.6  # x is a pixel past its end
    weights[:, :, :, 1] = float("inf")
    locations[:, :, :, 0] = 0.1  # a corner with three corners outside
    case["grad_output"][0, 0, 0] = float("inf")
    return case


def guarded():
    """Metadata that leads everywhere, in tensors amid NaN."""
    case = make(D=3)
    guard = 50
    value = case["arguments"][0]
    buffer = torch.full((value.numel() + 2 * guard,), float("nan"))
    buffer[guard:-guard] = value.flatten()
    case["arguments"][1] = torch.tensor([[5, 9], [-7, 2**62], [2**40, 3]])
    case["arguments"][2] = torch.tensor([-11, 2**62, 20])
    return case | {
        "buffer": buffer,
        "grad_buffer": torch.zeros_like(buffer),
        "guard": guard,
        "shape": value.shape,
    }


def cases():
    made = {"-".join(str(d)[6:] for d in dict.fromkeys(pair)): make(pair) for pair in PAIRS}
    made |= {f"D={D}": make(B=1, D=D, seed=D) for D in (1, 3, 32, 40)}
    made |= {f"half, D={D}": make(PAIRS[5], B=1, D=D, seed=D) for D in (1, 3, 40)}
    # more queries than a program serves, and not a multiple of it
    made["many queries"] = make(Q=35, D=32, B=1, H=1, P=1)
    made["wide"] = make(PAIRS[3], levels=[(2, 2)], B=1, Q=2, H=1, D=1500, P=1)
    made["5 levels, 5 points"] = make(levels=[*LEVELS, (2, 5), (1, 7)], B=1, Q=1, H=1, P=5)
    made["1x1 level"] = make(levels=[(1, 1)], D=4)
    made["one level of height 1"] = make(levels=[(1, 9)], D=4)
    made["borders"] = borders()
    made["strided"] = strided()
    made["metadata on the CPU"] = make(D=4) | {"metadata_on_cpu": True}
    for letter in "BQHDP":
        made[f"{letter}=0"] = make(**{letter: 0})
    made["L=0"] = make(levels=[])
    return made


CASES = cases()
SPECIAL = {"infinite": infinite(), "guarded": guarded()}


def search_path():
    return os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])


def worker(arguments, **environment):
    """Run triton_worker.py with the given settings of Triton and no others."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TRITON_")}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("triton_worker.py")), *arguments],
        env={**inherited, "PYTHONPATH": search_path(), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if "only 0-dimensional arrays" in done.stderr and "interpreter.py" in done.stderr:
        pytest.skip("this Triton's interpreter does not work with this NumPy (2.5 and Triton 3.6)")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(
    scope="module", params=["interpreter", pytest.param("GPU", marks=needs_gpu)], name="results"
)
def run(request, tmp_path_factory):
    """Results of all cases, from one process."""
    folder = tmp_path_factory.mktemp("triton")
    torch.save(CASES | SPECIAL, folder / "cases.pt")
    interpreted = request.param == "interpreter"
    settings = {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""} if interpreted else {}
    worker(["run", str(folder / "cases.pt"), str(folder / "results.pt")], **settings)
    return torch.load(folder / "results.pt")


def expected(case):
    """Output and gradients in float64, from the same numbers."""
    value, shapes, starts, locations, weights = case["arguments"]
    arguments = (value.double(), shapes, starts, locations.double(), weights.double())
    output = ms_deform_attn_pytorch(*arguments)
    return output, *ms_deform_attn_backward_pytorch(case["grad_output"].double(), *arguments)


@needs_triton
@pytest.mark.parametrize("name", CASES)
def test_equals_the_oracle(results, name):
    case = CASES[name]
    value, *_, locations, weights = case["arguments"]
    accumulator = torch.float64 if value.dtype == torch.float64 else torch.float32
    for what, actual, true, like in zip(
        NAMES, results[name], expected(case), (value, value, locations, weights), strict=True
    ):
        assert actual.dtype == like.dtype, what
        assert actual.is_contiguous(), what
        # Sums are exact to some roundings of the accumulator, and rounded once to their dtype,
        # by the interpreter towards zero for bfloat16.
        once = torch.finfo(actual.dtype).eps / (1 if actual.dtype == torch.bfloat16 else 2)
        once = once if actual.dtype != accumulator else 0.0
        largest = true.abs().amax().item() if true.numel() else 0.0
        torch.testing.assert_close(
            actual.double(),
            true,
            rtol=1.01 * once,
            atol=16 * torch.finfo(accumulator).eps * largest,
            msg=lambda text, what=what: f"{what}: {text}",
        )


@needs_triton
def test_what_is_not_inside_contributes_nothing(results):
    _, _, grad_locations, grad_weights = results["borders"]
    x, y = CASES["borders"]["arguments"][3].view(-1, 2).unbind(1)
    pixel_x, pixel_y = x * 4 - 0.5, y * 2 - 0.5
    outside = ~((pixel_x > -1) & (pixel_x < 4) & (pixel_y > -1) & (pixel_y < 2))
    assert outside.sum() == 144 - 6 * 6
    assert (grad_locations.view(-1, 2)[outside] == 0).all()
    assert (grad_weights.view(-1)[outside] == 0).all()
    assert (grad_weights.view(-1)[~outside] != 0).all()
    assert (results["borders"][0].view(144, 2)[outside] == 0).all()


@needs_triton
def test_what_is_outside_may_be_infinite(results):
    """Points outside are skipped, not multiplied by zero, whatever weight or gradient they have."""
    output, _, grad_locations, grad_weights = results["infinite"]
    assert output.isfinite().all()
    assert (grad_locations[:, :, :, 1] == 0).all()
    assert (grad_weights[:, :, :, 1] == 0).all()
    assert not grad_weights[:, 0, :, 0].isfinite().any()  # truly infinite
    assert grad_weights[:, 1:].isfinite().all()


@needs_triton
def test_wrong_metadata_on_the_gpu_leads_nowhere(results):
    output, grad_buffer, grad_locations, grad_weights = results["guarded"]
    guard = SPECIAL["guarded"]["guard"]
    assert output.isfinite().all()
    assert grad_locations.isfinite().all()
    assert grad_weights.isfinite().all()
    assert (grad_buffer[:guard] == 0).all()
    assert (grad_buffer[-guard:] == 0).all()
    # not because nothing was read or written at all
    assert (output != 0).any()
    assert (grad_buffer != 0).any()


@needs_triton
def test_determinism_is_an_error_or_a_warning(results):
    error, warning = results["deterministic"]
    assert "not have a deterministic implementation" in error
    assert "use_deterministic_algorithms(True)" in error
    assert "warn_only=True" in warning


@pytest.mark.parametrize(
    ("which", "change", "message"),
    [
        (1, lambda x: x + 1, r"spatial_shapes .* cover 51 positions"),
        (2, lambda x: x + 1, r"level_start_index must be \[0, 24, 25\]"),
        (3, lambda x: x.double(), "sampling_locations is float64"),
        (4, lambda x: x[..., :1], "attention_weights must be"),
    ],
)
def test_arguments_are_checked_before_anything_runs(which, change, message):
    case = make()
    arguments = case["arguments"]
    arguments[which] = change(arguments[which])
    with pytest.raises(ValueError, match=message):
        triton_kernels.ms_deform_attn_triton(*arguments)
    with pytest.raises(ValueError, match=message):
        triton_kernels.ms_deform_attn_backward_triton(case["grad_output"], *arguments)


def test_the_gradient_of_the_output_is_checked():
    case = make()
    with pytest.raises(ValueError, match=r"grad_output must be \(B=2, Q=3, H\*D=32\)"):
        triton_kernels.ms_deform_attn_backward_triton(
            case["grad_output"][:, :-1], *case["arguments"]
        )


def test_the_package_imports_without_triton():
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "from mask2former.modeling.ops import triton_kernels\n"
        "print(triton_kernels.is_available(), triton_kernels.unavailable_reason())"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "PYTHONPATH": search_path()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("False Triton cannot be imported")


@needs_triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="the interpreter needs no GPU")
def test_says_that_there_is_no_gpu():
    assert not triton_kernels.is_available()
    assert triton_kernels.unavailable_reason() == "PyTorch sees no GPU"


@pytest.mark.parametrize("D", [1, 2, 3, 16, 32, 40, 256, 1000, 5000])
@pytest.mark.parametrize("element_size", [2, 4, 8])
def test_a_tile_holds_all_channels(D, element_size):
    found = triton_kernels.tile(D, element_size)
    assert D <= found["BLOCK_D"] < 2 * D
    assert found["BLOCK_D"].bit_count() == found["BLOCK_Q"].bit_count() == 1
    assert found["num_warps"] in (4, 8, 16)
    if D <= 1000:  # no thread holds more than two loads of a corner
        elements = found["BLOCK_D"] * found["BLOCK_Q"] / (32 * found["num_warps"])
        assert elements * element_size <= 32


@needs_triton
@pytest.mark.parametrize(
    ("capabilities", "channels"),
    [
        ([80], [32]),
        pytest.param([75, 90, 100, 120], [32], marks=pytest.mark.slow),
        pytest.param([80, 90], [1, 3, 16, 40, 64, 256], marks=pytest.mark.slow),
    ],
)
def test_compiles_for_gpus_without_one(tmp_path, capabilities, channels):
    path = tmp_path / "usage.json"
    worker(
        ["compile", str(path), json.dumps(capabilities), json.dumps(channels)],
        TRITON_CACHE_DIR=str(tmp_path / "cache"),
    )
    found = json.loads(path.read_text())
    assert len(found) == len(capabilities) * len(channels) * len(PAIRS) * 2
    for name, used in found.items():
        print(name, used)
        # Half of the 65536 registers of a multiprocessor serve 256 threads, two programs.
        assert used["registers"] <= 128 or "D=32" not in name, name
        # ptxas may put a few bytes into memory to fit more programs on a multiprocessor.
        assert used["local"] <= 16, name
