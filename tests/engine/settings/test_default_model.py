"""The model for a user who names none."""

from pathlib import Path

import pytest

from mask2former import load_config, model_zoo
from mask2former.engine.settings.default_model import choose_model, default_model
from mask2former.tasks import TASKS, tasks_of


@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize("gpu_memory", [0, 6, 11.7, 80])
@pytest.mark.parametrize("cores", [1, 4, 5, 64])
@pytest.mark.parametrize("task", TASKS)
def test_the_model_fits_the_task_and_the_machine(task, cores, gpu_memory, pretrained):
    found = choose_model(task, gpu_memory=gpu_memory, cores=cores, pretrained=pretrained)
    cfg = load_config(model_zoo.get_config_file(found.name))
    assert TASKS[task] in tasks_of(cfg)
    assert task in cfg.INPUT.DATASET_MAPPER_NAME
    if gpu_memory > 11:
        assert cfg.MODEL.RESNETS.DEPTH == 50 and cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM == 256
    else:
        assert cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM < 256
        assert bool(cfg.MODEL.WEIGHTS) == pretrained
        assert ("pip install" in found.why) != pretrained
    if pretrained and gpu_memory < 11:
        is_medium = gpu_memory > 0 or cores > 4
        assert ("medium" in found.name) == is_medium


def test_this_machine_has_a_model():
    name, why = default_model("panoptic")
    assert Path(model_zoo.get_config_file(name)).is_file() and why
