"""Parts of the Swin Transformer: windows, attention within them, blocks and patch merging.

Shapes:
    B: batch size
    H, W: height and width, in patches of the current stage
    C: channels of the current stage
    S: side of a window, in patches
    N: patches in a window, S * S
    G: windows in a map whose sides are multiples of S
    E: those in its last row or last column
    A: attention heads
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..draws import rand
from ..fused import linear, row_parts

# Added to the attention logits of patches that are neighbours only because of the cyclic shift.
# The published weights were trained with this finite value.
MASKED_LOGIT = -100.0


def partition_windows(x: Tensor, window_size: int) -> Tensor:
    """Cut (B, H, W, C) into windows, (B * G, N, C); H and W are multiples of `window_size`."""
    B, H, W, C = x.shape
    S = window_size
    x = x.view(B, H // S, S, W // S, S, C).transpose(2, 3)  # (B, H/S, W/S, S, S, C)
    return x.reshape(-1, S * S, C)


def merge_windows(windows: Tensor, window_size: int, height: int, width: int) -> Tensor:
    """Undo `partition_windows` for a map of (height, width): (B * G, N, C) to (B, H, W, C)."""
    S, C = window_size, windows.shape[-1]
    x = windows.view(-1, height // S, width // S, S, S, C).transpose(2, 3)
    return x.reshape(-1, height, width, C)


def next_multiple(size: int, multiple: int) -> int:
    """Return the least multiple that is not less than a size."""
    # In this form, an export with open sizes can tell that the result is a multiple. There is no
    # negative number in it, whose quotient some runtimes round differently.
    return (size + multiple - 1) // multiple * multiple


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Append zero rows and columns to (B, H, W, C) until H and W are multiples of `multiple`."""
    rows, columns = (next_multiple(size, multiple) - size for size in x.shape[1:3])
    return F.pad(x, (0, 0, 0, columns, 0, rows))


def cropped(x: Tensor, height: int, width: int) -> Tensor:
    """Return the first rows and columns of (B, H, W, C)."""
    if torch.compiler.is_compiling():
        # A view would tie the program to sizes for which something is left out.
        return torch.narrow_copy(torch.narrow_copy(x, 1, 0, height), 2, 0, width)
    return x[:, :height, :width]


class SplitWindows(NamedTuple):
    """The windows of a cyclically shifted map that hold patches from both ends of an axis.

    Patches attend to one another only where they were neighbours before the shift, which matters
    in the last row and the last column of windows: E of the G windows of an image.

    Attributes:
        positions: (B, E), among all B * G windows of a batch.
        mask: (E, N, N), 0 or `MASKED_LOGIT`, to add to the attention logits.
    """

    positions: Tensor
    mask: Tensor


def split_windows(
    batch: int, height: int, width: int, window_size: int, shift: int, device: torch.device
) -> SplitWindows:
    """Find the windows that a shift by `shift` patches splits, in (B, H, W) patches.

    H and W are multiples of `window_size`.
    """

    def region(size: int) -> Tensor:
        # 0: windows without wrapped content; 1 and 2: the two parts of the last window.
        i = torch.arange(size, device=device)
        return (i >= size - window_size).long() + (i >= size - shift).long()

    rows, columns = height // window_size, width // window_size
    # The last column, and the rest of the last row; in one piece, which is never empty.
    i = torch.arange(rows + columns - 1, device=device)
    index = torch.where(i < rows, (i + 1) * columns - 1, (rows - 1) * columns + i - rows)
    regions = 3 * region(height)[:, None] + region(width)  # (H, W)
    regions = partition_windows(regions[None, :, :, None], window_size).squeeze(-1)  # (G, N)
    regions = regions[index]
    apart = regions[:, :, None] != regions[:, None, :]
    mask = torch.zeros(apart.shape, device=device).masked_fill_(apart, MASKED_LOGIT)
    first = torch.arange(batch, device=device)[:, None] * (rows * columns)
    return SplitWindows(first + index, mask)


def relative_position_index(window_size: int) -> Tensor:
    """Return the row of the bias table for every two patches of a window, (N, N)."""
    patches = torch.cartesian_prod(torch.arange(window_size), torch.arange(window_size))
    offsets = patches[:, None] - patches + window_size - 1  # (N, N, 2), y and x
    return offsets[..., 0] * (2 * window_size - 1) + offsets[..., 1]


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows, with a learned relative position bias.

    Args:
        dim: channels.
        window_size: side of a window, in patches.
        num_heads: attention heads; divides `dim`.
        qkv_bias: whether the query, key and value projections have a bias.
        qk_scale: factor on the logits; `None` is 1 / sqrt(dim / num_heads).
        attn_drop: dropout probability of attention weights.
        proj_drop: dropout probability after the output projection.
    """

    relative_position_index: Tensor

    def __init__(
        self,
        dim: int,
        window_size: int,
        num_heads: int,
        *,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.scale = qk_scale if qk_scale is not None else (dim // num_heads) ** -0.5
        self.attn_drop = attn_drop
        offsets = 2 * window_size - 1  # along one axis, between two patches of a window
        self.relative_position_bias_table = nn.Parameter(torch.empty(offsets**2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        # Derivable, yet persistent: published checkpoints contain it.
        self.register_buffer("relative_position_index", relative_position_index(window_size))
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, split: SplitWindows | None = None) -> Tensor:
        """Attend within each window.

        Args:
            x: (B * G, N, C), the windows of an image in a row.
            split: the windows that a shift has split.

        Returns:
            (B * G, N, C).
        """
        BG, N, C = x.shape
        qkv = linear(self.qkv, x).view(BG, N, 3, self.num_heads, C // self.num_heads)
        qkv = qkv.permute(2, 0, 3, 1, 4)  # (3, B * G, A, N, C / A)
        bias = self.relative_position_bias_table[self.relative_position_index]  # (N, N, A)
        bias = bias.permute(2, 0, 1)[None]  # (1, A, N, N)
        x = self._attend(qkv, bias)
        if split is not None:
            # A bias for each window is slow, so only these few have one, in a second pass.
            bias = bias + split.mask[:, None]  # (E, A, N, N)
            bias = bias.repeat(split.positions.shape[0], 1, 1, 1)
            positions = split.positions.flatten()
            x = x.index_copy(0, positions, self._attend(qkv[:, positions], bias))
        return self.proj_drop(linear(self.proj, x.transpose(1, 2).reshape(BG, N, C)))

    def _attend(self, qkv: Tensor, bias: Tensor) -> Tensor:
        q, k, v = qkv
        return F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=bias.to(q.dtype),
            dropout_p=self.attn_drop if self.training else 0.0,
            scale=self.scale,
        )


class Mlp(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, dim: int, hidden_dim: int, drop: float = 0.0):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        return self.drop(linear(self.fc2, self.drop(linear(self.fc1, x, "gelu"))))


class SwinBlock(nn.Module):
    """Pre-norm window attention and MLP, each a residual with stochastic depth.

    Args:
        dim, window_size, num_heads, qkv_bias, qk_scale, attn_drop: see `WindowAttention`.
        shift: patches by which the windows are shifted, in [0, window_size).
        mlp_ratio: hidden channels of the MLP, relative to `dim`.
        drop: dropout probability after the projections.
        drop_path: probability that a sample skips a residual branch in training.
    """

    def __init__(
        self,
        dim: int,
        window_size: int,
        num_heads: int,
        shift: int,
        *,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.window_size = window_size
        self.shift = shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(
            dim,
            window_size,
            num_heads,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            attn_drop=attn_drop,
            proj_drop=drop,
        )
        self.drop_path = drop_path
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop)

    def forward(self, x: Tensor, split: SplitWindows, kept: Tensor | None = None) -> Tensor:
        """Map (B, H, W, C) to the same shape.

        Args:
            x: features; padded here to whole windows, and cropped again.
            split: `split_windows` of the padded map; unused where `shift` is 0.
            kept: factors of the two residual branches from `draw_kept`; None is 1.
        """
        attended = self._attend(self.norm1(x), split)
        x = x + (attended if kept is None else attended * kept[:, 0].to(attended.dtype))
        parts = row_parts(x, self.mlp.fc1.out_features)
        watched = self.norm2._forward_hooks or self.norm2._forward_pre_hooks
        if parts is not None and kept is None and not watched:
            x = x.contiguous()
            tokens = x.view(x.shape[0], -1, x.shape[3])
            for part in (tokens[:, rows] for rows in parts):
                part += self.mlp(self.norm2(part))
            return x
        hidden = self.mlp(self.norm2(x))
        return x + (hidden if kept is None else hidden * kept[:, 1].to(hidden.dtype))

    def draw_kept(self, x: Tensor) -> Tensor | None:
        """Draw which samples keep which residual branch (arXiv 1603.09382).

        The caller draws, because a block that is recomputed in the backward pass would draw again.

        Returns:
            (B, 2, 1, 1, 1): 0, or 1 / (1 - `drop_path`); None where every branch is kept.
        """
        if not self.training or self.drop_path == 0:
            return None
        survival = 1 - self.drop_path
        kept = rand([1] * len(x), 2, 1, 1, 1, device=x.device) < survival
        return kept / (survival or 1.0)

    def _attend(self, x: Tensor, split: SplitWindows) -> Tensor:
        H, W = x.shape[1:3]
        # Padding patches take part in the attention, as they did in the published training.
        x = pad_to_multiple(x, self.window_size)
        padded_height, padded_width = x.shape[1:3]
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
        windows = partition_windows(x, self.window_size)
        windows = self.attn(windows, split if self.shift else None)
        x = merge_windows(windows, self.window_size, padded_height, padded_width)
        if self.shift:
            x = x.roll((self.shift, self.shift), dims=(1, 2))
        return cropped(x, H, W)


class PatchMerging(nn.Module):
    """Halve the resolution and double the channels: 2x2 patches become one."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, ceil(H / 2), ceil(W / 2), 2C)."""
        x = pad_to_multiple(x, 2)
        # The weights expect the four patches column by column.
        x = torch.cat(
            [x[:, dy::2, dx::2] for dx in (0, 1) for dy in (0, 1)], dim=-1
        )  # (B, H/2, W/2, 4C)
        return self.reduction(self.norm(x))
