"""Triton programs of multi-scale deformable attention. Importing this file needs Triton.

A program serves one head for a block of queries. It walks over the points of its queries, level by
level, and holds the channels of a head as the second axis of a tile, so that the loads of a corner
are contiguous. Heads change fastest from program to program: neighbours share the cache lines of
the locations, and the value rows that they read lie side by side.

Shapes:
    B: batch, S: positions of all levels, Q: queries, H: heads, D: channels of a head,
    L: levels, P: sampling points a level and head;
    K: queries of a program (`BLOCK_Q`), C: channels of its tile (`BLOCK_D`, D rounded up).

All tensors are contiguous. Arithmetic is done in `ACC`, float64 or float32; element offsets are 64
bits wide. Every access is masked by the sizes of the tensors themselves, never by the contents of
`shapes` and `starts` alone, so that wrong metadata on the GPU cannot lead out of a tensor.
"""

import triton
import triton.language as tl

# Sizes that change from image to image must not make Triton compile another variant.
_SIZES = ["S", "Q", "H", "L", "P"]


@triton.jit
def _block_of_queries(Q, H, BLOCK_Q: tl.constexpr):
    """What this program serves: batch item b, head h and queries q (K,)."""
    program = tl.program_id(0)
    blocks = tl.cdiv(Q, BLOCK_Q)
    h = program % H
    b = (program // H) // blocks
    q = ((program // H) % blocks).to(tl.int64) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    return b.to(tl.int64), h, q


@triton.jit
def _load_point(locations, weights, point, in_q, height, width, ACC: tl.constexpr):
    """Pixel (x, y) of the top left corner, the distance from it, and the attention: (K,) each.

    `inside` is false for queries past the end and for locations that are NaN or so far out that no
    corner is inside of the level; the other results are 0 for them.
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
    return x0.to(tl.int32), y0.to(tl.int32), x - x0, y - y0, weight, inside


@triton.jit
def _corner(index, valid, S, stride, c, D: tl.constexpr):
    """Where positions `index` (K,) of a batch item are in a tensor of values.

    Returns their offsets (K, C), a mask (K, C) of those that may be accessed, and its rows (K,).
    """
    valid = valid & (index >= 0) & (index < S)
    return index[:, None] * stride + c[None, :], valid[:, None] & (c < D)[None, :], valid


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
    b, h, q = _block_of_queries(Q, H, BLOCK_Q)
    in_q = q < Q
    row = (b * Q + q) * H + h
    c = tl.arange(0, BLOCK_D)
    value += (b * S * H + h) * D
    stride = H * D

    total = tl.zeros((BLOCK_Q, BLOCK_D), ACC)
    for level in range(L):
        height = tl.load(shapes + 2 * level)
        width = tl.load(shapes + 2 * level + 1)
        start = tl.load(starts + level)
        for p in range(P):
            point = (row * L + level) * P + p
            x, y, fx, fy, weight, inside = _load_point(
                locations, weights, point, in_q, height, width, ACC
            )
            index = start + y.to(tl.int64) * width + x
            left = inside & (x >= 0)
            right = inside & (x + 1 < width)
            top = y >= 0
            bottom = y + 1 < height
            at00, ok00, _ = _corner(index, left & top, S, stride, c, D)
            at01, ok01, _ = _corner(index + 1, right & top, S, stride, c, D)
            at10, ok10, _ = _corner(index + width, left & bottom, S, stride, c, D)
            at11, ok11, _ = _corner(index + width + 1, right & bottom, S, stride, c, D)
            v00 = tl.load(value + at00, mask=ok00, other=0.0).to(ACC)
            v01 = tl.load(value + at01, mask=ok01, other=0.0).to(ACC)
            v10 = tl.load(value + at10, mask=ok10, other=0.0).to(ACC)
            v11 = tl.load(value + at11, mask=ok11, other=0.0).to(ACC)
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
    b, h, q = _block_of_queries(Q, H, BLOCK_Q)
    in_q = q < Q
    row = (b * Q + q) * H + h
    c = tl.arange(0, BLOCK_D)
    value += (b * S * H + h) * D
    grad_value += (b * S * H + h) * D
    stride = H * D

    mask = in_q[:, None] & (c < D)[None, :]
    grad = tl.load(grad_output + row[:, None] * D + c[None, :], mask=mask, other=0.0).to(ACC)
    for level in range(L):
        height = tl.load(shapes + 2 * level)
        width = tl.load(shapes + 2 * level + 1)
        start = tl.load(starts + level)
        for p in range(P):
            point = (row * L + level) * P + p
            x, y, fx, fy, weight, inside = _load_point(
                locations, weights, point, in_q, height, width, ACC
            )
            gx = 1 - fx
            gy = 1 - fy
            index = start + y.to(tl.int64) * width + x
            left = inside & (x >= 0)
            right = inside & (x + 1 < width)
            top = y >= 0
            bottom = y + 1 < height
            at00, ok00, in00 = _corner(index, left & top, S, stride, c, D)
            at01, ok01, in01 = _corner(index + 1, right & top, S, stride, c, D)
            at10, ok10, in10 = _corner(index + width, left & bottom, S, stride, c, D)
            at11, ok11, in11 = _corner(index + width + 1, right & bottom, S, stride, c, D)
            # All loads come before the additions, which no load may be moved across.
            v00 = tl.load(value + at00, mask=ok00, other=0.0).to(ACC)
            v01 = tl.load(value + at01, mask=ok01, other=0.0).to(ACC)
            v10 = tl.load(value + at10, mask=ok10, other=0.0).to(ACC)
            v11 = tl.load(value + at11, mask=ok11, other=0.0).to(ACC)
            # Nobody waits for a sum, so the additions need no fences ("relaxed").
            to00 = (weight * gy * gx)[:, None] * grad
            to01 = (weight * gy * fx)[:, None] * grad
            to10 = (weight * fy * gx)[:, None] * grad
            to11 = (weight * fy * fx)[:, None] * grad
            tl.atomic_add(grad_value + at00, to00, mask=ok00, sem="relaxed")
            tl.atomic_add(grad_value + at01, to01, mask=ok01, sem="relaxed")
            tl.atomic_add(grad_value + at10, to10, mask=ok10, sem="relaxed")
            tl.atomic_add(grad_value + at11, to11, mask=ok11, sem="relaxed")

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
