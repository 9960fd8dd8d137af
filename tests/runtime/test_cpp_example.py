"""The example in C++ finds what the runtime in Python finds."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import REPOSITORY
from tiny_exports import tiny_metadata, write_onnx, write_plugin

import mask2former_runtime

SOURCE = REPOSITORY / "runtime/examples/cpp/predict.cpp"


@pytest.fixture(scope="module")
def program(onnxruntime_headers, tmp_path_factory):
    """Run the compiled example, and return the finished process."""
    compiler = shutil.which("g++") or pytest.skip("no C++ compiler")
    package = Path(importlib.util.find_spec("onnxruntime").submodule_search_locations[0])
    libraries = list(package.glob("capi/libonnxruntime.so.*"))
    if not libraries:
        pytest.skip("this onnxruntime for Python does not bring the library for C++")
    folder = tmp_path_factory.mktemp("example")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(libraries[0])
    command = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", SOURCE]
    command += ["-isystem", onnxruntime_headers, f"-L{folder}", "-lonnxruntime"]
    command += [f"-Wl,-rpath,{folder}", "-o", folder / "predict"]
    subprocess.run(command, check=True)
    return lambda *arguments: subprocess.run(
        [folder / "predict", *arguments], capture_output=True, text=True
    )


def picture(path: Path, height: int, width: int) -> Path:
    small = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


def check(done, model, image, **options):
    assert done.returncode == 0, done.stderr
    wanted = mask2former_runtime.load(model, **options).predict(str(image), task="instance")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [int(label) for _, label, *_ in lines] == wanted.labels.tolist()
    scores = [float(score) for _, _, _, score, _ in lines]
    np.testing.assert_allclose(scores, wanted.scores, atol=1e-5)
    assert len(lines) >= 2
    for (*_, path), mask in zip(lines, wanted.masks, strict=True):
        found = np.asarray(Image.open(path))
        assert set(np.unique(found)) <= {0, 255} and found.shape == mask.shape
        assert ((found > 0) != mask).sum() <= 1e-4 * mask.size


@pytest.mark.parametrize("size", [(96, 128), (70, 111), (33, 400), (1, 1)])
@pytest.mark.parametrize("channel_order", ["RGB", "BGR"])
def test_instances_are_those_of_the_runtime(program, size, channel_order, tmp_path):
    metadata = tiny_metadata(min_size=0, channel_order=channel_order)
    model = write_onnx(tmp_path / "model.onnx", metadata)
    image = picture(tmp_path / "image.ppm", *size)
    check(program(model, image, tmp_path), model, image)


def test_with_the_operators_library(program, operator_libraries, tmp_path):
    library = operator_libraries["onnxruntime"]
    model = write_plugin(tmp_path, "onnxruntime", library)
    image = picture(tmp_path / "image.ppm", 96, 128)
    check(program(model, image, tmp_path, library), model, image, operator_library=library)


def test_what_cannot_be_used_is_one_line(program, tmp_path):
    model = write_onnx(tmp_path / "model.onnx", tiny_metadata())
    image = picture(tmp_path / "image.ppm", 96, 128)
    cut = tmp_path / "cut.ppm"
    cut.write_bytes(image.read_bytes()[:-1])
    bare = write_onnx(tmp_path / "bare.onnx", None)
    for arguments, message in [
        ((model, picture(tmp_path / "image.png", 9, 9), tmp_path), "is not a PPM file"),
        ((model, cut, tmp_path), "is cut off"),
        ((bare, image, tmp_path), "was not exported by"),
        ((tmp_path / "none.onnx", image, tmp_path), "none.onnx"),
        ((model, image, tmp_path / "none"), "cannot write"),
        ((model, image, tmp_path, tmp_path / "none.so"), "none.so"),
    ]:
        done = program(*arguments)
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        assert done.stderr.startswith("error: ") and message in done.stderr
