"""Files of weights: writing and reading again, and reading without running code."""

import io
import json
import os
import pickle
import struct
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
import safetensors.torch
import torch
from detectron2.checkpoint import DetectionCheckpointer

from mask2former.checkpoint import WeightsError, read_checkpoint, write_checkpoint


class Evil:
    """Unpickling this makes a file, which shows that code ran."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def state():
    torch.manual_seed(0)
    return {
        "backbone.weight": torch.randn(3, 4),
        "backbone.transposed": torch.randn(4, 3).T,
        "backbone.half": torch.randn(5).half(),
        "sem_seg_head.count": torch.tensor(7),
        "sem_seg_head.predictor.flags": torch.tensor([True, False]),
    }


def assert_same(state, wanted):
    assert sorted(state) == sorted(wanted)
    for name, tensor in wanted.items():
        assert state[name].dtype == tensor.dtype
        assert torch.equal(state[name], tensor), name


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
def test_reading_returns_what_was_written(state, suffix, tmp_path):
    path = tmp_path / f"new/weights{suffix}"
    write_checkpoint({"model": state}, path)
    assert_same(read_checkpoint(path)["model"], state)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with pytest.raises(WeightsError, match="exists"):
        write_checkpoint({"model": {}}, path, overwrite=False)
    assert len(read_checkpoint(path)["model"]) == len(state)


def test_training_state_is_kept_where_the_format_can_hold_it(state, tmp_path):
    extra = {"iteration": 7, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}}
    write_checkpoint({"model": state, **extra}, tmp_path / "a.pth")
    content = read_checkpoint(tmp_path / "a.pth")
    assert content["iteration"] == 7
    assert content["optimizer"]["state"][0]["step"] == 1
    with pytest.raises(WeightsError, match="weights only, not iteration, optimizer"):
        write_checkpoint({"model": state, **extra}, tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()


def test_bfloat16(tmp_path):
    state = {"a": torch.randn(3).bfloat16()}
    for suffix in (".pth", ".safetensors"):
        write_checkpoint({"model": state}, tmp_path / f"a{suffix}")
        assert_same(read_checkpoint(tmp_path / f"a{suffix}")["model"], state)
    with pytest.raises(WeightsError, match=r"no bfloat16 for a; write \.pth"):
        write_checkpoint({"model": state}, tmp_path / "a.pkl")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pth", "a.safetensors"]


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_files_tell_the_published_code_that_their_names_are_new(state, suffix, tmp_path):
    # It renames what has no version 2 in the metadata, even if the names are up to date.
    write_checkpoint({"model": state}, tmp_path / f"a{suffix}")
    reader = DetectionCheckpointer(torch.nn.Linear(1, 1))
    reader._parsed_url_during_load = urlparse("a")
    content = reader._load_file(str(tmp_path / f"a{suffix}"))
    assert content["model"]._metadata["sem_seg_head"]["version"] == 2
    assert content["model"]._metadata["sem_seg_head.predictor"]["version"] == 2
    assert not content.get("matching_heuristics")


@pytest.mark.parametrize("name", ["a.pkl", "a.pth", "old.pth", "pytorch_model.bin"])
def test_pickles_do_not_run_code_unless_allowed(name, tmp_path):
    content = {"model": {"a": torch.zeros(1)}, "evil": Evil(tmp_path / "was_here")}
    if name.endswith(".pkl"):
        (tmp_path / name).write_bytes(pickle.dumps(content))
    else:
        zipped = not name.startswith("old")
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"posix\.mkdir.*--allow-unsafe-weights") as error:
        read_checkpoint(tmp_path / name)
    assert name in str(error.value)
    assert not (tmp_path / "was_here").exists()
    assert torch.equal(
        read_checkpoint(tmp_path / name, allow_unsafe=True)["model"]["a"], torch.zeros(1)
    )
    assert (tmp_path / "was_here").exists()


def test_code_inside_a_pickled_tensor_is_refused_too(tmp_path):
    inner = io.BytesIO()
    torch.save(Evil(tmp_path / "was_here"), inner)

    class Storage:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (inner.getvalue(),)

    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": {"a": Storage()}}))
    with pytest.raises(WeightsError, match=r"posix\.mkdir"):
        read_checkpoint(tmp_path / "a.pkl")
    assert not (tmp_path / "was_here").exists()


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickled_tensors_and_arrays(protocol, tmp_path):
    state = {
        "a": torch.randn(2, 3),
        "b": torch.nn.Parameter(torch.randn(2)),
        "c": np.arange(6, dtype=np.float32).reshape(2, 3),
        "d": np.float32(2.5),
    }
    content = {"model": state, "__author__": "third_party", "matching_heuristics": True}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    read = read_checkpoint(tmp_path / "a.pkl")
    assert read["matching_heuristics"] is True
    assert_same(
        read["model"], {name: torch.as_tensor(value).detach() for name, value in state.items()}
    )


def test_a_pickle_of_python_2_and_numpy_1(tmp_path):
    # Byte by byte what Python 2 wrote for {"res2.w": array([1.5, -2.0], float32)}: names of
    # NumPy 1's modules, and all text and data as 8-bit strings.
    data = struct.pack("<2f", 1.5, -2.0)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR"
        b"(I1\n(I2\ntcnumpy\ndtype\n(U\x02f4I0\nI1\ntR(I3\nU\x01<NNNI-1\nI-1\nI0\ntbI00\nU\x08"
        + data
        + b"tb"
    )
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02}(U\x06res2.w" + array + b"u.")
    assert_same(read_checkpoint(tmp_path / "a.pkl")["model"], {"res2.w": torch.tensor([1.5, -2.0])})


def test_other_layouts_end_under_model(tmp_path):
    weights = {"conv1.weight": torch.ones(2)}
    for content in (weights, {"state_dict": weights}, {"model_state": weights, "epoch": 3}):
        torch.save(content, tmp_path / "a.pth")
        assert_same(read_checkpoint(tmp_path / "a.pth")["model"], weights)
    caffe2 = {"blobs": {"conv1_w": np.ones(2), "conv1_w_momentum": np.ones(2)}}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(caffe2))
    content = read_checkpoint(tmp_path / "a.pkl")
    assert list(content["model"]) == ["conv1_w"]
    assert content["__author__"] == "Caffe2"


def test_a_hugging_face_folder(tmp_path):
    a, b = {"a": torch.ones(1)}, {"b": torch.zeros(2)}
    with pytest.raises(WeightsError, match=r"none of model\.safetensors"):
        read_checkpoint(tmp_path)
    for name, part in (("1.safetensors", a), ("2.safetensors", b)):
        safetensors.torch.save_file(part, tmp_path / name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}))
    assert_same(read_checkpoint(tmp_path)["model"], {**a, **b})
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "c": "2.safetensors"}}))
    with pytest.raises(WeightsError, match="lists c, but none"):
        read_checkpoint(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "../1.safetensors"}}))
    with pytest.raises(WeightsError, match="not the name of a file beside it"):
        read_checkpoint(tmp_path)
    index.unlink()
    torch.save(a, tmp_path / "pytorch_model.bin")
    assert_same(read_checkpoint(tmp_path)["model"], a)


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors", ".index.json"])
def test_damaged_files_are_named(state, suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    with pytest.raises(WeightsError, match="no such file"):
        read_checkpoint(path)
    if suffix == ".index.json":
        whole = b'{"metadata": {}}'
    else:
        write_checkpoint({"model": state}, path)
        whole = path.read_bytes()
    for content in (b"", b"\x00garbage" * 9, whole[: len(whole) // 2], b"<html>not found</html>"):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="cannot load") as error:
            read_checkpoint(path)
        assert path.name in str(error.value)


def test_content_other_than_a_dict_of_tensors_is_refused(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="holds a list"):
        read_checkpoint(tmp_path / "a.pth")
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="'epoch' is a int, not a tensor"):
        read_checkpoint(tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"one of \.pth, \.pkl, \.safetensors"):
        write_checkpoint({"model": {}}, tmp_path / "a.bin")
