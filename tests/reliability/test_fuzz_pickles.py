"""Pickles from strangers are read or refused in one line, and never corrupt the process."""

import functools
import pickle
import random

import numpy as np
import pytest
import torch
from fuzzing import cases, mutated_bytes, run_cases
from hostile_weights import read_or_refuse

CONTENT = {
    "model": {
        "a.b": np.arange(6, dtype="f4").reshape(2, 3),
        "c.d": torch.ones(2),
        "e.f": np.float64(2.5),
        "g.h": np.asfortranarray(np.ones((2, 2))),
    },
    "iteration": 7,
}


def sound(folder, seed):
    path = folder / "sound.pkl"
    path.write_bytes(pickle.dumps(CONTENT, protocol=2 + seed % 4))
    assert read_or_refuse(path)


def damaged(folder, seed):
    data = pickle.dumps(CONTENT, protocol=2 + seed % 4)
    path = folder / f"{seed}.pkl"
    path.write_bytes(mutated_bytes(data, random.Random(seed)))
    read_or_refuse(path)
    path.unlink()


def exchanged(folder, seed):
    """Opcodes and short pieces change places, which bytes drawn at random seldom make."""
    rng = random.Random(seed)
    data = bytearray(pickle.dumps(CONTENT, protocol=2 + seed % 4))
    for _ in range(rng.randint(1, 4)):
        source, target = rng.randrange(len(data)), rng.randrange(len(data))
        length = rng.randint(1, 12)
        piece = data[source : source + length]
        if rng.random() < 0.5:
            data[target : target + length] = piece
        else:
            data[target:target] = piece * rng.choice([1, 1, 2, 50])
    path = folder / f"{seed}.pkl"
    path.write_bytes(bytes(data))
    read_or_refuse(path)
    path.unlink()


def any_case(folder, seed):
    case = sound if seed < 4 else (damaged, exchanged)[seed % 2]
    case(folder, seed)


def test_pickles_are_read_or_refused(tmp_path):
    run_cases(functools.partial(any_case, tmp_path), cases(600))


def nested(depth):
    return b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."


# Hashing this tuple takes 2**60 steps.
SLOW = b"K\x01K\x01\x86q\x09" + b"0h\x09h\x09\x86q\x09" * 60
HOSTILE = {
    "slow key": b"\x80\x02}" + SLOW + b"K\x01s.",
    "slow keys": b"\x80\x02}(" + SLOW + b"K\x01u.",
    "slow dict": b"\x80\x02(" + SLOW + b"K\x01d.",
    "slow element": b"\x80\x04\x8f(" + SLOW + b"\x90.",
    "slow frozen set": b"\x80\x04(" + SLOW + b"\x91.",
    "slow set": b"\x80\x02c__builtin__\nset\n]" + SLOW + b"a\x85R.",
    "slow counter": b"\x80\x02ccollections\nCounter\n]" + SLOW + b"a\x85R.",
    "slow order": b"\x80\x02ccollections\nOrderedDict\n](" + SLOW + b"K\x01\x86e\x85R.",
    "colliding keys": b"\x80\x02}("
    + b"".join(
        b"\x8a\x0b" + (k * (2**61 - 1)).to_bytes(11, "little") + b"K\x01" for k in range(1, 100_000)
    )
    + b"u.",
    "new objects": b"\x80\x02ctorch\nSize\nK\x01\x85\x81.",
    "nested": nested(100_000),
    "nested names": b"\x80\x02}(" + b"(" * 5000 + b"t" * 5000 + b"K\x01u.",
    "billion laughs": b"\x80\x02]" + b"q\x01(h\x01h\x01t" * 5000 + b".",
    "copies of bytes": b"\x80\x02c_codecs\nencode\nq\x02X"
    + (100_000).to_bytes(4, "little")
    + b"a" * 100_000
    + b"q\x01](X\x06\x00\x00\x00latin1q\x030"
    + b"h\x02h\x01h\x03\x86R" * 20_000
    + b"e.",
    "copies of a dict": b"\x80\x02ccollections\nOrderedDict\nq\x02]q\x01("
    + b"K\x01K\x02\x86" * 20_000
    + b"e0]("
    + b"h\x02h\x01\x85R" * 20_000
    + b"e.",
    "long frame": b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f.",
    "long bytes": b"\x80\x04\x8e" + b"\xff" * 6 + b"\x00\x00.",
    "eight gigabytes": b"\x80\x04\x8e" + (2**33).to_bytes(8, "little") + b".",
    "array of gigabytes": b"\x80\x05\x96" + (2**31).to_bytes(8, "little") + b".",
    "array beyond its frame": b"\x80\x05\x95\x0a" + bytes(7) + b"\x96\0\0\0\x7f\0\0\0\0.",
    "long integer": b"\x80\x02\x8b"
    + (1_000_000).to_bytes(4, "little")
    + b"\x7f" * 1_000_000
    + b".",
    "digits": b"L" + b"9" * 1_000_000 + b"L\n.",
    "lone surrogate": b"\x80\x02}X\x03\x00\x00\x00\xed\xa0\x80K\x01s.",
    "line break": b"\x80\x02}X\x03\x00\x00\x00a\nbK\x01s.",
    "persistent": b"\x80\x02K\x01Q.",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pickles(tmp_path, kind):
    (tmp_path / "a.pkl").write_bytes(HOSTILE[kind])
    assert not read_or_refuse(tmp_path / "a.pkl")
