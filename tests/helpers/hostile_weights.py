"""What every file of weights must do: give sound tensors, or one line of text, in little memory."""

import resource

import torch

from mask2former.checkpoint import WeightsError, read_checkpoint

MOST_GROWTH = 400_000  # kB of memory, over all cases of a process


def read_or_refuse(path) -> bool:
    """Read a file, and return whether it was accepted; it may raise only `WeightsError`."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        state = read_checkpoint(path)["model"]
    except WeightsError as error:
        text = str(error)
        text.encode()
        assert "\n" not in text and len(text) < 1000, text
        assert path.name in text or path.parent.name in text, text
        return False
    finally:
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < MOST_GROWTH, f"{grown} kB of memory"
    assert state
    for name, tensor in state.items():
        assert isinstance(name, str) and type(tensor) is torch.Tensor
        assert tensor.layout == torch.strided and torch.isfinite(tensor.double().sum())
    return True
