"""Resizing, normalising and padding, against Detectron2's transforms and the model."""

import numpy as np
import pytest
import torch
from detectron2.data.transforms import ResizeShortestEdge, ResizeTransform
from detectron2.structures import ImageList

from mask2former_runtime.metadata import InputSpec
from mask2former_runtime.preprocessing import network_input, network_size

SPEC = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375), "size_divisibility": 32}


@pytest.mark.parametrize(("min_size", "max_size"), [(800, 1333), (128, 128), (640, 2560), (1, 7)])
def test_sizes_are_those_of_detectron2(min_size, max_size):
    rng = np.random.default_rng(0)
    for height, width in rng.integers(1, 5000, (2000, 2)).tolist():
        expected = ResizeShortestEdge.get_output_shape(height, width, min_size, max_size)
        found = network_size(height, width, min_size, max_size)
        assert found == tuple(max(1, side) for side in expected)
    assert network_size(7, 5, 0, 3) == (7, 5)


@pytest.mark.parametrize("size", [(37, 61), (130, 90), (64, 64), (3, 200)])
@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_pixels_are_those_of_the_model(size, order):
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    spec = InputSpec(channel_order=order, min_size=96, max_size=150, **SPEC)
    found, image_size = network_input(image, spec)

    expected_size = network_size(*size, 96, 150)
    ordered = np.ascontiguousarray(image[:, :, ::-1] if order == "RGB" else image)
    resized = ResizeTransform(*size, *expected_size).apply_image(ordered)
    pixels = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
    mean, std = (torch.tensor(SPEC[key]).view(-1, 1, 1) for key in ("mean", "std"))
    batch = ImageList.from_tensors([(pixels - mean) / std], 32)
    assert image_size == tuple(batch.image_sizes[0]) == expected_size
    np.testing.assert_array_equal(found, batch.tensor.numpy())


@pytest.mark.parametrize("size", [(37, 61), (300, 190), (64, 64), (3, 200)])
def test_stored_values_are_those_of_the_model(size):
    """Detectron2 resizes what is not uint8 with PyTorch, without averaging where it shrinks."""
    image = np.random.default_rng(1).normal(0, 100, (*size, 5)).astype(np.float32)
    mean, std = (1.0, -2.0, 3.0, 0.0, 7.0), (10.0, 20.0, 30.0, 40.0, 50.0)
    spec = InputSpec("float32", mean, std, size_divisibility=32, min_size=96, max_size=150)
    found, (height, width) = network_input(image, spec)
    assert (height, width) == network_size(*size, 96, 150)
    resized = ResizeTransform(*size, height, width).apply_image(image)
    expected = (resized - np.float32(mean)) / np.float32(std)
    assert found.shape[1] == 5
    np.testing.assert_allclose(found[0, :, :height, :width], expected.transpose(2, 0, 1), atol=1e-5)
    assert not found[:, :, height:].any() and not found[:, :, :, width:].any()


@pytest.mark.parametrize("size", [(96, 128), (128, 96), (500, 20), (30, 300)])
def test_a_file_of_one_size_gets_the_whole_image(size):
    image = np.full((*size, 3), 255, np.uint8)
    spec = InputSpec(channel_order="RGB", min_size=80, max_size=133, height=96, width=128, **SPEC)
    pixels, (height, width) = network_input(image, spec)
    assert pixels.shape == (1, 3, 96, 128)
    assert height <= 96 and width <= 128
    np.testing.assert_allclose(width / height, size[1] / size[0], rtol=0.5 / min(height, width))
    assert (pixels[:, :, :height, :width] > 2).all()
    assert not pixels[:, :, height:].any() and not pixels[:, :, :, width:].any()
