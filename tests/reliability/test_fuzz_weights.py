"""Files of `torch.save` and safetensors, and lists of shards, are read or refused in one line."""

import functools
import io
import json
import os
import pickle
import random
import struct
import tarfile
import zipfile

import pytest
import safetensors.torch
import torch
from fuzzing import cases, mutated_bytes, mutated_json, run_cases
from hostile_weights import read_or_refuse

from mask2former.checkpoint import Checkpointer, WeightsError, read_checkpoint, write_checkpoint

STATE = {"a.b": torch.arange(6.0).reshape(2, 3), "c.d": torch.ones(2).half(), "e": torch.tensor(3)}
CONTENT = {"model": STATE, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}, "iteration": 7}


def saved(zipped=True, content=CONTENT):
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def rezipped(change, data=None, **options):
    """Return an archive of `torch.save` whose members `change(name, content)` has replaced."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data or saved())) as old,
        zipfile.ZipFile(buffer, "w", **options) as new,
    ):
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return buffer.getvalue()


def with_header(header, data=bytes(24 + 4 + 8)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


HEADER = {
    "__metadata__": {"format": "pt"},
    "a.b": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "c.d": {"dtype": "F16", "shape": [2], "data_offsets": [24, 28]},
    "e": {"dtype": "I64", "shape": [], "data_offsets": [28, 36]},
}
INDEX = {
    "metadata": {"total_size": 36},
    "weight_map": {"a.b": "1.safetensors", "c.d": "1.safetensors", "e": "2.bin"},
}


def write_shards(folder):
    first = {name: STATE[name] for name in ("a.b", "c.d")}
    safetensors.torch.save_file(first, folder / "1.safetensors")
    torch.save({"e": STATE["e"]}, folder / "2.bin")


def attempt(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    accepted = read_or_refuse(path)
    path.unlink()
    return accepted


def sound(folder, seed):
    write_shards(folder)
    for name, content in {
        "a.pth": saved(),
        "b.pth": saved(zipped=False),
        "c.pth": rezipped(lambda name, content: content, compression=zipfile.ZIP_DEFLATED),
        "d.safetensors": with_header(HEADER),
        "e.index.json": json.dumps(INDEX).encode(),
    }.items():
        assert attempt(folder, name, content), name


def zipped(folder, seed):
    attempt(folder, f"{seed}.pth", mutated_bytes(saved(), random.Random(seed)))


def zipped_members(folder, seed):
    """Damage members, whose checksums are right afterwards, most often the pickle."""
    rng = random.Random(seed)

    def change(name, content):
        damage = rng.random() < (0.8 if name.endswith("data.pkl") else 0.1)
        return mutated_bytes(content, rng) if damage else content

    attempt(folder, f"{seed}.pth", rezipped(change))


def legacy(folder, seed):
    attempt(folder, f"{seed}.pth", mutated_bytes(saved(zipped=False), random.Random(seed)))


def with_digest(folder, seed):
    path = folder / f"{seed}.{random.Random(seed).choice(['pth', 'pkl', 'safetensors'])}"
    write_checkpoint({"model": STATE} if path.suffix == ".safetensors" else CONTENT, path)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    place = random.Random(seed).randrange(8 * len(damaged))
    damaged[place // 8] ^= 1 << place % 8
    assert not attempt(folder, path.name, bytes(damaged)), place


def safetensors_values(folder, seed):
    rng = random.Random(seed)
    attempt(folder, f"{seed}.safetensors", with_header(mutated_json(HEADER, rng)))


def safetensors_bytes(folder, seed):
    rng = random.Random(seed)
    attempt(folder, f"{seed}.safetensors", mutated_bytes(with_header(HEADER), rng))


def index_values(folder, seed):
    write_shards(folder)
    content = json.dumps(mutated_json(INDEX, random.Random(seed))).encode()
    attempt(folder, f"{seed}.index.json", content)


def index_bytes(folder, seed):
    write_shards(folder)
    content = mutated_bytes(json.dumps(INDEX).encode(), random.Random(seed))
    attempt(folder, f"{seed}.index.json", content)


CASES = (
    zipped, zipped_members, legacy, with_digest,
    safetensors_values, safetensors_bytes, index_values, index_bytes,
)  # fmt: skip


def any_case(folder, seed):
    (CASES[seed % len(CASES)] if seed else sound)(folder, seed)


def test_files_are_read_or_refused(tmp_path):
    run_cases(functools.partial(any_case, tmp_path), cases(1000))


# --- Sizes that are not true ---


class Forged:
    """A tensor whose pickle says what it likes."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def forged(offset, shape, strides):
    storage = torch.arange(4.0)._typed_storage()
    return Forged(torch._utils._rebuild_tensor_v2, storage, offset, shape, strides, False, {})


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (2**31,), (0,)), (0, (2**20, 2**20), (0, 0)), (0, (2**40, 2**40), (0, 0)),
        (0, (5,), (1,)), (2**62, (1,), (1,)), (-1, (2,), (1,)), (0, (2,), (2**62,)),
        (0, (-2, -2), (1, 1)), (0, (2,), (1, 1)), (0, (), (1,)), (0, (10**30,), (0,)),
    ],
)  # fmt: skip
def test_tensors_that_claim_more_than_their_storage(tmp_path, old, offset, shape, strides):
    content = saved(zipped=not old, content={"a.b": forged(offset, shape, strides)})
    assert not attempt(tmp_path, "a.pth", content)


def test_storages_have_the_length_that_is_stated(tmp_path):
    count = b"K\x06tq"  # of the first storage, in the tuple that refers to it
    for other in (b"K\x07tq", b"K\x05tq", b"J\xff\xff\xff\x7ftq", b"J\xff\xff\xff\xfftq", b"Ntq"):
        for zipped_form in (True, False):
            whole = saved(zipped_form)
            if zipped_form:
                damaged = rezipped(lambda _, content, other=other: content.replace(count, other))
            else:
                damaged = whole.replace(b"K\x06N", other[:-2] + b"N")
            assert damaged != whole
            assert not attempt(tmp_path, "a.pth", damaged)


def test_storages_that_a_legacy_file_does_not_fill(tmp_path):
    """PyTorch leaves them as they are: memory that other data was in before."""
    whole = saved(zipped=False, content={"a.b": torch.ones(3), "c.d": torch.zeros(3)})
    keys = whole.rindex(b"\x80\x02]q")
    listed = pickle.loads(whole[keys:])
    rest = whole[keys + len(pickle.dumps(listed, protocol=2)) :]
    fewer = whole[:keys] + pickle.dumps(listed[:1], protocol=2) + rest[: 8 + 12]
    assert not attempt(tmp_path, "a.pth", fewer)
    twice = whole[:keys] + pickle.dumps(listed[:1] * 2, protocol=2) + rest
    assert not attempt(tmp_path, "a.pth", twice)


def test_archives_that_unpack_to_far_more_are_refused(tmp_path):
    zeros = saved(content={"a.b": torch.zeros(30_000_000)})
    bomb = rezipped(lambda _, content: content, zeros, compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 10**6
    with pytest.raises(WeightsError, match="unpacks to far more"):
        (tmp_path / "a.pth").write_bytes(bomb)
        read_checkpoint(tmp_path / "a.pth")


def test_archives_of_other_kinds(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("storages", "tensors", "pickle", "sys_info"):
            tar.addfile(tarfile.TarInfo(name))
    assert not attempt(tmp_path, "tar.pth", buffer.getvalue())
    assert not attempt(tmp_path, "none.pth", rezipped(lambda _, content: content)[:-30])
    script = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), script)
    assert not attempt(tmp_path, "script.pth", script.getvalue())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a.txt", "a")
    assert not attempt(tmp_path, "zip.pth", buffer.getvalue())
    big_endian = rezipped(lambda n, c: b"big" if n.endswith("byteorder") else c)
    assert not attempt(tmp_path, "big.pth", big_endian)


@pytest.mark.parametrize(
    "header",
    [
        {**HEADER, "c.d": {**HEADER["c.d"], "data_offsets": [20, 24]}},  # overlap
        {**HEADER, "c.d": {**HEADER["c.d"], "data_offsets": [24, 2**62]}},
        {**HEADER, "a.b": {**HEADER["a.b"], "shape": [2**62, 2**62]}},
        {**HEADER, "a.b": {**HEADER["a.b"], "shape": [-2, -3]}},
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 100_000,
        b"\xff\xfe",
        [],
        {},
        {"__metadata__": []},
        {"__metadata__": {"mask2former_digest": 5}},
        {"__metadata__": {"a": "sha256:"}},
    ],
    ids=lambda value: str(value)[:20],
)
def test_headers_of_safetensors(tmp_path, header):
    assert not attempt(tmp_path, "a.safetensors", with_header(header))
    assert not attempt(tmp_path, "b.safetensors", struct.pack("<Q", 2**63) + b"{}")


@pytest.mark.parametrize(
    "weight_map",
    [
        {"a.b": "../1.safetensors"}, {"a.b": "/etc/passwd"}, {"a.b": "."}, {"a.b": ""},
        {"a.b": "model.safetensors.index.json"}, {"a.b": "other.index.json"}, {"a.b": "x/1.bin"},
        {"a.b": 5}, {"a.b": None}, {"a.b": ["1.safetensors"]}, {"a.b": "\0.bin"}, {}, [], None,
        {"a.b": "\ud800.bin"}, {"a.b": "fifo.bin"}, {"a.b": "folder.bin"},
    ],
    ids=repr,
)  # fmt: skip
def test_lists_of_shards(tmp_path, weight_map):
    os.mkfifo(tmp_path / "fifo.bin")
    (tmp_path / "folder.bin").mkdir()
    write_shards(tmp_path)
    (tmp_path / "other.index.json").write_text(json.dumps({"weight_map": {"a.b": "a.index.json"}}))
    content = json.dumps({"weight_map": weight_map}).encode()
    assert not attempt(tmp_path, "model.safetensors.index.json", content)


# --- Names that are known, with shapes that are not theirs ---


def known_names():
    """Return a few names of each network whose weights are renamed and converted."""
    bias = "attn.relative_position_bias_table"
    theirs = "model.pixel_level_module.encoder.encoder.layers.0.blocks.0.attention.self."
    return {
        "torchvision": ["layer1.0.conv1.weight"],
        "detectron2": ["res2.0.conv1.weight"],
        "swin": [f"layers.0.blocks.0.{bias}", "absolute_pos_embed"],
        "timm": [f"layers.0.blocks.0.{bias}", "layers.1.downsample.reduction.weight"],
        "torchvision swin": [f"features.1.0.{bias}"],
        "hugging face": [f"{theirs}{name}.weight" for name in ("query", "key", "value")],
        "hugging face table": [f"{theirs}relative_position_bias_table"],
        "caffe2": ["conv1_w", "res2_0_branch2a_w"],
        "old": ["sem_seg_head.predictor.static_query.weight"],
    }


SHAPES = [(), (0,), (1,), (3,), (9, 1), (1, 5, 2), (2, 0), (49, 3), (999**2, 1)]


@pytest.mark.parametrize("kind", known_names())
def test_shapes_that_the_names_do_not_have(tmp_path, kind):
    names = known_names()[kind]
    model = torch.nn.Linear(1, 1)
    for seed in range(40):
        rng = random.Random(seed)
        state = {name: torch.zeros(rng.choice(SHAPES)) for name in names}
        content = {"blobs": state} if kind == "caffe2" else {"model": state}
        torch.save(content, tmp_path / "a.pth")
        for loader in (Checkpointer(model), Checkpointer(model, for_training=True)):
            with pytest.raises(WeightsError):
                loader.load(str(tmp_path / "a.pth"), checkpointables=[])


@pytest.mark.parametrize("state", [5, [], {}, {"state": 3, "param_groups": []}, {"iteration": "a"}])
@pytest.mark.parametrize("part", ["optimizer", "trainer"])
def test_state_of_training_of_another_kind(tmp_path, part, state):
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    content = {"model": model.state_dict(), "trainer": {"iteration": 1}, part: state}
    torch.save(content, tmp_path / "model_0000001.pth")
    with pytest.raises(WeightsError, match=r"model_0000001\.pth"):
        loader = Checkpointer(model, str(tmp_path), optimizer=optimizer, trainer=Strict())
        loader.resume_or_load("", resume=True)


class Strict:
    """Takes the state that a trainer has."""

    def state_dict(self):
        return {"iteration": self.iteration}

    def load_state_dict(self, state):
        self.iteration = 0 + state["iteration"]
