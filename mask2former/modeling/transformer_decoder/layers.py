"""Building blocks of transformer decoders.

Shapes:
    B: batch, Q: queries, S: keys, C: channels, N: heads.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MultiheadAttention(nn.Module):
    """Multi-head attention with ``torch.nn.MultiheadAttention``'s parameters, batch first.

    Unlike that module, it does not copy the mask, which all heads share, for each of them.

    Args:
        dim: channels C, a multiple of ``num_heads``.
        num_heads: N.
        dropout: of the attention's weights.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"{dim} channels cannot be divided among {num_heads} heads")
        self.num_heads, self.dropout = num_heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None
    ) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C).
            key: (B, S, C).
            value: (B, S, C).
            allowed: bool (B, Q, S), True where a query may attend; at least once for each query.

        Returns:
            (B, Q, C).
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, w, b).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, N, ., C/N)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )
        mask = None if allowed is None else allowed[:, None]
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(x.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """The residual branches of DETR's layers, once for all of them.

    A subclass builds the modules of the branches that it has. It also has the norms, because
    published checkpoints name these differently.

    Args:
        dim: channels C.
        num_heads: N, of each attention.
        dim_feedforward: hidden channels of the feed-forward network.
        dropout: after every branch, and of the attentions' weights.
        pre_norm: normalise before instead of after each branch.
    """

    self_attn: MultiheadAttention
    multihead_attn: MultiheadAttention
    linear1: nn.Linear
    linear2: nn.Linear

    def __init__(
        self, *, dim: int, num_heads: int, dim_feedforward: int, dropout: float, pre_norm: bool
    ):
        super().__init__()
        self.dim, self.num_heads, self.dim_feedforward = dim, num_heads, dim_feedforward
        self.dropout = nn.Dropout(dropout)
        self.pre_norm = pre_norm

    def build_attention(self) -> MultiheadAttention:
        """Build one attention of this layer."""
        return MultiheadAttention(self.dim, self.num_heads, self.dropout.p)

    def build_feed_forward(self) -> None:
        """Build ``linear1`` and ``linear2``."""
        self.linear1 = nn.Linear(self.dim, self.dim_feedforward)
        self.linear2 = nn.Linear(self.dim_feedforward, self.dim)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def residual(self, x: Tensor, norm: nn.Module, branch: Callable[[Tensor], Tensor]) -> Tensor:
        """Add a branch's output to its input, and normalise before the branch or after the sum."""
        if self.pre_norm:
            return x + self.dropout(branch(norm(x)))
        return norm(x + self.dropout(branch(x)))

    def attend_to_itself(
        self, x: Tensor, pos: Tensor, norm: nn.Module, allowed: Tensor | None = None
    ) -> Tensor:
        """Update x (B, Q, C) by self-attention; pos (Q, C), allowed (B, Q, Q)."""
        return self.residual(x, norm, lambda y: self.self_attn(y + pos, y + pos, y, allowed))

    def attend_to_map(
        self,
        x: Tensor,
        query_pos: Tensor,
        key: Tensor,
        memory: Tensor,
        norm: nn.Module,
        allowed: Tensor | None = None,
    ) -> Tensor:
        """Update x (B, Q, C) by cross-attention.

        Args:
            x: queries.
            query_pos: (Q, C).
            key: (B, S, C), memory with positions added.
            memory: (B, S, C).
            norm: of this branch.
            allowed: bool (B, Q, S).
        """
        return self.residual(
            x, norm, lambda y: self.multihead_attn(y + query_pos, key, memory, allowed)
        )

    def feed_forward(self, x: Tensor, norm: nn.Module) -> Tensor:
        """Update x (B, Q, C) by two linear layers with a ReLU between them."""
        return self.residual(x, norm, lambda y: self.linear2(self.dropout(F.relu(self.linear1(y)))))


class CrossAttentionLayer(Layer):
    """Queries attend to a map."""

    def __init__(self, **layer: Any):
        super().__init__(**layer)
        self.norm = nn.LayerNorm(self.dim)
        self.multihead_attn = self.build_attention()

    def forward(
        self, x: Tensor, query_pos: Tensor, key: Tensor, memory: Tensor, allowed: Tensor | None
    ) -> Tensor:
        """See `Layer.attend_to_map`."""
        return self.attend_to_map(x, query_pos, key, memory, self.norm, allowed)


class SelfAttentionLayer(Layer):
    """Queries attend to each other."""

    def __init__(self, **layer: Any):
        super().__init__(**layer)
        self.norm = nn.LayerNorm(self.dim)
        self.self_attn = self.build_attention()

    def forward(self, x: Tensor, query_pos: Tensor, allowed: Tensor | None = None) -> Tensor:
        """See `Layer.attend_to_itself`."""
        return self.attend_to_itself(x, query_pos, self.norm, allowed)


class FFNLayer(Layer):
    """Two linear layers with a ReLU between them."""

    def __init__(self, **layer: Any):
        super().__init__(**layer)
        self.norm = nn.LayerNorm(self.dim)
        self.build_feed_forward()

    def forward(self, x: Tensor) -> Tensor:
        """See `Layer.feed_forward`."""
        return self.feed_forward(x, self.norm)


class MLP(nn.Module):
    """Linear layers with ReLUs between them."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int):
        super().__init__()
        dims = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        """(..., input_dim) to (..., output_dim)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)
