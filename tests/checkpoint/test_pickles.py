"""Pickles that lie about types, shapes and bytes are refused in one line."""

import collections
import pickle

import numpy as np
import pytest
import torch

from mask2former.checkpoint import WeightsError, read_checkpoint

TYPE = b"(cnumpy\ndtype\n(U\x02%sI0\nI1\ntR(I3\nU\x01<NNNI-1\nI-1\nI0\ntb"
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR"


def array(shape: bytes, dtype: bytes, content: bytes) -> bytes:
    """Return the opcodes of an array: shape is as in a pickle of protocol 0."""
    state = b"(I1\n" + shape + (TYPE % dtype)[1:] + b"I00\nU" + bytes([len(content)]) + content
    return RECONSTRUCT + state + b"tb"


HOSTILE = {
    "objects": array(b"(I8\nt", b"O8", b"A" * 64),
    "constructor": b"cnumpy\nndarray\n((I8\ntcnumpy\ndtype\n(U\x02f4tRU\x04AAAAtR",
    "forged type": b"cnumpy\ndtype\n(U\x02f4tR(I3\nU\x01<N(U\x01atNI8\nI8\nI0\ntb",
    "few bytes": array(b"(I8\nt", b"f4", b"A" * 4),
    "many bytes": array(b"(I1\nt", b"f4", b"A" * 8),
    "negative": array(b"(I-1\nI-1\nt", b"f4", b"A" * 4),
    "huge": array(b"(L4611686018427387905L\nt", b"f4", b"A" * 4),
    "shape of text": array(b"(U\x011t", b"f4", b"A" * 4),
    "state of a function": b"c_codecs\nencode\n(N}U\x0c__defaults__(I1\ntstb",
    "unknown encoding": b"c_codecs\nencode\n(U\x01aU\x03rottR",
    "no stack": b"R",
    "far memo": b"I1\nr\xff\xff\xff\x7f",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pickles_are_refused(kind, tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x02}(U\x03a.b" + HOSTILE[kind] + b"u.")
    with pytest.raises(WeightsError, match=r"a\.pkl") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(0, (5,), (1,)), (3, (2,), (1,)), (-1, (2,), (1,)), (0, (2, 2), (1, 3)), (0, (2,), (-1,))],
)
def test_tensors_stay_within_their_storage(offset, shape, strides, tmp_path):
    class Forged:
        def __reduce__(self):
            storage = torch.arange(4.0)._typed_storage()
            arguments = (storage, offset, shape, strides, False, collections.OrderedDict())
            return torch._utils._rebuild_tensor_v2, arguments

    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"a.b": Forged()}))
    with pytest.raises(WeightsError, match=r"a\.pkl"):
        read_checkpoint(path)


def test_order_of_fortran_is_kept(tmp_path):
    value = np.asfortranarray(np.arange(6, dtype="f8").reshape(2, 3))
    for protocol in (2, 5):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a.b": value}, protocol=protocol))
        assert np.array_equal(read_checkpoint(tmp_path / "a.pkl")["model"]["a.b"], value)
