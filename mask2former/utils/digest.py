"""A fingerprint of weights."""

import hashlib

import torch
from torch import nn


def weights_digest(network: nn.Module) -> str:
    """Return the SHA-256 of the names and the bytes of all weights, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
