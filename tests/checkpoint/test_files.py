"""Files of weights: writing and reading again, and reading without running code."""

import io
import json
import os
import pickle
import struct
import zipfile
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
    with pytest.raises(WeightsError, match="lists 'c', but none"):
        read_checkpoint(tmp_path)
    safetensors.torch.save_file({**a, **b}, tmp_path / "3.safetensors")
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "3.safetensors"}}))
    with pytest.raises(WeightsError, match=r"'a' is in 3\.safetensors and in another file"):
        read_checkpoint(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "../1.safetensors"}}))
    with pytest.raises(WeightsError, match=r"not the name of a \.safetensors or \.bin file"):
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


# --- Numbers that are not weights ---

SOUND = {"a.b": torch.ones(2)}
UNSOUND = {
    "nan": (lambda: torch.tensor([1.0, float("nan")]), "holds NaN or infinity"),
    "infinity": (lambda: torch.tensor([-float("inf")]).half(), "holds NaN or infinity"),
    "beyond float32": (lambda: torch.tensor([1e300], dtype=torch.float64), "holds NaN or infinity"),
    "complex": (lambda: torch.ones(2, dtype=torch.complex64), r"is of torch\.complex64"),
    "sparse": (lambda: torch.eye(3).to_sparse(), "is a sparse tensor"),
    "compressed": (lambda: torch.eye(3).to_sparse_csr(), "is a sparse tensor"),
    "quantised": (
        lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "is a quantised",
    ),
    "meta": (lambda: torch.ones(2, device="meta"), "is a tensor without data"),
    "eight bits": (
        lambda: torch.ones(2).to(torch.float8_e4m3fn),
        r"is (a tensor of an unusual type|of)",
    ),
    "a list": (lambda: [1.0], "is a list"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", UNSOUND)
@pytest.mark.parametrize("allow_unsafe", [False, True])
def test_what_are_no_weights_is_named(kind, allow_unsafe, tmp_path):
    make, message = UNSOUND[kind]
    torch.save({"model": {**SOUND, "c.d": make()}}, tmp_path / "a.pth")
    if allow_unsafe:
        message = ""  # the real tensor is refused, for the same reason
    with pytest.raises(WeightsError, match=rf"a\.pth.*'c\.d' .*{message}") as error:
        read_checkpoint(tmp_path / "a.pth", allow_unsafe)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [{}, {"model": {}}, {"state_dict": {}}])
@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_files_without_tensors_are_refused(content, suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    if suffix == ".pth":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError, match="holds no tensors"):
        read_checkpoint(path)


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors", ".index.json"])
def test_what_is_no_file_is_refused_at_once(suffix, tmp_path):
    os.mkfifo(tmp_path / f"fifo{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    (tmp_path / f"device{suffix}").symlink_to("/dev/zero")
    for name in ("fifo", "device", "folder"):
        with pytest.raises(WeightsError, match=name):
            read_checkpoint(tmp_path / f"{name}{suffix}")


def test_attributes_of_parameters_are_dropped(tmp_path):
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.note = "kept by PyTorch"
    torch.save({"a.b": parameter, "c.d": torch.nn.Buffer(torch.ones(2))}, tmp_path / "a.pth")
    assert_same(read_checkpoint(tmp_path / "a.pth")["model"], {**SOUND, "c.d": torch.ones(2)})


def test_training_state_is_as_torch_reads_it(tmp_path):
    """Of an optimizer, a scheduler and a scaler of mixed precision, after a step."""
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3])
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    scheduler.step()
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
        "random": torch.get_rng_state(),
        "types": [torch.float32, torch.device("cpu"), torch.Size([1]), {1}],
    }
    for zipped in (True, False):
        path = tmp_path / "a.pth"
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        wanted = torch.load(path, weights_only=True)
        found = read_checkpoint(path)
        assert_same(found.pop("model"), wanted.pop("model"))
        assert str(found) == str(wanted)


# --- Digests ---


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
def test_any_changed_bit_is_found(state, suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    extra = {} if suffix == ".safetensors" else {"iteration": 7, "optimizer": {0: torch.ones(9)}}
    write_checkpoint({"model": state, **extra}, path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7 if suffix == ".pth" else 3):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match=path.name):
            read_checkpoint(path)
    damaged = bytearray(whole)
    damaged[-100] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(WeightsError, match=r"has changed since it was written.*earlier checkpoint"):
        read_checkpoint(path)


def test_other_readers_ignore_the_digest(state, tmp_path):
    for name in ("a.pth", "a.pkl", "a.safetensors"):
        write_checkpoint({"model": state}, tmp_path / name)
    for options in ({"weights_only": True}, {"weights_only": False}, {"mmap": True}):
        assert_same(torch.load(tmp_path / "a.pth", **options)["model"], state)
    assert_same(safetensors.torch.load_file(tmp_path / "a.safetensors"), state)
    with (tmp_path / "a.pkl").open("rb") as file:
        assert sorted(pickle.load(file)["model"]) == sorted(state)
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        assert archive.testzip() is None and archive.comment.startswith(b"sha256:")


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
def test_files_without_digest_are_read(state, suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, path)
    elif suffix == ".pth":
        torch.save(state, path)
    else:
        path.write_bytes(pickle.dumps({name: tensor.numpy() for name, tensor in state.items()}))
    assert_same(read_checkpoint(path)["model"], state)
