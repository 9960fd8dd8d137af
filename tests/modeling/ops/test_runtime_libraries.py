"""The operator's libraries for onnxruntime and OpenVINO: numbers, wrong arguments, threads."""

import shutil
import subprocess
import threading

import numpy as np
import pytest
import torch
from onnx import TensorProto
from operator_models import INPUTS, RUNTIMES, arguments, in_torch, one_node
from support import REPOSITORY

from mask2former.modeling.ops import library
from mask2former.modeling.ops.pytorch import ms_deform_attn_pytorch

LEVELS = [((3, 5), (2, 2), (1, 1)), ((7, 9),), tuple((4 + i, 5) for i in range(5))]


@pytest.fixture(params=RUNTIMES)
def runtime(request):
    return request.param


@pytest.fixture
def load(runtime, operator_libraries):
    """Loads a model of one node in a runtime."""

    def load(inputs=INPUTS, **options):
        return RUNTIMES[runtime](operator_libraries[runtime], one_node(inputs), **options)

    return load


@pytest.fixture
def run(load):
    return load()


@pytest.mark.parametrize("levels", LEVELS, ids=len)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("channels", [1, 20, 32])
def test_equals_the_operator_in_pytorch(run, batch, levels, channels):
    for queries, points in ((1, 4), (300, 4), (7, 9)):
        args = arguments(
            batch=batch, levels=levels, channels=channels, queries=queries, points=points
        )
        output = run(*args)
        assert output.shape == (batch, queries, 3 * channels) and output.dtype == np.float32
        value, sizes, starts, locations, weights = map(torch.from_numpy, args)
        exact = ms_deform_attn_pytorch(
            value.double(), sizes, starts, locations.double(), weights.double()
        )
        assert np.abs(output - exact.numpy()).max() <= 1e-5
        if library.implementation("cpu").name == "compiled":
            np.testing.assert_array_equal(output, in_torch(args))


@pytest.mark.parametrize(
    "sizes",
    [{"batch": 0}, {"queries": 0}, {"points": 0}, {"channels": 0}, {"heads": 0}, {"levels": ()}],
    ids=lambda sizes: next(iter(sizes)),
)
def test_nothing_to_sample(run, sizes):
    args = arguments(**sizes)
    expected = in_torch(args)
    assert not expected.any()
    np.testing.assert_array_equal(run(*args), expected)


# place of the argument, what is given instead, part of the message
WRONG = [
    (0, np.zeros((2, 20, 3), np.float32), r"value .*\(B, S, H, D\)"),
    (0, np.zeros((2, 20, 4, 4), np.float32), r"must be value .* got \(2, 20, 4, 4\)"),
    (0, np.zeros((1, 20, 3, 4), np.float32), "value"),
    (0, np.zeros((2, 21, 3, 4), np.float32), "cover all 21 positions"),
    (0, np.zeros((), np.float32), "value"),
    (1, np.ones((3, 3), np.int64), r"\(L, 2\)"),
    (1, np.ones(6, np.int64), r"\(L, 2\)"),
    (1, np.array([[3, 5], [2, 2], [1, 2]]), "levels"),
    (1, np.array([[3, 5], [2, 2], [0, 1]]), "levels"),
    (1, np.array([[3, 5], [2, 2], [-1, -1]]), "levels"),
    (1, np.array([[2**62, 8], [2, 2], [1, 1]]), "levels"),
    (1, np.array([[3, 5], [2, 2], [2**31, 2**31]]), "levels"),
    (2, np.array([0, 15]), r"level_start_index \(L\)"),
    (2, np.array([0, 15, 18]), r"level_start_index \(0, 15, 18\)"),
    (2, np.array([0, 15, -1]), "levels"),
    (2, np.array([0, 15, 2**62]), "levels"),
    (3, np.zeros((2, 5, 3, 3, 1), np.float32), "sampling_locations"),
    (3, np.zeros((2, 5, 3, 3, 1, 3), np.float32), "sampling_locations"),
    (3, np.zeros((1, 5, 3, 3, 1, 2), np.float32), "sampling_locations"),
    (3, np.zeros((2, 5, 3, 2, 1, 2), np.float32), "sampling_locations"),
    (4, np.zeros((2, 6, 3, 3, 1), np.float32), "attention_weights"),
    (4, np.zeros((2, 5, 3, 3, 2), np.float32), "attention_weights"),
    (4, np.zeros(1, np.float32), "attention_weights"),
]


@pytest.mark.parametrize(("place", "given", "message"), WRONG)
def test_wrong_arguments_are_errors(load, place, given, message):
    args = list(arguments(batch=2, channels=4, points=1))
    sound = args[place]
    args[place] = given
    ranks = [arg.ndim for arg in args]
    with pytest.raises(Exception, match=message):
        load({name: (INPUTS[name][0], rank) for name, rank in zip(INPUTS, ranks, strict=True)})(
            *args
        )
    if given.ndim == sound.ndim:  # the session goes on
        run = load()
        with pytest.raises(Exception, match=message):
            run(*args)
        args[place] = sound
        np.testing.assert_array_equal(run(*args), in_torch(args))


def test_wrong_types_do_not_load(load):
    for name, (_, rank) in INPUTS.items():
        with pytest.raises(Exception, match=r"double|float64|f64"):
            load({**INPUTS, name: (TensorProto.DOUBLE, rank)})


def test_too_few_arguments_do_not_load(load):
    with pytest.raises(Exception, match=r"5|input"):
        load(dict(list(INPUTS.items())[:4]))


@pytest.mark.parametrize("hint", ["f16", "bf16"])
def test_half_precision_in_openvino(operator_libraries, hint):
    run = RUNTIMES["openvino"](
        operator_libraries["openvino"], one_node(), INFERENCE_PRECISION_HINT=hint
    )
    args = arguments(levels=((100, 200), (50, 100)), queries=300)
    expected = in_torch(args)
    # With locations in half precision too, the largest error would be 0.2.
    assert np.abs(run(*args) - expected).max() < 0.01


def test_threads_share_the_work_and_agree(load):
    args = arguments(batch=2, queries=2000)
    np.testing.assert_array_equal(load(threads=2)(*args), load(threads=1)(*args))


def test_sessions_at_the_same_time_do_not_disturb_each_other(load):
    problems = [arguments(queries=200 + i, channels=4 * i, seed=i) for i in range(1, 5)]
    sessions = [load(threads=2) for _ in problems]
    wrong = []

    def work(run, args):
        expected = in_torch(args)
        for _ in range(20):
            if not np.array_equal(run(*args), expected):
                wrong.append(args)

    pairs = [*zip(sessions, problems, strict=True), (sessions[0], problems[1])]
    threads = [threading.Thread(target=work, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_interface_is_that_of_onnxruntimes_headers(onnxruntime_headers):
    compiler = shutil.which("g++") or pytest.skip("no C++ compiler")
    command = [compiler, "-std=c++17", "-fsyntax-only", f"-I{onnxruntime_headers}"]
    source = REPOSITORY / "tests/modeling/ops/runtimes/abi.cpp"
    done = subprocess.run(
        [*command, f"-I{REPOSITORY}", str(source)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
