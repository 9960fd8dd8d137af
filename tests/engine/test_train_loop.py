"""What a step of training measures, and how it ends where a number is not finite."""

import pytest
import torch
from detectron2.utils.events import EventStorage

from mask2former.engine import TrainLoop
from mask2former.engine.optimizer import ClippedSGD, Clipping


class Linear(torch.nn.Module):
    """A model whose gradient is the mean of its inputs."""

    def __init__(self):
        super().__init__()
        self.weights = torch.nn.ParameterList([torch.zeros(2), torch.zeros(1)])

    def forward(self, batch):
        weights = torch.cat([*self.weights])
        return {"loss": torch.stack([weights @ x["x"] for x in batch]).mean()}


def run(batches, clipping, *, model, accumulate=1):
    """Train on batches, and return the values of each metric."""
    optimizer = ClippedSGD(model.parameters(), lr=1.0)
    optimizer.clipping = clipping
    loop = TrainLoop(
        model,
        batches,
        optimizer,
        device_type="cpu",
        precision=None,
        accumulate_steps=accumulate,
        seed=0,
    )
    with EventStorage() as storage:
        for loop.iter in range(len(batches) // accumulate):
            loop.run_step()
    return {name: [v for v, _ in h.values()] for name, h in storage.histories().items()}


def batches(*gradients):
    return [[{"x": torch.tensor(gradient)}] for gradient in gradients]


STEPS = batches([3.0, 4.0, 12.0], [0.3, 0.4, 0.0], [2.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("clipping", "clipped"),
    [
        (None, [False, False, False]),
        (Clipping("full_model", 1.0), [True, False, True]),
        (Clipping("full_model", 12.5), [True, False, False]),
        (Clipping("full_model", 0.0), [False, False, False]),
        (Clipping("norm", 12.5), [False, False, False]),
        (Clipping("norm", 4.9), [True, False, False]),
        (Clipping("value", 12.5), [False, False, False]),
        (Clipping("value", 1.9), [True, False, True]),
    ],
)
def test_the_norm_of_the_gradient_before_clipping(clipping, clipped):
    found = run(STEPS, clipping, model=Linear())
    assert found["gradient/norm"] == pytest.approx([13.0, 0.5, 2.0])
    shares = [sum(clipped[: i + 1]) / (i + 1) for i in range(3)]
    assert found["gradient/clipped_steps"] == pytest.approx(shares)


def test_the_norm_is_that_of_the_mean_over_accumulated_batches():
    steps = batches([3.0, 4.0, 12.0], [-3.0, -4.0, -11.0])
    found = run(steps, Clipping("full_model", 1.0), model=Linear(), accumulate=2)
    assert found["gradient/norm"] == pytest.approx([0.5])


class Root(torch.nn.Module):
    """A model whose loss, 0, is finite where its gradient is not."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, batch):
        return {"loss": self.weight.sqrt().sum()}


def test_a_gradient_that_is_not_finite_ends_the_run_before_the_step():
    model = Root()
    with pytest.raises(FloatingPointError, match=r"^iteration 0: the norm .* is inf\. .*: a\.png$"):
        run([[{"file_name": "a.png"}]], Clipping("full_model", 1.0), model=model)
    assert model.weight.item() == 0
