"""A small masked-attention decoder in double precision, and what it decodes."""

import torch
from torch import Tensor, nn

from mask2former.modeling.transformer_decoder import MultiScaleMaskedTransformerDecoder

C, HEADS, Q, K, LAYERS = 16, 2, 5, 3, 4
SIZES = [(2, 3), (4, 5), (8, 9)]


def build(**changes) -> MultiScaleMaskedTransformerDecoder:
    """Build the decoder with random weights, the same at every call."""
    torch.manual_seed(0)
    arguments = {
        "in_channels": C,
        "num_classes": K,
        "hidden_dim": C,
        "num_queries": Q,
        "nheads": HEADS,
        "dim_feedforward": 32,
        "dec_layers": LAYERS,
        "mask_dim": C,
    }
    decoder = MultiScaleMaskedTransformerDecoder(**{**arguments, **changes})
    for parameter in decoder.parameters():  # biases and norms too: zeros and ones hide mistakes
        nn.init.normal_(parameter, std=0.3)
    return decoder.double()


def inputs(batch: int = 2) -> tuple[list[Tensor], Tensor]:
    """Return three maps and mask features, the same at every call."""
    torch.manual_seed(1)
    maps = [torch.randn(batch, C, h, w, dtype=torch.float64) for h, w in SIZES]
    return maps, torch.randn(batch, C, 16, 18, dtype=torch.float64)
