"""Models in files, in both runtimes, against the package's own predictions."""

import json
import math
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import mask2former_runtime
from mask2former.inference.selection import Selection, select
from mask2former_runtime import ExportError, ImageReadError, Metadata

pytest.importorskip("onnx")
from tiny_exports import (
    CLASSES,
    WRITERS,
    changed_text,
    tiny_metadata,
    tiny_segmenter,
    write_onnx,
    write_plugin,
)

TASKS = ("panoptic", "instance", "semantic")
SIZES = [(96, 128), (70, 111), (300, 200), (33, 400), (1, 1)]


def photo(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8: coarse patches, so that masks have some size."""
    small = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    picture = Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC)
    return np.asarray(picture)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    folder = tmp_path_factory.mktemp("models")
    return {
        suffix: write(folder / f"tiny{suffix}", tiny_metadata())
        for suffix, write in WRITERS.items()
    }


def check_same(found, expected):
    assert type(found) is type(expected) and found.size == expected.size
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    assert (found.masks != expected.masks).sum() <= 1e-4 * expected.masks.size
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1)
    assert found.classes == expected.classes
    assert found.things == expected.things and found.ids == expected.ids


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("task", TASKS)
def test_results_are_those_of_the_package(files, suffix, size, task):
    model = mask2former_runtime.load(files[suffix], threads=1)
    image = photo(size)
    thresholds = {"panoptic": (None, 0.5), "instance": (None, 0.0, 0.6), "semantic": (None,)}
    for threshold in thresholds[task]:
        expected = tiny_segmenter(task, tiny_metadata(), threshold).find(image[:, :, ::-1])
        found = model.predict(image, task=task, threshold=threshold)
        check_same(found, expected)
    assert len(found) or size == (1, 1)


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("changes", [
    {"channel_order": "BGR"},
    {"min_size": 0, "max_size": 1},
    {"semantic_resize_first": True},
])  # fmt: skip
def test_other_metadata(tmp_path, suffix, changes):
    metadata = tiny_metadata(**changes)
    model = mask2former_runtime.load(WRITERS[suffix](tmp_path / f"m{suffix}", metadata))
    image = photo((77, 120))
    for task in TASKS:
        expected = tiny_segmenter(task, metadata).find(image[:, :, ::-1])
        check_same(model.predict(image, task=task), expected)


@pytest.mark.parametrize("suffix", WRITERS)
def test_thresholds_of_classes_and_suppression_in_a_file(tmp_path, suffix):
    """The package's own instances, filtered afterwards."""
    plain = tiny_metadata()
    lowest = [0.3, 0.6, 1.0]
    rules = replace(plain.postprocessing, thresholds=lowest, mask_nms=0.3)
    metadata = replace(plain, postprocessing=rules)
    assert Metadata.from_text(metadata.to_text(), "").postprocessing.mask_nms == 0.3
    model = mask2former_runtime.load(WRITERS[suffix](tmp_path / f"m{suffix}", metadata))
    image = photo((96, 128))
    everything = tiny_segmenter("instance", plain, 0.0).find(image[:, :, ::-1])
    single = select(everything, Selection(overlap=0.3))
    expected = single[single.scores >= np.float32(lowest)[single.labels]]
    assert 1 < len(expected) < len(single) < len(everything)
    check_same(model.predict(image, task="instance"), expected)
    # A threshold that is given wins over those of the classes.
    check_same(model.predict(image, task="instance", threshold=0.0), single)


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_file_of_one_size_and_batch(tmp_path, suffix):
    """An image that has the size already is the same as for a file of any size."""
    metadata = tiny_metadata(batch=2, height=96, width=128)
    model = mask2former_runtime.load(WRITERS[suffix](tmp_path / f"m{suffix}", metadata))
    image = photo((96, 128))
    for task in TASKS:
        expected = tiny_segmenter(task, metadata).find(image[:, :, ::-1])
        check_same(model.predict(image, task=task), expected)
    assert model.predict(photo((200, 100)), task="semantic").size == (200, 100)


def test_all_kinds_of_images(files, tmp_path):
    model = mask2former_runtime.load(str(files[".onnx"]))
    image = photo((70, 111))
    expected = model.predict(image)
    path = tmp_path / "photo.png"
    Image.fromarray(image).save(path)
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(image)))  # upright after a turn right
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    for given in (path, str(path), Image.open(path), image / 255, tmp_path / "turned.png"):
        check_same(model.predict(given), expected)
    check_same(model.predict(image[:, :, ::-1], channel_order="BGR"), expected)
    assert model.predict(path).source.file == path
    np.testing.assert_array_equal(model.predict(path).image, image)
    grey = np.asarray(Image.fromarray(image).convert("L"))
    check_same(model.predict(grey), model.predict(np.stack([grey] * 3, axis=2)))

    several = model.predict([image, path])
    assert isinstance(several, list) and len(several) == 2
    for given in (np.stack([image] * 2), tmp_path, str(tmp_path / "*.png")):
        for found in model.predict(given):
            check_same(found, expected)
    stream = model.predict(iter([image]))
    check_same(next(stream), expected)
    assert next(stream, None) is None
    assert model.predict([]) == []


def test_what_a_model_says(files):
    model = mask2former_runtime.load(files[".xml"])
    assert model.names == ["cat", "dog", "sky"] and model.classes == CLASSES
    assert model.task == "panoptic" and model.tasks == list(TASKS)
    assert model.metadata == tiny_metadata()
    assert repr(model) == f"Model({files['.xml']}: panoptic segmentation, 3 classes)"
    assert Metadata.from_text(model.metadata.to_text(), "") == model.metadata


def test_several_threads(files):
    image = photo((96, 128))
    for file in files.values():
        model = mask2former_runtime.load(file, threads=1)
        expected, found = model.predict(image), []
        threads = [
            threading.Thread(
                target=lambda model=model, found=found: found.append(model.predict(image))
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4
        for one in found:
            np.testing.assert_array_equal(one.masks, expected.masks)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_library_of_operators(files, operator_libraries, tmp_path, runtime):
    library = operator_libraries[runtime]
    file = write_plugin(tmp_path, runtime, library)
    assert "operators that are missing" in one_line(file)
    model = mask2former_runtime.load(file, operator_library=library)
    image = photo((96, 128))
    for task in TASKS:
        expected = tiny_segmenter(task, tiny_metadata()).find(image[:, :, ::-1])
        check_same(model.predict(image, task=task), expected)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs signals of POSIX")
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_signals_are_handled_after_models_have_gone(files, suffix):
    code = f"""
import gc, os, signal
from mask2former_runtime import load
handled = []
signal.signal(signal.SIGUSR1, lambda *_: handled.append(1))
models = [load({str(files[suffix])!r}) for _ in range(3)]
while models:
    del models[0]
    gc.collect()
    os.kill(os.getpid(), signal.SIGUSR1)
assert len(handled) == 3
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(("arguments", "message"), [
    ({"task": "depth"}, "does not do the task 'depth', but panoptic and instance and semantic"),
    ({"task": "semantic", "threshold": 0.5}, "a threshold means nothing"),
    ({"channel_order": "GBR"}, "choose 'RGB' or 'BGR'"),
    ({"threshold": 50}, "threshold is 50: a number from 0 to 1"),
    ({"threshold": "0.5"}, "threshold is '0.5'"),
])  # fmt: skip
def test_what_it_cannot_do(files, arguments, message):
    model = mask2former_runtime.load(files[".onnx"])
    with pytest.raises(ValueError, match=message):
        model.predict(photo((32, 32)), **arguments)


def test_images_it_cannot_read(files, tmp_path):
    model = mask2former_runtime.load(files[".onnx"])
    (tmp_path / "bad.png").write_bytes(b"no image")
    for path, message in ((tmp_path / "bad.png", "not an image"), ("none.png", "no such file")):
        with pytest.raises(ImageReadError, match=message):
            model.predict(path)
    with pytest.raises(ValueError, match=r"give a path, a Pillow image, an array \(H, W, 3\)"):
        model.predict(7)
    with pytest.raises(ValueError, match="cannot predict on a Tensor"):
        model.predict(torch.zeros(3, 32, 32))


# --- Bad files ---


def one_line(file, **arguments) -> str:
    with pytest.raises(ExportError) as caught:
        mask2former_runtime.load(file, **arguments)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 700
    return text


def test_files_of_other_programs(tmp_path):
    pytest.importorskip("openvino")
    import openvino

    foreign = write_onnx(tmp_path / "foreign.onnx", None)
    assert "not a model that `mask2former export` wrote" in one_line(foreign)
    openvino.save_model(openvino.convert_model(foreign), tmp_path / "foreign.xml")
    assert "not a model that `mask2former export` wrote" in one_line(tmp_path / "foreign.xml")
    for name in ("a.onnx", "a.xml"):
        (tmp_path / name).write_text("<html>no model</html>" * 100)
        (tmp_path / "a.bin").write_bytes(b"")
        assert "is not an " in one_line(tmp_path / name)
    assert "end in .onnx or .xml" in one_line(tmp_path / "model.pth")
    assert f"name {tmp_path / 'foreign.xml'}" in one_line(tmp_path / "foreign.bin")
    assert "no such file" in one_line(tmp_path / "missing.onnx")


@pytest.mark.parametrize("suffix", WRITERS)
def test_files_that_are_cut_off(files, tmp_path, suffix):
    content = files[suffix].read_bytes()
    if suffix == ".xml":
        (tmp_path / "cut.bin").write_bytes(files[suffix].with_suffix(".bin").read_bytes())
    for length in (0, 10, len(content) // 2, len(content) - 40):
        (tmp_path / f"cut{suffix}").write_bytes(content[:length])
        assert str(tmp_path / "cut") in one_line(tmp_path / f"cut{suffix}")


def test_weights_that_are_missing_or_cut_off(files, tmp_path):
    (tmp_path / "m.xml").write_bytes(files[".xml"].read_bytes())
    assert "m.bin, which belongs to" in one_line(tmp_path / "m.xml")
    (tmp_path / "m.bin").write_bytes(files[".xml"].with_suffix(".bin").read_bytes()[:50])
    assert "m.bin is damaged or cut off" in one_line(tmp_path / "m.xml")


def test_metadata_that_do_not_fit(tmp_path):
    content = json.loads(tiny_metadata().to_text())

    def message(text: str) -> str:
        return one_line(write_onnx(tmp_path / "m.onnx", text))

    assert "not a model that" in message("{")
    assert "not a model that" in message(json.dumps({"format": "other"}))
    newer = message(changed_text(version=2))
    assert "is of version 2" in newer and "pip install --upgrade mask2former-runtime" in newer
    assert "no version" in message(changed_text(version="1"))
    assert "tasks is missing" in message(
        json.dumps({k: content[k] for k in content if k != "tasks"})
    )
    wrong = {
        "input.mean": {"input": {**content["input"], "mean": [1, 2]}},
        "input.min_size": {"input": {**content["input"], "min_size": -1}},
        "input.fixed is not an object": {"input": {**content["input"], "fixed": 3}},
        "input.std is (1, 0, 1)": {"input": {**content["input"], "std": [1, 0, 1]}},
        "input.std is (1, -1, 1)": {"input": {**content["input"], "std": [1, -1, 1]}},
        "input.std is [1, nan": {"input": {**content["input"], "std": [1, math.nan, 1]}},
        "input.mean is [inf": {"input": {**content["input"], "mean": [math.inf, 1, 1]}},
        "input.fixed.batch": {
            "input": {**content["input"], "fixed": {**content["input"]["fixed"], "batch": 10**9}}
        },
        "classes.ignore_label": {"classes": {**content["classes"], "ignore_label": 2**31}},
        "postprocessing.threshold": {
            "postprocessing": {**content["postprocessing"], "threshold": 7}
        },
        "postprocessing.overlap_threshold": {
            "postprocessing": {**content["postprocessing"], "overlap_threshold": 10**400}
        },
        "postprocessing.thresholds": {
            "postprocessing": {**content["postprocessing"], "thresholds": [0, 0.5, 2]}
        },
        "2 thresholds of 3 classes": {
            "postprocessing": {**content["postprocessing"], "thresholds": [0, 0.5]}
        },
        "classes.things names": {"classes": {**content["classes"], "things": [9]}},
        "colours": {"classes": {**content["classes"], "colors": [[1, 2]] * 3}},
        "do not belong to the same classes": {"classes": {**content["classes"], "ids": [1]}},
        "which classes are things": {"classes": {**content["classes"], "things": None}},
        "tasks": {"tasks": ["instance"]},
        "task is 'depth'": {"task": "depth"},
    }
    for text, changes in wrong.items():
        assert text in message(changed_text(**changes))


def test_other_outputs(tmp_path):
    import onnx

    model = onnx.load(write_onnx(tmp_path / "m.onnx", tiny_metadata()))
    model.graph.output.pop()
    onnx.save(model, tmp_path / "m.onnx")
    assert "export it without post-processing" in one_line(tmp_path / "m.onnx")


def test_fewer_classes_than_outputs(tmp_path):
    classes = mask2former_runtime.Classes(["cat"], [1], frozenset([0]))
    model = mask2former_runtime.load(
        write_onnx(tmp_path / "m.onnx", tiny_metadata(classes=classes))
    )
    with pytest.raises(ExportError, match="3 classes, and its metadata name 1"):
        model.predict(photo((32, 32)))


@pytest.mark.parametrize(
    ("operators", "message"),
    [
        ([("Squeeze", ["inner"], "logits")], r"gives logits \(\d+, \d+\) and masks"),
        ([("Shape", ["inner"], "logits")], r"gives logits \(3,\) and masks"),
        (
            [("Sub", ["inner", "inner"], "zero"), ("Div", ["zero", "zero"], "logits")],
            "NaN or infinity",
        ),
    ],
)
def test_outputs_that_are_not_those_of_queries(operators, message, tmp_path):
    import onnx

    path = write_onnx(tmp_path / "m.onnx", tiny_metadata())
    model = onnx.load(path)
    (last,) = [node for node in model.graph.node if "logits" in node.output]
    last.output[:] = ["inner"]
    model.graph.node.extend(
        onnx.helper.make_node(name, inputs, [output]) for name, inputs, output in operators
    )
    for output in model.graph.output:
        if output.name == "logits":
            output.type.tensor_type.ClearField("shape")
            if operators[0][0] == "Shape":
                output.type.tensor_type.elem_type = onnx.TensorProto.INT64
    onnx.save(model, path)
    with pytest.raises(ExportError, match=message) as caught:
        mask2former_runtime.load(path).predict(photo((32, 32)))
    assert str(path) in str(caught.value)


def test_operators_and_libraries_that_are_missing(files, tmp_path):
    text = one_line(write_onnx(tmp_path / "m.onnx", tiny_metadata(), operator="NoSuchThing"))
    assert "operators that are missing: give their library as operator_library" in text
    xml = files[".xml"].read_text().replace('type="MatMul"', 'type="NoSuchThing"')
    (tmp_path / "m.xml").write_text(xml)
    (tmp_path / "m.bin").write_bytes(files[".xml"].with_suffix(".bin").read_bytes())
    assert "operators that are missing" in one_line(tmp_path / "m.xml")
    library = tmp_path / "operators.so"
    for file in files.values():
        assert "operators.so: no such file" in one_line(file, operator_library=library)
    library.write_text("no library")
    for file in files.values():
        assert "operators.so cannot be loaded" in one_line(file, operator_library=library)


def test_providers_that_are_missing(files):
    assert "CPUExecutionProvider" in one_line(files[".onnx"], providers=["NoSuchProvider"])
    assert "NOSUCH" in one_line(files[".xml"], providers=["NOSUCH"])
    assert "at least 1" in one_line(files[".xml"], threads=0)


@pytest.mark.parametrize(("suffix", "package", "extra"), [
    (".onnx", "onnxruntime", "onnx"), (".xml", "openvino", "openvino")
])  # fmt: skip
def test_packages_that_are_missing(files, monkeypatch, suffix, package, extra):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    assert f'pip install "mask2former-runtime[{extra}]"' in one_line(files[suffix])
