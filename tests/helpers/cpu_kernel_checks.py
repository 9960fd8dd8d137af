"""The compiled CPU kernels against their forms in PyTorch, on random problems.

`test_cpu_kernels.py` calls these in processes of every instruction set.
"""

import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mask2former.modeling.fused import residual_norm
from mask2former.modeling.losses import (
    dice_loss,
    mask_losses,
    pairwise_dice,
    pairwise_mask_losses,
    pairwise_sigmoid_ce,
    sigmoid_ce_loss,
)
from mask2former.modeling.ops import ms_deform_attn_projected
from mask2former.modeling.ops.cpu_kernels import cpu_kernel, pytorch_forms
from mask2former.modeling.postprocessing import instance_masks, upsample_masks
from mask2former.modeling.query_prediction import QueryPrediction
from mask2former.structures import PackedMasks

ODD = [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 0.0, -0.0, 1e-40]


def kernel_or_skip(name, *tensors):
    kernel = cpu_kernel(name, *tensors)
    if kernel is None:
        pytest.skip("not compiled")
    return kernel


def in_other_memory(tensor, rng):
    """Return the same numbers with other strides or another offset."""
    way = rng.randrange(4)
    if way == 0:
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    if way == 1:
        return torch.stack([tensor, tensor], dim=-1)[..., 0]
    if way == 2:
        return torch.cat([tensor.flatten()[:1], tensor.flatten()])[1:].view(tensor.shape)
    return tensor


def random_logits(rng, count, height, width):
    """Noise, blobs or mostly empty masks, some with odd numbers."""
    kind = rng.choice(["noise", "blobs", "rare", "none"])
    logits = torch.randn(count, height, width) * 3
    if kind == "blobs":
        coarse = torch.randn(count, 1, 3, 3) * 4 - 2
        logits = F.interpolate(coarse, size=(height, width), mode="bicubic")[:, 0]
    elif kind != "noise":
        logits = -logits.abs() - 0.1
        if kind == "rare":
            places = torch.rand(logits.shape) < 0.002
            logits[places] = 5.0
    if rng.random() < 0.3:
        places = torch.rand(logits.shape) < 0.01
        logits[places] = torch.tensor(rng.choices(ODD, k=int(places.sum())))
    return logits


def check_instance_masks(count, seed=0):
    """Compare masks, scores and boxes of `count` problems."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    differing = pixels = 0
    for _ in range(count):
        small = rng.random() < 0.3
        height, width = (rng.randint(1, 5 if small else 90) for _ in range(2))
        padded = tuple(rng.choice([4 * n, n, rng.randint(1, 400)]) for n in (height, width))
        image = tuple(rng.choice([n, rng.randint(1, n)]) for n in padded)
        output = rng.choice([image, tuple(rng.choice([n, rng.randint(1, 500)]) for n in image)])
        logits = random_logits(rng, rng.randint(1, 6), height, width)
        logits = logits.to(
            rng.choice([torch.float32, torch.float32, torch.bfloat16, torch.float16, torch.float64])
        )
        queries = torch.tensor(
            rng.choices(range(len(logits)), k=rng.randint(0, 7)), dtype=torch.long
        )
        kernel = kernel_or_skip("instance_masks", logits, queries)
        prediction = QueryPrediction(torch.empty(0), logits, padded, image)
        wanted = instance_masks(prediction, queries, output)
        got = kernel(in_other_memory(logits, rng), queries, padded, image, output)
        for x, y in zip(got, wanted, strict=True):
            assert x.dtype == y.dtype and x.shape == y.shape and x.is_contiguous()
        masks, scores, boxes = got
        case = (tuple(logits.shape), padded, image, output, logits.dtype)
        differs = masks != wanted[0]
        differing, pixels = differing + int(differs.sum()), pixels + differs.numel()
        if differs.any():  # PyTorch has another kernel for small results, which rounds otherwise
            assert min(sum(padded), sum(output)) <= 128, case
            values = upsample_masks(logits[queries], prediction, output)
            largest = logits[logits.isfinite()].abs().max()
            assert values[differs].abs().max() <= 1e-6 * largest, case
            continue
        assert torch.equal(boxes, wanted[2]), case
        torch.testing.assert_close(scores, wanted[1], rtol=1e-5, atol=1e-6, msg=str(case))
    assert differing <= 1e-5 * pixels, (differing, pixels)


def random_points(rng, *shape):
    """Points in the image, some of them on borders and centres of pixels or a little outside."""
    points = torch.rand(*shape, 2)
    if rng.random() < 0.5:
        points = (points * 8).round() / 8
    return points * 1.1 - 0.05 if rng.random() < 0.3 else points


def check_samples_of_maps(count, seed=0):
    """Compare samples of maps, their gradients, and the choice of points."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    for _ in range(count):
        Q, N, P = rng.randint(1, 5), rng.randint(0, 6), rng.choice([0, 1, 5, 16, 33, 200])
        dtype = rng.choice([torch.float32, torch.bfloat16, torch.float16, torch.float64])
        maps = torch.randn(Q, rng.randint(1, 40), rng.randint(1, 40)).to(dtype)
        of = torch.tensor(rng.choices(range(Q), k=N), dtype=torch.long)
        points = random_points(rng, N, P)
        kernel = kernel_or_skip("sample_maps", maps, points)
        given = in_other_memory(maps, rng), of, in_other_memory(points, rng)
        wanted_maps = maps.float().requires_grad_()
        grid = 2 * points[:, :, None] - 1
        wanted = F.grid_sample(wanted_maps[of][:, None], grid, align_corners=False)[:, 0, :, 0]
        # a coordinate is rounded to some 1e-7 of the size
        close = {"rtol": 0, "atol": 2e-6 * max(maps.shape), "check_dtype": False}
        torch.testing.assert_close(kernel(*given), wanted.detach(), **close)
        grad = torch.randn(N, P)
        wanted.backward(grad)
        got = torch.ops.mask2former.sample_maps_backward(in_other_memory(grad, rng), *given)
        assert got.dtype == dtype
        rounding = {torch.bfloat16: 1e-2, torch.float16: 1e-3}.get(dtype, 0)
        torch.testing.assert_close(
            got, wanted_maps.grad, **(close | {"rtol": rounding, "atol": 3e-4})
        )
        shared = random_points(rng, P)
        wanted = kernel(maps, of, shared.expand(N, -1, -1))
        assert torch.equal(kernel(maps, of, shared), wanted)

        chosen = torch.ops.mask2former.points_nearest_zero(*given, P // 3)
        assert chosen.shape == (N, P // 3, 2)
        distances = kernel(maps, of, points).abs()
        nearest = distances.topk(P // 3, dim=1, largest=False).values
        assert torch.equal(kernel(maps, of, chosen).abs().sort(1).values, nearest)


def check_samples_of_bits(count, seed=0):
    """Compare samples of packed masks of `count` problems."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    for _ in range(count):
        masks = torch.rand(rng.randint(1, 20), rng.randint(1, 40), rng.randint(1, 40)) < 0.5
        packed = PackedMasks.from_tensor(masks)
        if rng.random() < 0.5:
            packed = packed.pad(*(n + rng.randint(0, 9) for n in masks.shape[1:]))
        N, P = rng.randint(0, 30), rng.choice([0, 1, 16, 100])
        of = torch.tensor(rng.choices(range(len(masks)), k=N), dtype=torch.long)
        kernel = kernel_or_skip("sample_packed_masks", packed.planes)
        close = {"rtol": 0, "atol": 1e-6 * max(packed.image_size)}
        for points in (random_points(rng, N, P), random_points(rng, P)):
            got = kernel(
                packed.planes, len(packed), of, in_other_memory(points, rng), packed.image_size
            )
            assert got.is_contiguous()
            torch.testing.assert_close(got, packed.sample(points, of), **close)


def check_mask_losses(count, seed=0):
    """Compare the losses, their gradients and the matching costs of `count` problems."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    kernel_or_skip("mask_loss_sums")
    for _ in range(count):
        N, Q, P = rng.randint(1, 5), rng.randint(1, 5), rng.choice([1, 7, 16, 100, 1000, 1025])
        scale = rng.choice([0.1, 3.0, 200.0])
        logits, targets = torch.randn(N, P) * scale, torch.rand(N, P)
        targets = targets.round() if rng.random() < 0.5 else targets
        found = []
        for losses in (mask_losses, pytorch_losses):
            x = in_other_memory(logits, rng).detach().requires_grad_()
            result = losses(x, in_other_memory(targets, rng), 3.0)
            (gradient,) = torch.autograd.grad(result[0] * 5 + result[1] * 2, x)
            found.append((*(loss.detach() for loss in result), gradient))
        for got, wanted in zip(*found, strict=True):
            torch.testing.assert_close(got, wanted, rtol=2e-6, atol=2e-7)
        logits = torch.randn(Q, P) * scale
        exact = logits.double(), targets.double()
        wanted = pairwise_sigmoid_ce(*exact), pairwise_dice(*exact)
        for got, want in zip(pairwise_mask_losses(logits, targets), wanted, strict=True):
            torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)


def pytorch_losses(logits, targets, num_masks):
    return sigmoid_ce_loss(logits, targets, num_masks), dice_loss(logits, targets, num_masks)


def check_upsample_add(count, seed=0):
    """Compare feature maps of `count` problems."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    for _ in range(count):
        B, C = rng.randint(1, 2), rng.choice([1, 3, 16, 33, 64, 100])
        size, above_size = ((rng.randint(1, 40), rng.randint(1, 80)) for _ in range(2))
        if rng.random() < 0.5:
            size = (2 * above_size[0], 2 * above_size[1])
        dtype = rng.choice([torch.float32, torch.float32, torch.bfloat16, torch.float16])
        lateral, above = torch.randn(B, C, *size), torch.randn(B, C, *above_size)
        if rng.random() < 0.2:
            above.view(-1)[rng.randrange(above.numel())] = rng.choice(ODD)
        lateral, above = lateral.to(dtype), above.to(dtype)
        wanted = lateral.float() + F.interpolate(
            above.float(), size=size, mode="bilinear", align_corners=False
        )
        memory = rng.choice([torch.contiguous_format, torch.channels_last])
        given = lateral.clone(memory_format=memory)
        kernel = kernel_or_skip("upsample_add_", given, above)
        got = kernel(given, in_other_memory(above, rng))
        assert got.data_ptr() == given.data_ptr() and got.dtype == dtype
        assert got.stride() == given.stride()
        close = {torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]
        torch.testing.assert_close(
            got.float(), wanted.to(dtype).float(), rtol=close, atol=4 * close, equal_nan=True
        )


def check_projected_attention(count, seed=0):
    """Compare attention by projections of `count` problems, in float32 of the same numbers."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    for _ in range(count):
        levels = [(rng.randint(1, 6), rng.randint(1, 6)) for _ in range(rng.randint(1, 4))]
        B, Q, H, P = (rng.randint(1, most) for most in (3, 100, 9, 7))
        D = rng.choice([1, 8, 16, 32, 50])
        dtype = rng.choice([torch.float32, torch.float32, torch.bfloat16, torch.float16])
        projected = torch.randn(B, Q, H * len(levels) * P * 3) * rng.choice([0.1, 1.0, 30.0])
        if rng.random() < 0.3:
            projected[0, rng.randrange(Q), rng.randrange(projected.shape[2])] = rng.choice(ODD)
        projected = projected.to(rng.choice([dtype, torch.float32]))
        value = torch.randn(B, sum(h * w for h, w in levels), H, D).to(dtype)
        references = torch.rand(Q, 2)
        given = [in_other_memory(x, rng) for x in (value, references, projected)]
        kernel_or_skip("ms_deform_attn_projected", *given)
        got = ms_deform_attn_projected(given[0], levels, *given[1:])
        assert got.dtype == dtype
        with pytorch_forms():
            wanted = ms_deform_attn_projected(
                value.float(), levels, references, projected.float()
            ).to(dtype)
        close = {torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]
        torch.testing.assert_close(
            got.float(), wanted.float(), rtol=close, atol=10 * close, equal_nan=True
        )


@torch.no_grad()
def check_residual_norm(count, seed=0):
    """Compare normalised sums of `count` problems with those in float64."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    for _ in range(count):
        B, S, C = rng.randint(1, 3), rng.randint(1, 40), rng.choice([1, 3, 16, 33, 96, 256, 1000])
        dtype = rng.choice([torch.float32, torch.float32, torch.bfloat16, torch.float16])
        x = torch.randn(B, S + 2, C) * rng.choice([1e-3, 1.0, 100.0]) + rng.choice([0.0, 10.0])
        branch = torch.randn(B, S, C).to(dtype)
        if rng.random() < 0.2:  # of 1e30, a square is infinite in float32
            odd = [number for number in ODD if abs(number) != 1e30]
            branch.view(-1)[rng.randrange(branch.numel())] = rng.choice(odd)
        x = x.to(rng.choice([dtype, torch.float32]))[:, 1:-1]
        norm = nn.LayerNorm(C)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        kernel_or_skip("residual_norm", x, branch)
        sums, parameters = x.double() + branch.double(), (norm.weight.double(), norm.bias.double())
        wanted = F.layer_norm(sums, (C,), *parameters, norm.eps).to(x.dtype)
        # A mean much larger than the deviation cancels in float32.
        deviation = (sums.var(-1, correction=0, keepdim=True) + norm.eps).sqrt()
        scale = 1 + sums.abs().amax(-1, keepdim=True) / deviation
        close = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}[x.dtype]
        got = residual_norm(norm, x, in_other_memory(branch, rng))
        assert got.dtype == x.dtype
        for found in (got, residual_norm(norm, x, branch, out=x)):
            torch.testing.assert_close(
                found / scale, wanted / scale, rtol=close, atol=close, equal_nan=True
            )
        torch.testing.assert_close(x, got, rtol=0, atol=0, equal_nan=True)
