"""The CUDA kernels' very source, compiled for the CPU, and by nvcc for GPUs.

`cuda_emulation` stands in for the CUDA language: each CUDA thread is a thread here.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from support import REPOSITORY

from mask2former.modeling.ops.pytorch import ms_deform_attn_pytorch

ROOT = REPOSITORY
EMULATION = ROOT / "tests/modeling/ops/cuda_emulation"
CUDA_SOURCES = ROOT / "mask2former/modeling/ops/csrc/cuda"
TORCH_INCLUDE = Path(torch.__file__).parent / "include"
CXX = shutil.which(os.environ.get("CXX", "g++"))

F32, F64, F16, BF16 = torch.float32, torch.float64, torch.float16, torch.bfloat16
TYPES = {F32: 0, F64: 1, F16: 2, BF16: 3}  # the harness's numbers
DTYPES = [(F32, F32), (F64, F64), (F16, F16), (F16, F32), (BF16, BF16), (BF16, F32)]
CHANNELS = [1, 3, 8, 16, 32, 40, 64, 96, 128, 256]
LEVELS = [(3, 4), (1, 1), (5, 2)]

BUILDS = {
    "library": ("library.cpp", ["-shared", "-fPIC", "-DMASK2FORMER_VECTOR_ATOMICS=0"]),
    # what compute capability 9.0 and newer compile
    "library_90": ("library.cpp", ["-shared", "-fPIC", "-DMASK2FORMER_VECTOR_ATOMICS=1"]),
    "bounds": (
        "fuzz.cpp",
        ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    ),
    "races": ("fuzz.cpp", ["-fsanitize=thread"]),
    "races_plain_add": ("fuzz.cpp", ["-fsanitize=thread", "-DCUDA_EMULATION_PLAIN_ADD"]),
    "races_no_syncwarp": ("fuzz.cpp", ["-fsanitize=thread", "-DCUDA_EMULATION_NO_SYNCWARP"]),
    "bounds_90": (
        "fuzz.cpp",
        [
            "-fsanitize=address,undefined",
            "-fno-sanitize-recover=all",
            "-DMASK2FORMER_VECTOR_ATOMICS=1",
        ],
    ),
    "races_90": ("fuzz.cpp", ["-fsanitize=thread", "-DMASK2FORMER_VECTOR_ATOMICS=1"]),
}


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """Compiles one of `BUILDS`, once, and returns its path."""
    if CXX is None:
        pytest.skip("no C++ compiler: set CXX or install g++")
    folder = tmp_path_factory.mktemp("cuda_emulation")

    def compile_once(name: str) -> Path:
        target = folder / name
        if not target.exists():
            source, flags = BUILDS[name]
            command = [CXX, "-std=c++20", "-O1", "-g1", "-pthread", "-fno-strict-aliasing"]
            command += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", *flags]
            command += [f"-I{ROOT}", "-isystem", str(TORCH_INCLUDE), str(EMULATION / source)]
            result = subprocess.run([*command, "-o", str(target)], capture_output=True, text=True)
            assert result.returncode == 0, result.stderr[-5000:]
        return target

    return compile_once


class Kernels:
    """The emulated kernels on tensors."""

    def __init__(self, path: Path, *, levels_in_arguments: bool = True, images_at_a_time: int = 9):
        self.library = ctypes.CDLL(str(path))
        self.levels_in_arguments = levels_in_arguments
        self.images_at_a_time = images_at_a_time
        self.instances: list[tuple[int, int]] = []  # (vector width, lanes) of each call

    def _call(self, function, value, shapes, starts, locations, weights, *tensors):
        B, S, H, D = value.shape
        Q, L, P = (locations.shape[i] for i in (1, 3, 4))
        sizes = torch.tensor([B, S, Q, H, D, L, P])
        metadata = [sizes, shapes.contiguous(), starts.contiguous()]
        instance = torch.zeros(2, dtype=torch.int32)
        for tensor in tensors:
            assert tensor.is_contiguous()
        failed = function(
            TYPES[value.dtype],
            TYPES[locations.dtype],
            *(ctypes.c_void_p(tensor.data_ptr()) for tensor in metadata),
            int(self.levels_in_arguments),
            self.images_at_a_time,
            *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (*tensors, instance)),
        )
        self.instances.append(tuple(instance.tolist()))
        assert failed == 0

    def forward(self, value, shapes, starts, locations, weights):
        B, _, H, D = value.shape
        output = value.new_full((B, locations.shape[1], H * D), torch.nan)
        function = self.library.ms_deform_attn_forward
        arguments = (value, shapes, starts, locations, weights)
        self._call(function, *arguments, value, locations, weights, output)
        return output

    def backward(self, grad_output, value, shapes, starts, locations, weights):
        sum_dtype = F64 if value.dtype == F64 else F32
        grads = (
            torch.zeros(value.shape, dtype=sum_dtype),
            torch.full_like(locations, torch.nan),
            torch.full_like(weights, torch.nan),
        )
        function = self.library.ms_deform_attn_backward
        arguments = (value, shapes, starts, locations, weights)
        self._call(function, *arguments, grad_output, value, locations, weights, *grads)
        return grads


def metadata(levels):
    shapes = torch.tensor(levels, dtype=torch.int64).reshape(-1, 2)
    areas = shapes.prod(1)
    return shapes, areas.cumsum(0) - areas


def problem(dtypes, *, B=2, Q=5, H=2, D=8, P=2, levels=LEVELS, seed=0):
    """Random arguments of the operator; a fifth of the locations is outside of the map."""
    generator = torch.Generator().manual_seed(seed)
    shapes, starts = metadata(levels)
    S, L = int(shapes.prod(1).sum()), len(levels)
    value = torch.randn(B, S, H, D, generator=generator).to(dtypes[0])
    locations = (torch.rand(B, Q, H, L, P, 2, generator=generator) * 1.4 - 0.2).to(dtypes[1])
    weights = torch.rand(B, Q, H, L, P, generator=generator).to(dtypes[1])
    return value, shapes, starts, locations, weights


def oracle(arguments, grad_output):
    """Output and the three gradients in float64."""
    value, shapes, starts, locations, weights = arguments
    inputs = [tensor.double().requires_grad_() for tensor in (value, locations, weights)]
    output = ms_deform_attn_pytorch(inputs[0], shapes, starts, *inputs[1:])
    return output.detach(), torch.autograd.grad(output, inputs, grad_output.double())


def assert_as_oracle(kernels, arguments, seed=1):
    value = arguments[0]
    output = kernels.forward(*arguments)
    grad_output = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed))
    grad_output = grad_output.to(value.dtype)
    grads = kernels.backward(grad_output, *arguments)
    expected_output, expected_grads = oracle(arguments, grad_output)
    assert_near(output, expected_output, value.dtype)
    for actual, expected in zip(grads, expected_grads, strict=True):
        assert_near(actual, expected, value.dtype)


def assert_near(actual, expected, computed):
    """Up to sums in float32, or float64, and one rounding to the tensor's own dtype."""
    scale = max(float(expected.abs().max()), 1.0) if expected.numel() else 1.0
    atol = scale * (1e-12 if computed == F64 else 1e-5)
    rtol = torch.finfo(actual.dtype).eps
    torch.testing.assert_close(actual.double(), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("library", ["library", "library_90"])
@pytest.mark.parametrize("dtypes", DTYPES, ids=lambda pair: f"{pair[0]}-{pair[1]}")
def test_every_instance_agrees_with_the_oracle(build, library, dtypes):
    kernels = Kernels(build(library))
    for D in CHANNELS:
        assert_as_oracle(kernels, problem(dtypes, D=D, B=1, Q=3))
    pack = 16 // dtypes[0].itemsize
    sum_pack = 2 if dtypes[0] == F64 else 4
    lanes = (4, 8, 16, 32)
    assert set(kernels.instances[::2]) == {(1, 32), *((pack, n) for n in lanes)}
    assert set(kernels.instances[1::2]) == {(1, 32), *((sum_pack, n) for n in lanes)}


@pytest.mark.parametrize("library", ["library", "library_90"])
@pytest.mark.parametrize("levels_in_arguments", [True, False])
@pytest.mark.parametrize("images_at_a_time", [1, 2, 3])
def test_batches_and_level_tables(build, library, levels_in_arguments, images_at_a_time):
    kernels = Kernels(
        build(library),
        levels_in_arguments=levels_in_arguments,
        images_at_a_time=images_at_a_time,
    )
    # 19 queries: more than a block serves, and not a multiple of it
    assert_as_oracle(kernels, problem((F32, F32), B=3, Q=19, H=3, D=16, P=1))


@pytest.mark.parametrize("dtypes", [(F32, F32), (F64, F64), (F16, F16), (BF16, F32)])
def test_borders(build, dtypes):
    # sizes and places for which every implementation's arithmetic is exact
    levels = [(4, 2), (1, 1), (2, 8)]
    steps = torch.arange(-4, 21, 2) / 16
    x, y = torch.meshgrid(steps, steps, indexing="xy")
    places = torch.stack([x, y], -1).reshape(1, 13, 1, 1, 13, 2)
    value, shapes, starts, _, _ = problem(dtypes, B=1, H=1, levels=levels)
    locations = places.expand(-1, -1, -1, len(levels), -1, -1).to(dtypes[1]).contiguous()
    weights = torch.rand(locations.shape[:-1], generator=torch.Generator().manual_seed(3))
    assert_as_oracle(
        Kernels(build("library")), (value, shapes, starts, locations, weights.to(dtypes[1]))
    )


@pytest.mark.parametrize("dtypes", [(F32, F32), (F64, F64), (F16, F16), (BF16, F32)])
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf"), 6e4, -6e4])
def test_places_far_away_contribute_nothing(build, dtypes, odd):
    kernels = Kernels(build("library"))
    arguments = problem(dtypes, B=1)
    value, shapes, starts, locations, weights = arguments
    locations[..., 0, 0] = odd  # x of every first point
    weights[..., 0] = torch.nan  # not even what is multiplied with a place far away is looked at
    output = kernels.forward(*arguments)
    grads = kernels.backward(torch.ones_like(output), *arguments)
    without = (value, shapes, starts, *(t[:, :, :, :, 1:].contiguous() for t in arguments[3:]))
    expected = kernels.forward(*without)
    expected_grads = kernels.backward(torch.ones_like(output), *without)
    torch.testing.assert_close(output, expected, rtol=0, atol=0)
    # the order of additions differs
    torch.testing.assert_close(grads[0], expected_grads[0])
    for grad, expected_grad in zip(grads[1:], expected_grads[1:], strict=True):
        assert not grad[:, :, :, :, 0].any()
        torch.testing.assert_close(grad[:, :, :, :, 1:], expected_grad, rtol=0, atol=0)


def test_values_that_are_not_finite_reach_only_who_samples_them(build):
    kernels = Kernels(build("library"))
    value = torch.zeros(1, 16, 1, 4)
    value[0, 0] = torch.inf
    value[0, 15] = torch.nan
    shapes, starts = metadata([(4, 4)])
    # the first beside the corner outside of the map, the others at the centre and far away
    locations = torch.tensor([[0.0, 0.0], [0.5, 0.5], [9.0, 9.0]]).view(1, 3, 1, 1, 1, 2)
    output = kernels.forward(value, shapes, starts, locations, torch.ones(1, 3, 1, 1, 1))
    assert torch.equal(output[0, :, 0], torch.tensor([torch.inf, 0, 0]))


@pytest.mark.parametrize(("Q", "P", "levels"), [(0, 2, LEVELS), (3, 0, LEVELS), (3, 2, [])])
def test_nothing_to_sample(build, Q, P, levels):
    kernels = Kernels(build("library"))
    arguments = problem((F32, F32), Q=Q, P=P, levels=levels)
    output = kernels.forward(*arguments)
    assert output.shape == (2, Q, 16)
    assert not output.any()
    assert not kernels.backward(output, *arguments)[0].any()


def run_fuzz(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    result = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=600)
    if "unexpected memory mapping" in result.stderr:
        pytest.skip("ThreadSanitizer does not run under this kernel's address randomisation")
    return result


@pytest.mark.parametrize(
    ("program", "count"),
    [
        ("bounds", 25),
        ("races", 8),
        pytest.param("bounds_90", 500, marks=pytest.mark.slow),
        pytest.param("races_90", 100, marks=pytest.mark.slow),
    ],
)
def test_sanitizers_find_nothing(build, program, count):
    result = run_fuzz(build(program), "1", str(count))
    assert result.returncode == 0, result.stderr[:5000]
    assert result.stdout == f"{count} problems\n"


@pytest.mark.parametrize(
    ("program", "kernel"),
    [("races_plain_add", "backward_kernel"), ("races_no_syncwarp", "forward_kernel")],
)
def test_sanitizers_find_a_race(build, program, kernel):
    result = run_fuzz(build(program), "1", "4")
    assert result.returncode != 0
    assert "ThreadSanitizer: data race" in result.stderr
    assert kernel in result.stderr


@pytest.mark.parametrize("defect", ["short-value", "short-gradient"])
def test_sanitizers_find_an_access_out_of_bounds(build, defect):
    result = run_fuzz(build("bounds"), "1", "10", defect)
    assert result.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in result.stderr


def find_nvcc() -> str:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")
    if nvcc is None:
        pytest.skip("no nvcc: put it on PATH or set CUDA_HOME")
    if not (TORCH_INCLUDE / "c10/cuda/CUDAStream.h").exists() or torch.version.cuda is None:
        pytest.skip("this torch was built without CUDA")
    return nvcc


def nvcc_architectures(nvcc: str) -> list[str]:
    listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True)
    return [line.removeprefix("compute_") for line in listed.stdout.split()]


STANDARD = "-std=c++20"


def compile_with_nvcc(nvcc: str, source: str, target: Path, *flags: str) -> None:
    command = [nvcc, "-c", STANDARD, "-O3", "--expt-relaxed-constexpr", "--threads", "2", *flags]
    command += ["-Werror", "all-warnings", "-Xcompiler", "-fPIC,-Wall,-Wextra,-Werror"]
    # as torch.utils.cpp_extension does
    for name in ("HALF_OPERATORS", "HALF_CONVERSIONS", "BFLOAT16_CONVERSIONS", "HALF2_OPERATORS"):
        command.append(f"-D__CUDA_NO_{name}__")
    command += ["-isystem", str(TORCH_INCLUDE), str(CUDA_SOURCES / source), "-o", str(target)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-5000:]
    assert not result.stderr.strip(), result.stderr


def code_for(architectures: list[str]) -> list[str]:
    return [f"-gencode=arch=compute_{known},code=sm_{known}" for known in architectures]


def test_kernels_compile_without_warnings(tmp_path):
    nvcc = find_nvcc()
    compile_with_nvcc(nvcc, "ms_deform_attn_kernels.cu", tmp_path / "kernels.o", *code_for(["80"]))


def test_wrappers_compile_without_warnings(tmp_path):
    compile_with_nvcc(find_nvcc(), "ms_deform_attn_cuda.cpp", tmp_path / "wrappers.o")


@pytest.mark.slow
def test_kernels_compile_for_all_architectures_without_warnings(tmp_path):
    nvcc = find_nvcc()
    wanted = ["70", "75", "80", "86", "89", "90", "100", "120"]  # toolkits forget and learn some
    known = [architecture for architecture in wanted if architecture in nvcc_architectures(nvcc)]
    assert "80" in known
    compile_with_nvcc(nvcc, "ms_deform_attn_kernels.cu", tmp_path / "kernels.o", *code_for(known))
