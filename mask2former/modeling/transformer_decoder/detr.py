"""DETR's transformer (arXiv 2005.12872, appendix A.3), under its published parameter names.

Shapes:
    B: batch, Q: queries, S: positions of a map, C: channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..position_encoding import sine_position_encoding
from .layers import Layer


class TransformerEncoderLayer(Layer):
    """Self-attention and a feed-forward network."""

    def __init__(self, **layer: Any):
        super().__init__(**layer)
        self.self_attn = self.build_attention()
        self.build_feed_forward()
        self.norm1 = nn.LayerNorm(self.dim)
        self.norm2 = nn.LayerNorm(self.dim)

    def forward(self, x: Tensor, pos: Tensor) -> Tensor:
        """Update x (B, S, C), whose positions are pos (S, C)."""
        return self.feed_forward(self.attend_to_itself(x, pos, self.norm1), self.norm2)


class TransformerDecoderLayer(Layer):
    """Self-attention of the queries, cross-attention to the map, and a feed-forward network."""

    def __init__(self, **layer: Any):
        super().__init__(**layer)
        self.self_attn = self.build_attention()
        self.build_feed_forward()
        self.multihead_attn = self.build_attention()
        self.norm1 = nn.LayerNorm(self.dim)
        self.norm2 = nn.LayerNorm(self.dim)
        self.norm3 = nn.LayerNorm(self.dim)

    def forward(self, x: Tensor, query_pos: Tensor, key: Tensor, memory: Tensor) -> Tensor:
        """Update x (B, Q, C); see `Layer.attend_to_map`."""
        x = self.attend_to_itself(x, query_pos, self.norm1)
        x = self.attend_to_map(x, query_pos, key, memory, self.norm2)
        return self.feed_forward(x, self.norm3)


class TransformerEncoder(nn.Module):
    """Layers, perhaps none, and with ``pre_norm`` a norm after them."""

    def __init__(self, *, num_layers: int, dim: int, pre_norm: bool, **layer: Any):
        super().__init__()
        self.layers = nn.ModuleList(
            TransformerEncoderLayer(dim=dim, pre_norm=pre_norm, **layer) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim) if pre_norm else nn.Identity()

    def forward(self, x: Tensor, pos: Tensor) -> Tensor:
        """Encode (B, S, C) with positions (S, C) to (B, S, C)."""
        for layer in self.layers:
            x = layer(x, pos)
        return self.norm(x)


class TransformerDecoder(nn.Module):
    """Layers, and a norm that each of their outputs passes for a prediction."""

    def __init__(self, *, num_layers: int, dim: int, **layer: Any):
        super().__init__()
        self.layers = nn.ModuleList(
            TransformerDecoderLayer(dim=dim, **layer) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, query_pos: Tensor, memory: Tensor, pos: Tensor) -> list[Tensor]:
        """Return the queries (B, Q, C) after each layer, normalised.

        Args:
            query_pos: (Q, C), what tells the queries apart: their content starts at zero.
            memory: (B, S, C).
            pos: (S, C).
        """
        x, key = torch.zeros_like(query_pos).expand(len(memory), -1, -1), memory + pos
        outputs = []
        for layer in self.layers:
            x = layer(x, query_pos, key, memory)
            outputs.append(self.norm(x))
        return outputs


class EncoderOnly(nn.Module):
    """A `TransformerEncoder` over a map; its parameter names start with ``encoder``."""

    def __init__(self, **encoder: Any):
        super().__init__()
        self.encoder = TransformerEncoder(**encoder)

    def forward(self, x: Tensor) -> Tensor:
        """Encode (B, C, H, W) to (B, C, H, W)."""
        memory, pos = flatten_map(x)
        return self.encoder(memory, pos).transpose(1, 2).unflatten(2, tuple(x.shape[-2:]))


class EncoderDecoder(nn.Module):
    """Encoder and decoder; their parameter names start with ``encoder`` and ``decoder``."""

    def __init__(self, *, num_encoder_layers: int, num_decoder_layers: int, **layer: Any):
        super().__init__()
        self.encoder = TransformerEncoder(num_layers=num_encoder_layers, **layer)
        self.decoder = TransformerDecoder(num_layers=num_decoder_layers, **layer)

    def forward(self, x: Tensor, query_pos: Tensor) -> list[Tensor]:
        """Return queries (B, Q, C) after each layer for a map (B, C, H, W) and query_pos (Q, C)."""
        memory, pos = flatten_map(x)
        return self.decoder(query_pos, self.encoder(memory, pos), pos)


def flatten_map(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return a map (B, C, H, W) as a sequence (B, S, C), and its position encoding (S, C)."""
    encoding = sine_position_encoding(x.shape[-2], x.shape[-1], x.shape[1], x.device)
    return x.flatten(2).transpose(1, 2), encoding.flatten(1).T.to(x.dtype)
