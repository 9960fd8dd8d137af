"""The compiled CPU kernels: numbers for every instruction set, memory and threads by sanitizers."""

import itertools
import os
import shutil
import subprocess
import sys

import pytest
import torch
from cpu_kernel_checks import (
    check_instance_masks,
    check_mask_losses,
    check_projected_attention,
    check_residual_norm,
    check_samples_of_bits,
    check_samples_of_maps,
    check_upsample_add,
)
from support import REPOSITORY, SOURCES

from mask2former.modeling.ops import library
from mask2former.modeling.ops.pytorch import (
    ms_deform_attn_backward_pytorch,
    ms_deform_attn_pytorch,
)

CSRC = REPOSITORY / "mask2former/modeling/ops/csrc/cpu"
CXX = shutil.which(os.environ.get("CXX", "g++"))
LEVELS = [[(3, 5), (2, 2), (1, 1)], [(7, 9)], [(4, 4), (5, 3), (1, 1), (2, 7), (6, 6)]]
F32, F64, F16, BF16 = torch.float32, torch.float64, torch.float16, torch.bfloat16
# How much of the largest number a result may be off: a few roundings of the type.
TOLERANCES = {F64: 1e-14, F32: 5e-6, F16: 1e-3, BF16: 8e-3}


def test_the_operator_is_compiled_where_there_is_a_compiler():
    if CXX is None:
        pytest.skip("no C++ compiler")
    found, reason = library.find_compiled(REPOSITORY / "mask2former")
    assert found is not None, f"{reason}: run pip install --no-build-isolation -e ./runtime -e ."


def problem(levels, channels, points, dtype, coordinates):
    torch.manual_seed(0)
    B, Q, H, L = 2, 5, 3, len(levels)
    sizes = torch.tensor(levels)
    starts = sizes.prod(1).cumsum(0) - sizes.prod(1)
    value = torch.randn(B, int(sizes.prod(1).sum()), H, channels, dtype=F64)
    locations = torch.rand(B, Q, H, L, points, 2, dtype=F64) * 1.6 - 0.3
    locations.view(-1)[3] = torch.nan
    locations.view(-1)[6] = torch.inf
    weights = torch.rand(B, Q, H, L, points, dtype=F64)
    return (
        value.to(dtype), sizes, starts, locations.to(coordinates), weights.to(coordinates)
    )  # fmt: skip


def check_numbers() -> None:
    """Compare with the PyTorch form in float64, all types and many shapes."""
    assert library.implementation("cpu").name == "compiled"
    types = [(F32, F32), (F64, F64), (BF16, BF16), (BF16, F32), (F16, F16), (F16, F32)]
    channels = (1, 3, 16, 20, 32, 40, 64, 96, 130)
    for levels, D, P, (dtype, coordinates) in itertools.product(
        LEVELS, channels, (1, 4, 30), types
    ):
        args = problem(levels, D, P, dtype, coordinates)
        output = torch.ops.mask2former.ms_deform_attn(*args)
        grad = torch.randn_like(output)
        results = (output, *torch.ops.mask2former.ms_deform_attn_backward(grad, *args))
        exact = [x.double() if x.is_floating_point() else x for x in args]
        wanted = (
            ms_deform_attn_pytorch(*exact),
            *ms_deform_attn_backward_pytorch(grad.double(), *exact),
        )
        for result, want, like in zip(results, wanted, (args[0], args[0], *args[3:]), strict=True):
            assert result.dtype == like.dtype and result.shape == want.shape
            error = (result.double() - want).abs().max() / want.abs().max()
            assert error < TOLERANCES[result.dtype], (levels, D, P, dtype, coordinates, error)


@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_numbers_with_every_instruction_set(capability):
    if library.find_compiled(REPOSITORY / "mask2former")[0] is None:
        pytest.skip("not compiled")
    best = torch.backends.cpu.get_cpu_capability().lower()
    if capability not in ("default", "avx2", best):
        pytest.skip(f"this processor has {best}")
    environment = {
        **os.environ,
        "ATEN_CPU_CAPABILITY": capability,
        "PYTHONPATH": os.pathsep.join(
            [SOURCES, str(REPOSITORY / "tests/helpers"), os.environ.get("PYTHONPATH", "")]
        ),
        library.VARIABLE: "compiled",
    }
    subprocess.run([sys.executable, __file__], env=environment, check=True, timeout=600)


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """Compiles the kernels with a sanitizer's flags, and returns an executable."""
    if CXX is None:
        pytest.skip("no C++ compiler")

    def build(*flags):
        target = tmp_path_factory.mktemp("cpu") / "fuzz"
        sources = [
            REPOSITORY / "tests/modeling/ops/cpu/fuzz.cpp",
            *sorted(CSRC.glob("kernels_*.cpp")),
        ]
        command = [CXX, "-std=c++20", "-O1", "-g1", "-pthread", f"-I{REPOSITORY}", "-Wno-psabi"]
        command += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", *flags]
        result = subprocess.run(
            [*command, *map(str, sources), "-o", str(target)], capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr[-5000:]
        return target

    return build


@pytest.mark.parametrize(
    ("flags", "count"),
    [
        (("-fsanitize=address,undefined", "-fno-sanitize-recover=all"), 60),
        (("-fsanitize=thread", "-DTHREADS=3"), 15),
    ],
    ids=["bounds", "races"],
)
def test_sanitizers_find_nothing(objects, flags, count):
    result = subprocess.run([objects(*flags), "1", str(count)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-5000:]
    assert result.stdout == f"{count} problems of each type\n"


if __name__ == "__main__":
    check_numbers()
    check_instance_masks(60)
    check_samples_of_maps(40)
    check_samples_of_bits(40)
    check_mask_losses(20)
    check_upsample_add(40)
    check_projected_attention(60)
    check_residual_norm(60)
