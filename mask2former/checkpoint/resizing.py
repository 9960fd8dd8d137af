"""Weights of a model with other queries, other channels, or fewer levels in its pixel decoder.

Shapes:
    H: heads, L: levels of the pixel decoder's encoder, P: points per head and level, C: channels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from .files import State

_RGB = 3
_HEAD = "sem_seg_head."
_PIXEL_DECODER = f"{_HEAD}pixel_decoder."
_LEVELS = f"{_PIXEL_DECODER}transformer.level_embed"
_QUERIES = re.compile(rf"{re.escape(_HEAD)}predictor\.query\w*\.weight")
# Offsets are (H, L, P, 2) and weights (H, L, P), in the first axis.
_PER_LEVEL = re.compile(
    rf"({re.escape(_PIXEL_DECODER)}transformer\.encoder\.layers\.\d+\.self_attn)\."
    r"(sampling_offsets|attention_weights)\.(weight|bias)"
)
_FPN = re.compile(rf"{re.escape(_PIXEL_DECODER)}(adapter|layer)_\d+\..*")
_PROJECTION = re.compile(rf"{re.escape(_PIXEL_DECODER)}input_proj\.\d+\..*")


def resized(state: Mapping[str, Tensor], model: nn.Module) -> tuple[State, str]:
    """Let a model take over the queries and the levels that it shares with a file, and its stem.

    Of more queries than the file has, the others keep the random values of the model; of fewer, the
    first are taken. For the first convolution of a model of other channels than red, green and
    blue, see `_of_channels`. Of more levels, the finest keep the values that the model starts with.
    What cannot be taken over stays as it is in the file.

    Args:
        state: the tensors of a file under the names of this package's models.
        model: the model to load into.

    Returns:
        The tensors to load, and a sentence about what was done, or "".
    """
    own = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    found = dict(state)
    note = _share_stem(found, own) + _share_queries(found, own)
    return found, note + _share_levels(found, own, model)


def _share_stem(found: State, own: Mapping[str, Tensor]) -> str:
    note = ""
    for name, theirs in list(found.items()):
        if name not in own or not name.startswith("backbone.") or theirs.ndim != 4:
            continue
        wanted = own[name].shape
        channels = wanted[1] if len(wanted) == 4 else 0
        if theirs.shape[1] != _RGB or theirs.shape == wanted or channels == _RGB:
            continue
        if (theirs.shape[0], *theirs.shape[2:]) == (wanted[0], *wanted[2:]):
            found[name] = _of_channels(theirs, channels)
            note = (
                f" The first convolution of the file takes {_RGB} channels, that of the model "
                f"{channels}: its weights are shared out, so that it answers grey images as before."
            )
    return note


def _of_channels(weight: Tensor, channels: int) -> Tensor:
    """Share out the weights (O, 3, h, w) of a convolution to C channels: (O, C, h, w).

    Channel c gets those of red, green and blue in turn, divided by how many channels get the same;
    with fewer than three channels, one gets the sum of several. So the sum over channels stays, and
    with it the answer to an image whose channels are equal.
    """
    shared = weight.new_zeros(weight.shape[0], channels, *weight.shape[2:])
    pairs = [(i % channels, i % _RGB) for i in range(max(channels, _RGB))]
    of_file = [source for _, source in pairs]
    for channel, source in pairs:
        shared[:, channel] += weight[:, source] / of_file.count(source)
    return shared


def _share_queries(found: State, own: Mapping[str, Tensor]) -> str:
    note = ""
    for name in [name for name in found if _QUERIES.fullmatch(name) and name in own]:
        if not _differ_in_rows(found[name], own[name]):
            continue
        n, wanted = len(found[name]), len(own[name])
        found[name] = _rows(found[name], own[name])
        rest = (
            f"the first {wanted} are kept" if n > wanted else "the others start from random values"
        )
        note = f" The file has {n} queries, the model {wanted}: {rest}."
    return note


def _share_levels(found: State, own: Mapping[str, Tensor], model: nn.Module) -> str:
    if not (_LEVELS in found and _LEVELS in own and _differ_in_rows(found[_LEVELS], own[_LEVELS])):
        return ""
    L, wanted = len(found[_LEVELS]), len(own[_LEVELS])
    if not 0 < L < wanted:
        return ""
    found[_LEVELS] = _rows(found[_LEVELS], own[_LEVELS])
    for name, tensor in own.items():
        if _PROJECTION.fullmatch(name) and name not in found:
            found[name] = tensor
        elif match := _PER_LEVEL.fullmatch(name):
            theirs, heads = found.get(name), model.get_submodule(match[1]).num_heads
            if theirs is None or not _differ_in_rows(theirs, tensor):
                continue
            if len(theirs) * wanted == len(tensor) * L:  # as many heads and points
                grown = tensor.to(theirs.dtype, copy=True)
                grown = grown.unflatten(0, (heads, wanted, -1))  # (H, L, P or 2 P, ...)
                grown[:, :L] = theirs.unflatten(0, (heads, L, -1))
                found[name] = grown.flatten(0, 2)
    for name in [name for name in found if _FPN.fullmatch(name) and name not in own]:
        del found[name]  # of the levels that are encoded instead
    return (
        f" The pixel decoder of the file encodes {L} levels, that of the model {wanted}: what is "
        "of the finest starts from random values."
    )


def _rows(theirs: Tensor, own: Tensor) -> Tensor:
    """Return the tensor of the model with as many rows of the file as fit."""
    n = min(len(theirs), len(own))
    found = own.to(theirs.dtype, copy=True)
    found[:n] = theirs[:n]
    return found


def _differ_in_rows(a: Tensor, b: Tensor) -> bool:
    """Tell whether the first axes have different lengths, and all others the same."""
    return a.ndim == b.ndim > 0 and a.shape != b.shape and a.shape[1:] == b.shape[1:]
