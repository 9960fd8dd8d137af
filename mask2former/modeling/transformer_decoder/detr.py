"""DETR's transformer (arXiv 2005.12872, appendix A.3), under its published parameter names.

Shapes:
    B: batch, Q: queries, S: positions of a map, C: channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..position_encoding import sine_position_encoding
from .layers import MultiheadAttention, residual


class _Layer(nn.Module):
    """The feed-forward network and the residual connections that both kinds of layer have."""

    def __init__(
        self, *, dim: int, num_heads: int, dim_feedforward: int, dropout: float, pre_norm: bool
    ):
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = MultiheadAttention(dim, num_heads, dropout)
        self.linear1 = nn.Linear(dim, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, dim)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def _attend_to_itself(self, x: Tensor, pos: Tensor, norm: nn.Module) -> Tensor:
        return residual(
            x, lambda y: self.self_attn(y + pos, y + pos, y), norm, self.dropout, self.pre_norm
        )

    def _feed_forward(self, x: Tensor, norm: nn.Module) -> Tensor:
        return residual(
            x,
            lambda y: self.linear2(self.dropout(F.relu(self.linear1(y)))),
            norm,
            self.dropout,
            self.pre_norm,
        )


class TransformerEncoderLayer(_Layer):
    """Self-attention and a feed-forward network."""

    def __init__(self, *, dim: int, **layer: Any):
        super().__init__(dim=dim, **layer)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, pos: Tensor) -> Tensor:
        """(B, S, C) and positions (S, C) to (B, S, C)."""
        return self._feed_forward(self._attend_to_itself(x, pos, self.norm1), self.norm2)


class TransformerDecoderLayer(_Layer):
    """Self-attention of the queries, cross-attention to the map, and a feed-forward network."""

    def __init__(self, *, dim: int, num_heads: int, dropout: float, **layer: Any):
        super().__init__(dim=dim, num_heads=num_heads, dropout=dropout, **layer)
        self.multihead_attn = MultiheadAttention(dim, num_heads, dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, query_pos: Tensor, memory: Tensor, pos: Tensor) -> Tensor:
        """Update x (B, Q, C); query_pos (Q, C), memory (B, S, C), pos (S, C)."""
        x = self._attend_to_itself(x, query_pos, self.norm1)
        x = residual(
            x,
            lambda y: self.multihead_attn(y + query_pos, memory + pos, memory),
            self.norm2,
            self.dropout,
            self.pre_norm,
        )
        return self._feed_forward(x, self.norm3)


class TransformerEncoder(nn.Module):
    """Layers, perhaps none, and with ``pre_norm`` a norm after them."""

    def __init__(self, *, num_layers: int, dim: int, pre_norm: bool, **layer: Any):
        super().__init__()
        self.layers = nn.ModuleList(
            TransformerEncoderLayer(dim=dim, pre_norm=pre_norm, **layer) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim) if pre_norm else nn.Identity()

    def forward(self, x: Tensor, pos: Tensor) -> Tensor:
        """(B, S, C) and positions (S, C) to (B, S, C)."""
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
        """The queries (B, Q, C) after each layer, normalised.

        Args:
            query_pos: (Q, C), what tells the queries apart: their content starts at zero.
            memory: (B, S, C).
            pos: (S, C).
        """
        x = torch.zeros_like(query_pos).expand(len(memory), -1, -1)
        outputs = []
        for layer in self.layers:
            x = layer(x, query_pos, memory, pos)
            outputs.append(self.norm(x))
        return outputs


class EncoderOnly(nn.Module):
    """A `TransformerEncoder` over a map; its parameter names start with ``encoder``."""

    def __init__(self, **encoder: Any):
        super().__init__()
        self.encoder = TransformerEncoder(**encoder)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)."""
        memory, pos = flatten_map(x)
        return self.encoder(memory, pos).transpose(1, 2).unflatten(2, tuple(x.shape[-2:]))


class EncoderDecoder(nn.Module):
    """Encoder and decoder; their parameter names start with ``encoder`` and ``decoder``."""

    def __init__(self, *, num_encoder_layers: int, num_decoder_layers: int, **layer: Any):
        super().__init__()
        self.encoder = TransformerEncoder(num_layers=num_encoder_layers, **layer)
        self.decoder = TransformerDecoder(num_layers=num_decoder_layers, **layer)

    def forward(self, x: Tensor, query_pos: Tensor) -> list[Tensor]:
        """A map (B, C, H, W) and query_pos (Q, C) to queries (B, Q, C) after each layer."""
        memory, pos = flatten_map(x)
        return self.decoder(query_pos, self.encoder(memory, pos), pos)


def flatten_map(x: Tensor) -> tuple[Tensor, Tensor]:
    """A map (B, C, H, W) as a sequence (B, S, C), and its position encoding (S, C)."""
    encoding = sine_position_encoding(x.shape[-2], x.shape[-1], x.shape[1], x.device)
    return x.flatten(2).transpose(1, 2), encoding.flatten(1).T.to(x.dtype)
