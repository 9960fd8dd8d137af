"""`Mask2Former.train` and `evaluate` are those of ``train_net.py``."""

import logging

import numpy as np
import pytest
import torch
from support import QUICKSTART, TINY

from mask2former import Mask2Former
from mask2former.cli.train import main
from mask2former.data import DatasetError


def weights_in(folder) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model_final.pth", weights_only=False)["model"]


@pytest.fixture
def data(datasets):
    return datasets / "synthetic_shapes"


def test_a_run_equals_that_of_the_command(data, tmp_path, capfd):
    options = [*TINY, "TEST.EVAL_PERIOD", 4, "SOLVER.EMA_DECAY", 0.0]
    model = Mask2Former.from_config(QUICKSTART, overrides=options)
    assert "not trained" in repr(model)
    with pytest.raises(ValueError, match="not trained: call train"):
        model.predict(data / "val")
    handlers = list(logging.getLogger("detectron2").handlers)
    results = model.train(data, output=tmp_path / "python")
    assert logging.getLogger("detectron2").handlers == handlers
    flags = ["--config-file", QUICKSTART, "--data", data, *options]
    flags += ["OUTPUT_DIR", tmp_path / "command"]
    main(list(map(str, [*flags, "MODEL.DEVICE", "cpu"])))
    expected = weights_in(tmp_path / "command")
    found = weights_in(tmp_path / "python")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    # The object has become the trained model, and names the classes of the data.
    state = model.network.state_dict()
    assert all(torch.equal(state[name], found[name]) for name in found)
    assert model.names == ["disk", "ring", "rectangle", "triangle", "star"]
    images = model.predict(data / "val", threshold=0)
    assert len(images) == 4
    # Its evaluation is that at the end of training.
    again = model.evaluate(data)
    assert again.keys() == results.keys() == {"bbox", "segm"}
    for task, numbers in results.items():
        np.testing.assert_equal(dict(again[task]), dict(numbers))


def test_training_further_and_its_mistakes(data, tmp_path):
    model = Mask2Former.from_config(QUICKSTART, overrides=TINY)
    model.train(data, output=tmp_path / "one")
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    with pytest.raises(ValueError, match="already holds a training run"):
        model.train(data, output=tmp_path / "one")
    with pytest.raises(ValueError, match="no argument 'train_jsn': did you mean train_json"):
        model.train(output=tmp_path / "two", train_jsn="a.json")
    with pytest.raises(DatasetError, match="nothing_here"):
        model.train(tmp_path / "nothing_here", output=tmp_path / "two")
    results = model.train(
        output=tmp_path / "two",
        train_json=str(data / "annotations/instances_train.json"),
        train_images=str(data / "train"),
        val_json=str(data / "annotations/instances_val.json"),
        val_images=str(data / "val"),
        iterations=2,
        overrides=["SOLVER.BASE_LR", 1e-20, "SOLVER.WEIGHT_DECAY", 0.0, "TEST.EVAL_PERIOD", 2],
    )
    assert "segm" in results
    # With hardly any learning rate, the weights that it started from remain.
    after = model.network.state_dict()
    parameters = dict(model.network.named_parameters())
    assert all((after[name] - before[name]).abs().max() < 1e-18 for name in parameters)
    assert model.cfg.SOLVER.MAX_ITER == 2
