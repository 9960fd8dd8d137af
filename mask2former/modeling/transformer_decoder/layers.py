"""Building blocks of transformer decoders. B: batch, Q: queries, S: keys, C: channels, N: heads."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MultiheadAttention(nn.Module):
    """Multi-head attention with ``torch.nn.MultiheadAttention``'s parameters, batch first.

    Unlike that module it takes one mask for all heads without copying it for each of them.

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
            allowed: bool (B, Q, S), True where a query may attend; at least one a query.

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


def residual(
    x: Tensor,
    branch: Callable[[Tensor], Tensor],
    norm: nn.Module,
    dropout: nn.Module,
    pre_norm: bool = False,
) -> Tensor:
    """Residual connection around ``branch``, normalised before it or after the sum."""
    if pre_norm:
        return x + dropout(branch(norm(x)))
    return norm(x + dropout(branch(x)))


class _Residual(nn.Module):
    """Residual connection with LayerNorm after (default) or before the branch."""

    def __init__(self, dim: int, dropout: float, pre_norm: bool):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.pre_norm = pre_norm

    def residual(self, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        return residual(x, branch, self.norm, self.dropout, self.pre_norm)


class CrossAttentionLayer(_Residual):
    """Queries attend to a map."""

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0, pre_norm: bool = False):
        super().__init__(dim, dropout, pre_norm)
        self.multihead_attn = MultiheadAttention(dim, num_heads, dropout)

    def forward(
        self, x: Tensor, query_pos: Tensor, memory: Tensor, pos: Tensor, allowed: Tensor | None
    ) -> Tensor:
        """Update x (B, Q, C); query_pos (Q, C), memory (B, S, C), pos (S, C), allowed (B, Q, S)."""
        return self.residual(
            x, lambda y: self.multihead_attn(y + query_pos, memory + pos, memory, allowed)
        )


class SelfAttentionLayer(_Residual):
    """Queries attend to each other."""

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0, pre_norm: bool = False):
        super().__init__(dim, dropout, pre_norm)
        self.self_attn = MultiheadAttention(dim, num_heads, dropout)

    def forward(self, x: Tensor, query_pos: Tensor) -> Tensor:
        """Update x (B, Q, C) with positions query_pos (Q, C)."""
        return self.residual(x, lambda y: self.self_attn(y + query_pos, y + query_pos, y))


class FFNLayer(_Residual):
    """Two linear layers with a ReLU between them."""

    def __init__(
        self, dim: int, dim_feedforward: int, dropout: float = 0.0, pre_norm: bool = False
    ):
        super().__init__(dim, dropout, pre_norm)
        self.linear1 = nn.Linear(dim, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, dim)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, Q, C) to (B, Q, C)."""
        return self.residual(x, lambda y: self.linear2(self.dropout(F.relu(self.linear1(y)))))


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
