"""Random draws: what the generator is, and what they depend on."""

import numpy as np
import pytest
import torch
from cpu_kernel_checks import kernel_or_skip

from mask2former.modeling import draws
from mask2former.modeling.draws import draws_per_image, rand_many
from mask2former.modeling.ops.cpu_kernels import pytorch_forms

CPU = torch.device("cpu")


def seeded(count, seed=0):
    with draws_per_image([{"seed": seed}], CPU):
        return rand_many([count], device=CPU)


def test_splitmix64_has_its_published_outputs():
    """For the seed 1234567, as in the algorithm's other implementations."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423,
                 4593380528125082431, 16408922859458223821]  # fmt: skip
    assert draws._splitmix64(1234567, 0, 5).tolist() == published
    assert draws._splitmix64(1234567, 3, 2).tolist() == published[3:]


@pytest.mark.parametrize("count", [1, 2, 3, 2**14, 2**14 + 1, 100_001])
def test_the_kernel_draws_the_numbers_of_its_other_form(count):
    kernel_or_skip("uniform_", torch.empty(0))
    found = seeded(count)
    with pytorch_forms():
        assert torch.equal(seeded(count), found)
    with pytorch_forms():
        assert not torch.equal(seeded(count, seed=1), found)


def test_numbers_are_uniform_and_independent():
    """Counts of 16 bins, and of pairs of neighbours in 16 x 16 bins, by their chi-square."""
    numbers = seeded(400_000).double()
    assert numbers.min() >= 0 and numbers.max() < 1
    bins = (numbers * 16).long()
    for cells, number in ((bins, 16), (bins[:-1] * 16 + bins[1:], 256)):
        counts = torch.bincount(cells, minlength=number).double()
        expected = counts.sum() / number
        chi_square = float(((counts - expected) ** 2 / expected).sum())
        degrees = number - 1
        assert abs(chi_square - degrees) < 5 * (2 * degrees) ** 0.5


def test_the_global_generator_draws_as_pytorch():
    torch.manual_seed(3)
    expected = torch.rand(5, 40, 2)
    torch.manual_seed(3)
    assert torch.equal(rand_many([2, 3], 40, 2, device=CPU), expected)


def test_numbers_of_an_image_do_not_depend_on_the_batch():
    seeds = [{"seed": 5}, {"seed": 6}]
    with draws_per_image(seeds, CPU):
        both = [rand_many([3, 2], 50, 2, device=CPU) for _ in range(2)]
    for image, rows in ((0, slice(0, 3)), (1, slice(3, 5))):
        with draws_per_image([seeds[image]], CPU):
            for drawn in both:
                alone = rand_many([len(drawn[rows])], 50, 2, device=CPU)
                assert torch.equal(alone, drawn[rows])
    assert not np.isin(both[0].numpy(), both[1].numpy()).any()


@pytest.mark.parametrize(
    "wrong",
    [torch.empty(4, dtype=torch.float64), torch.empty(4, 4).T, torch.empty(8)[::2]],
    ids=["float64", "transposed", "strided"],
)
def test_the_kernel_refuses_other_tensors(wrong):
    kernel_or_skip("uniform_", wrong)
    before = wrong.fill_(2).clone()
    with pytest.raises(ValueError, match="need a contiguous float32 tensor on the CPU"):
        torch.ops.mask2former.uniform_(wrong, 1)
    assert torch.equal(wrong, before)
