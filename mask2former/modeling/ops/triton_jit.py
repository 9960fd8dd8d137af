"""Triton programs of multi-scale deformable attention. Importing this file needs Triton.

A program serves one head for a block of queries. It walks over the points of its queries, level by
level, and holds its head's channels as the second axis of a tile, so that the loads of a corner are
contiguous. Heads change fastest from program to program: neighbours share the cache lines of
the locations, and the value rows that they read lie side by side.

Shapes:
    B: batch, S: positions of all levels, Q: queries, H: heads, D: channels per head,
    L: levels, P: sampling points per level and head;
    K: queries per program (`BLOCK_Q`), C: channels of its tile (`BLOCK_D`, D rounded up).

All tensors are contiguous. Arithmetic is done in `ACC`, float64 or float32; element offsets are 64
bits wide. Every access is masked by the sizes of the tensors themselves, never by the contents of
`shapes` and `starts` alone, so that wrong metadata on the GPU cannot lead outside a tensor.
"""

# Triton reads annotations as its own.
# mypy: disallow-untyped-defs=False

import triton
import triton.language as tl

# Sizes that change from image to image must not make Triton compile another variant.
_SIZES = ["S", "Q", "H", "L", "P"]


@triton.jit
def _block_of_queries(S, Q, H, BLOCK_Q: tl.constexpr):
    """What this program serves: its head's first row in values, rows (K,), which of them exist."""
    program = tl.program_id(0)
    blocks = tl.cdiv(Q, BLOCK_Q)
    h = program % H
    b = ((program // H) // blocks).to(tl.int64)
    q = ((program // H) % blocks).to(tl.int64) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    return b * S * H + h, (b * Q + q) * H + h, q < Q


@triton.jit
def _load_level(shapes, starts, level):
    """Height, width and first position of a level."""
    return tl.load(shapes + 2 * level), tl.load(shapes + 2 * level + 1), tl.load(starts + level)


@triton.jit
def _load_point(locations, weights, point, in_q, height, width, start, ACC: tl.constexpr):
    """Where a point of each query is, and its attention: (K,) each.

    Returns the distances x and y from the pixel at its top left, the attention, the position of
    that pixel in values, and whether the pixels to the left and right, at the top and at the bottom
    are inside the level. For queries past the end, and for locations that are NaN or so far out
    that no corner is inside, "left" and "right" are false, and the attention is 0.
    """
    x = tl.load(locations + 2 * point, mask=in_q, other=-1.0).to(ACC) * width.to(ACC) - 0.5
    y = tl.load(locations + 2 * point + 1, mask=in_q, other=-1.0).to(ACC) * height.to(ACC) - 0.5
    # Comparisons with NaN are false.
    inside = in_q & (x > -1) & (x < width.to(ACC)) & (y > -1) & (y < height.to(ACC))
    # The conversion of NaN and of large numbers to integers is undefined.
    x = tl.where(inside, x, 0.0)
    y = tl.where(inside, y, 0.0)
    x0 = tl.floor(x)
    y0 = tl.floor(y)
    weight = tl.load(weights + point, mask=inside, other=0.0).to(ACC)
    column = x0.to(tl.int32)
    row = y0.to(tl.int32)
    index = start + row.to(tl.int64) * width + column
    left = inside & (column >= 0)
    right = inside & (column + 1 < width)
    return x - x0, y - y0, weight, index, left, right, row >= 0, row + 1 < height


@triton.jit
def _corner(value, index, valid, S, stride, c, D: tl.constexpr, ACC: tl.constexpr):
    """The values (K, C) at positions `index` (K,) of a batch item, 0 where they are not `valid`.

    Returns them, their offsets (K, C), a mask (K, C) of those that may be accessed, and its rows.
    """
    valid = valid & (index >= 0) & (index < S)
    at = index[:, None] * stride + c[None, :]
    mask = valid[:, None] & (c < D)[None, :]
    return tl.load(value + at, mask=mask, other=0.0).to(ACC), at, mask, valid


@triton.jit(do_not_specialize=_SIZES)
def forward_kernel(
    value,
    shapes,
    starts,
    locations,
    weights,
    output,
    S,
    Q,
    H,
    L,
    P,
    D: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Write the output (B, Q, H, D); B * H * ceil(Q / BLOCK_Q) programs."""
    first, row, in_q = _block_of_queries(S, Q, H, BLOCK_Q)
    c = tl.arange(0, BLOCK_D)
    value += first * D
    stride = H * D

    total = tl.zeros((BLOCK_Q, BLOCK_D), ACC)
    for level in range(L):
        height, width, start = _load_level(shapes, starts, level)
        for p in range(P):
            point = (row * L + level) * P + p
            fx, fy, weight, index, left, right, top, bottom = _load_point(
                locations, weights, point, in_q, height, width, start, ACC
            )
            below = index + width
            v00, _, _, _ = _corner(value, index, left & top, S, stride, c, D, ACC)
            v01, _, _, _ = _corner(value, index + 1, right & top, S, stride, c, D, ACC)
            v10, _, _, _ = _corner(value, below, left & bottom, S, stride, c, D, ACC)
            v11, _, _, _ = _corner(value, below + 1, right & bottom, S, stride, c, D, ACC)
            total += (weight * (1 - fy) * (1 - fx))[:, None] * v00
            total += (weight * (1 - fy) * fx)[:, None] * v01
            total += (weight * fy * (1 - fx))[:, None] * v10
            total += (weight * fy * fx)[:, None] * v11

    mask = in_q[:, None] & (c < D)[None, :]
    tl.store(output + row[:, None] * D + c[None, :], total, mask=mask)


@triton.jit
def _dot(grad, corner, valid):
    """<grad, corner> (K,) over the channels; 0 outside, even if the gradient is infinite."""
    return tl.where(valid, tl.sum(grad * corner, axis=1), 0.0)


@triton.jit
def _add(grad_value, at, mask, weight, grad):
    """Add weight * grad, (K,) and (K, C), to a corner's gradient."""
    # Nobody waits for a sum, so the additions need no fences ("relaxed").
    tl.atomic_add(grad_value + at, weight[:, None] * grad, mask=mask, sem="relaxed")


@triton.jit(do_not_specialize=_SIZES)
def backward_kernel(
    value,
    shapes,
    starts,
    locations,
    weights,
    grad_output,
    grad_value,
    grad_locations,
    grad_weights,
    S,
    Q,
    H,
    L,
    P,
    D: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Add to grad_value (of type ACC), write the other two; programs as in the forward pass."""
    first, row, in_q = _block_of_queries(S, Q, H, BLOCK_Q)
    c = tl.arange(0, BLOCK_D)
    value += first * D
    grad_value += first * D
    stride = H * D

    mask = in_q[:, None] & (c < D)[None, :]
    grad = tl.load(grad_output + row[:, None] * D + c[None, :], mask=mask, other=0.0).to(ACC)
    for level in range(L):
        height, width, start = _load_level(shapes, starts, level)
        for p in range(P):
            point = (row * L + level) * P + p
            fx, fy, weight, index, left, right, top, bottom = _load_point(
                locations, weights, point, in_q, height, width, start, ACC
            )
            gx = 1 - fx
            gy = 1 - fy
            below = index + width
            # All loads come before the additions, which no load may be moved across.
            v00, at00, ok00, in00 = _corner(value, index, left & top, S, stride, c, D, ACC)
            v01, at01, ok01, in01 = _corner(value, index + 1, right & top, S, stride, c, D, ACC)
            v10, at10, ok10, in10 = _corner(value, below, left & bottom, S, stride, c, D, ACC)
            v11, at11, ok11, in11 = _corner(value, below + 1, right & bottom, S, stride, c, D, ACC)
            _add(grad_value, at00, ok00, weight * gy * gx, grad)
            _add(grad_value, at01, ok01, weight * gy * fx, grad)
            _add(grad_value, at10, ok10, weight * fy * gx, grad)
            _add(grad_value, at11, ok11, weight * fy * fx, grad)

            dot00 = _dot(grad, v00, in00)
            dot01 = _dot(grad, v01, in01)
            dot10 = _dot(grad, v10, in10)
            dot11 = _dot(grad, v11, in11)
            grad_x = weight * width.to(ACC) * (gy * (dot01 - dot00) + fy * (dot11 - dot10))
            grad_y = weight * height.to(ACC) * (gx * (dot10 - dot00) + fx * (dot11 - dot01))
            sample = gy * (gx * dot00 + fx * dot01) + fy * (gx * dot10 + fx * dot11)
            tl.store(grad_locations + 2 * point, grad_x, mask=in_q)
            tl.store(grad_locations + 2 * point + 1, grad_y, mask=in_q)
            tl.store(grad_weights + point, sample, mask=in_q)
