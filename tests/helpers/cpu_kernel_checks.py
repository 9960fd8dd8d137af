"""The compiled CPU kernels against their forms in PyTorch, on random problems.

`test_cpu_kernels.py` calls these in processes of every instruction set.
"""

import random

import pytest
import torch
from torch.nn import functional as F

from mask2former.modeling.ops.cpu_kernels import cpu_kernel
from mask2former.modeling.postprocessing import instance_masks, upsample_masks
from mask2former.modeling.query_prediction import QueryPrediction

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
