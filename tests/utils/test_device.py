import pytest
import torch

from mask2former.utils.device import bfloat16_speed, check_device, has_fast_bfloat16


def test_a_missing_gpu_is_reported_with_what_to_do():
    check_device("cpu")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ValueError, match=r"MODEL\.DEVICE cpu"):
        check_device("cuda")


@pytest.mark.parametrize("name", ["gpu", "cpu:7", "cuda:99", ""])
def test_a_device_that_does_not_exist_is_named(name):
    with pytest.raises(ValueError, match=f"MODEL.DEVICE is '{name}'"):
        check_device(name)


@pytest.mark.skipif(not has_fast_bfloat16(), reason="the CPU has no instructions for bfloat16")
def test_instructions_for_bfloat16_are_faster():
    assert 1 < bfloat16_speed() < 50
