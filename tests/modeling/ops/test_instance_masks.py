"""The compiled kernel of instance masks: what it refuses, and the numbers of its PyTorch form."""

import numpy as np
import pytest
import torch
from cpu_kernel_checks import check_instance_masks, kernel_or_skip

from mask2former.modeling.postprocessing import instance_inference, instance_masks
from mask2former.modeling.query_prediction import QueryPrediction


def test_the_numbers_are_those_of_the_pytorch_form():
    check_instance_masks(150)


def test_a_large_result_does_not_differ_in_any_pixel():
    torch.manual_seed(0)
    logits, queries = torch.randn(5, 200, 267), torch.tensor([4, 0, 4])
    sizes = (800, 1088), (800, 1067), (1500, 2000)
    got = kernel_or_skip("instance_masks", logits)(logits, queries, *sizes)
    wanted = instance_masks(QueryPrediction(torch.empty(0), logits, *sizes[:2]), queries, sizes[2])
    assert torch.equal(got[0], wanted[0]) and torch.equal(got[2], wanted[2])
    torch.testing.assert_close(got[1], wanted[1], rtol=0, atol=1e-6)


def test_the_result_does_not_depend_on_the_number_of_threads():
    torch.manual_seed(0)
    logits, queries = torch.randn(3, 60, 70), torch.tensor([2, 0])
    kernel, threads, found = kernel_or_skip("instance_masks", logits), torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(kernel(logits, queries, (240, 280), (240, 280), (500, 300)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(x, y) for x, y in zip(*found, strict=True))


def test_sizes_may_be_any_integers():
    kernel_or_skip("instance_masks", torch.empty(0))
    prediction = QueryPrediction(
        torch.randn(4, 3), torch.randn(4, 8, 8), (32, 32), torch.Size([30, 31])
    )
    height, width = np.int64(20), np.int64(25)
    result = instance_inference(prediction, (height, width), max_detections=5)
    assert result.pred_masks.shape == (5, 20, 25)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask_logits": torch.zeros(8, 8)}, r"mask_logits must be \(Q, h, w\) with pixels"),
        ({"mask_logits": torch.zeros(2, 0, 8)}, r"mask_logits must be \(Q, h, w\) with pixels"),
        ({"mask_logits": torch.zeros(2, 8, 8, dtype=torch.int32)}, "floating-point"),
        ({"queries": torch.zeros(2)}, "queries must be int64"),
        ({"queries": torch.zeros(2, 1, dtype=torch.long)}, "queries must be int64"),
        ({"padded_size": (0, 32)}, "padded_size must be"),
        ({"image_size": (33, 32)}, "image_size .* is larger than padded_size"),
        ({"output_size": (5, -1)}, "output_size must be"),
        ({"output_size": (5, 2**31)}, "output_size must be"),
    ],
)
def test_wrong_arguments_are_errors(change, message):
    arguments = {
        "mask_logits": torch.zeros(2, 8, 8),
        "queries": torch.tensor([0, 1]),
        "padded_size": (32, 32),
        "image_size": (30, 32),
        "output_size": (20, 20),
    }
    kernel = kernel_or_skip("instance_masks", torch.empty(0))
    kernel(**arguments)
    with pytest.raises(ValueError, match=message):
        kernel(**(arguments | change))
    for number in (-1, 2):
        with pytest.raises(IndexError, match="out of range: there are 2"):
            kernel(**(arguments | {"queries": torch.tensor([0, number])}))
