"""The operator, called with random arguments, right and wrong, and watched by sanitizers."""

import functools
import os
import random
import shutil
import subprocess
from pathlib import Path
from unittest import mock

import pytest
import torch
from fuzzing import cases, run_cases
from support import REPOSITORY
from torch.utils import cpp_extension

from mask2former.modeling.ops import library
from mask2former.modeling.ops.pytorch import (
    ms_deform_attn_backward_pytorch,
    ms_deform_attn_pytorch,
)

CSRC = REPOSITORY / "mask2former/modeling/ops/csrc"
CXX = shutil.which(os.environ.get("CXX", "g++"))
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
F32, F64, F16, BF16 = torch.float32, torch.float64, torch.float16, torch.bfloat16
TYPES = [(F32, F32), (F64, F64), (BF16, BF16), (BF16, F32), (F16, F16), (F16, F32)]
# How much of the largest number a result may be off: a few roundings of the type.
TOLERANCES = {F64: 1e-12, F32: 2e-5, F16: 2e-3, BF16: 1.6e-2}
ODD = [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 1e300, 2.0**31, -(2.0**63), 0.0, 1.0]
EXTREME_SIZES = [0, -1, 2**31, 2**32, 2**62, 2**63 - 1, -(2**63)]
ARGUMENTS = ["value", "sizes", "starts", "locations", "weights", "grad"]


def sound_arguments(rng):
    """Return arguments by name, whether they are samples to compare, and of what type."""
    B, H, Q = rng.choice([0, 1, 1, 2]), rng.randint(1, 5), rng.randint(0, 6)
    L, P = rng.randint(1, 4), rng.choice([0, 1, 2, 3, 4, 4, 7, 30])
    D = rng.choice([1, 3, 8, 16, 20, 32, 64, 130])
    dtype, coordinates = rng.choice(TYPES)
    sizes = torch.tensor([[rng.randint(1, 7), rng.randint(1, 7)] for _ in range(L)])
    areas = sizes.prod(1)
    kind = rng.choice(["anywhere", "grid", "odd", "odd values"])
    locations = torch.rand(B, Q, H, L, P, 2, dtype=F64) * 2 - 0.5
    if kind == "grid":
        normalise = sizes.flip(1)[:, None].double()  # (L, 1, 2) as (width, height)
        locations = ((locations * normalise).round() + 0.5) / normalise
    elif kind == "odd" and locations.numel():
        places = torch.rand(locations.shape) < 0.3
        locations[places] = torch.tensor(rng.choices(ODD, k=int(places.sum())), dtype=F64)
    value = torch.randn(B, int(areas.sum()), H, D, dtype=F64)
    if kind == "odd values" and value.numel():
        value.view(-1)[rng.randrange(value.numel())] = rng.choice(ODD[:5])
    arguments = {
        "value": value.to(dtype),
        "sizes": sizes,
        "starts": areas.cumsum(0) - areas,
        "locations": locations.to(coordinates),
        "weights": torch.rand(B, Q, H, L, P).to(coordinates),
        "grad": torch.randn(B, Q, H * D).to(dtype),
    }
    return arguments, kind


def in_other_memory(tensor, rng):
    """Return the same numbers with other strides or another offset."""
    way = rng.randrange(5)
    if way == 0 and tensor.dim() > 1:
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    if way == 1:
        return torch.stack([tensor, tensor], dim=-1)[..., 0]
    if way == 2:
        return torch.cat([tensor.flatten(), tensor.flatten()])[tensor.numel() :].view(tensor.shape)
    if way == 3:
        return tensor.flip(0).contiguous().flip(0)
    return tensor


def spoil(arguments, rng):
    """Make one argument wrong, and return its name."""
    name = rng.choice(ARGUMENTS)
    tensor, way = arguments[name], rng.randrange(7)
    if way == 0:
        arguments[name] = tensor[None]
    elif way == 1:
        arguments[name] = tensor.flatten() if tensor.dim() > 1 else tensor[:, None]
    elif way == 2:
        dimension = rng.randrange(3 if name == "value" else tensor.dim())  # D may be anything
        arguments[name] = tensor.repeat_interleave(2, dimension)
        if arguments[name].shape == tensor.shape:
            arguments[name] = tensor[None]
    elif way == 3:
        wrong = [torch.int32, torch.bool, torch.complex64, torch.uint8]
        wrong += [F64 if tensor.dtype != F64 else F16] if name in ("weights", "grad") else []
        arguments[name] = tensor.nan_to_num(0, 0, 0).to(rng.choice(wrong))
    elif way == 4:
        arguments[name] = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    elif name in ("sizes", "starts"):
        tensor.view(-1)[rng.randrange(tensor.numel())] = rng.choice(EXTREME_SIZES[1:])
    else:
        name = "sizes"
        height = rng.choice(EXTREME_SIZES)
        width = rng.choice(EXTREME_SIZES)
        arguments["sizes"] = torch.tensor([[height, width]] * len(arguments["sizes"]))
    return name


def refused(call):
    try:
        call()
    except ValueError:
        return True
    return False


@functools.cache
def load(path):
    torch.set_num_threads(1)
    if path:
        torch.ops.load_library(path)
    key = torch._C._dispatch_key_for_device("cpu")
    assert torch._C._dispatch_has_kernel_for_dispatch_key(library.FORWARD, key)


def check_call(seed, path=""):
    """Call the operator of the library `path`, or the installed one, forward and backward."""
    load(path)
    rng = random.Random(seed)
    torch.manual_seed(seed)
    arguments, kind = sound_arguments(rng)
    wrong = spoil(arguments, rng) if rng.random() < 0.3 else None
    if wrong is None:
        arguments = {name: in_other_memory(tensor, rng) for name, tensor in arguments.items()}
    grad = arguments.pop("grad")
    inputs = tuple(arguments.values())

    def forward():
        return torch.ops.mask2former.ms_deform_attn(*inputs)

    def backward():
        return torch.ops.mask2former.ms_deform_attn_backward(grad, *inputs)

    if wrong is not None:
        assert wrong == "grad" or refused(forward), wrong
        assert refused(backward), wrong
        return
    results = (forward(), *backward())
    for result, like in zip(results, (grad, inputs[0], *inputs[3:]), strict=True):
        assert result.shape == like.shape and result.dtype == like.dtype
    if kind != "odd values" and seed % 10 == 0:
        compare(results, grad, inputs, kind)


def compare(results, grad, inputs, kind):
    """Compare with the PyTorch form in float64."""
    exact = [x.double() if x.is_floating_point() else x for x in inputs]
    wanted = (
        ms_deform_attn_pytorch(*exact),
        *ms_deform_attn_backward_pytorch(grad.double(), *exact),
    )
    # At the grid points themselves the derivative by the location has two values.
    pixels = exact[3] * exact[1].flip(1)[:, None].double() - 0.5
    smooth = ((pixels - pixels.round()).abs() > 1e-4).all(-1, keepdim=True)
    for number, (result, want) in enumerate(zip(results, wanted, strict=True)):
        difference = (result.double() - want).abs()
        if number == 2:
            difference = difference * smooth
        largest = max(want.abs().max().item(), 1.0) if want.numel() else 1.0
        assert (difference <= TOLERANCES[result.dtype] * largest).all(), (kind, number)


def test_calls_give_numbers_or_errors():
    if library.find_compiled(REPOSITORY / "mask2former")[0] is None:
        pytest.skip("not compiled")
    run_cases(check_call, cases(500))


def compiled(sources, target, *flags):
    """Compile files, two at a time, and link them."""
    objects = []
    for first in range(0, len(sources), 2):
        running = []
        for source in sources[first : first + 2]:
            objects.append(target.parent / f"{source.stem}.o")
            command = [CXX, "-std=c++20", "-O1", "-g1", "-Wno-psabi", f"-I{REPOSITORY}", *flags]
            running.append(subprocess.Popen([*command, "-c", source, "-o", objects[-1]]))
        assert not any(process.wait() for process in running)
    return objects


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_calls_under_sanitizers(tmp_path):
    if CXX is None:
        pytest.skip("no C++ compiler")
    target = tmp_path / "operator.so"
    flags = [*SANITIZE, "-fPIC", "-fopenmp", "-ffp-contract=fast"]
    includes = [f"-isystem{folder}" for folder in cpp_extension.include_paths()]
    sources = [*sorted(CSRC.glob("*.cpp")), *sorted((CSRC / "cpu").glob("*.cpp"))]
    objects = compiled(sources, target, *flags, *includes)
    libraries = [f"-L{cpp_extension.TORCH_LIB_PATH}", "-lc10", "-ltorch", "-ltorch_cpu"]
    subprocess.run([CXX, "-shared", *flags, *objects, *libraries, "-o", target], check=True)
    environment = {
        # The sanitizers come before everything else, and do not count what Python leaves.
        "LD_PRELOAD": " ".join(
            subprocess.check_output([CXX, f"-print-file-name={name}"], text=True).strip()
            for name in ("libasan.so", "libubsan.so")
        ),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        library.VARIABLE: "pytorch",  # the installed library stays out
    }
    with mock.patch.dict(os.environ, environment):
        run_cases(functools.partial(check_call, path=str(target)), cases(10_000))


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_kernels_guided_by_coverage(tmp_path):
    """Run libFuzzer, which the package `atheris` brings, on all kernels of this processor."""
    atheris = pytest.importorskip("atheris")
    if CXX is None:
        pytest.skip("no C++ compiler")
    main = tmp_path / "main.cpp"
    main.write_text(
        'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long);\n'
        'extern "C" int LLVMFuzzerRunDriver(int*, char***, decltype(&LLVMFuzzerTestOneInput));\n'
        "int main(int n, char** a) { return LLVMFuzzerRunDriver(&n, &a, LLVMFuzzerTestOneInput); }"
    )
    target = tmp_path / "fuzz"
    guided = ["-fsanitize-coverage=trace-pc,trace-cmp", "-Wno-unknown-pragmas"]
    objects = compiled(sorted((CSRC / "cpu").glob("kernels_*.cpp")), target, *SANITIZE, *guided)
    driver = REPOSITORY / "tests/modeling/ops/cpu/fuzz.cpp"
    objects += compiled([driver, main], target, *SANITIZE, "-DLIBFUZZER")
    fuzzer = Path(atheris.path(), "libclang_rt.fuzzer_no_main.a")
    # GCC's hook in the driver comes before libFuzzer's own empty one.
    link = [CXX, *SANITIZE, "-pthread", "-Wl,--allow-multiple-definition", *objects, fuzzer]
    subprocess.run([*link, "-o", target], check=True)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    limits = [f"-runs={cases(10_000)}", "-max_len=400", "-len_control=0", "-seed=1", "-timeout=10"]
    result = subprocess.run([target, *limits, corpus], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-5000:]
    assert len([*corpus.iterdir()]) > 100  # inputs that reach something new
    print(result.stderr.splitlines()[-1])
