"""The schedule, mapper, loss and layers of each published config, in one step of a small model."""

import pytest
from support import TINY

from mask2former import load_config, model_zoo
from mask2former.engine import Trainer
from mask2former.tasks import TASKS


@pytest.mark.parametrize("name", model_zoo.model_names())
def test_a_step_of_every_published_config(name, shapes, tmp_path):
    published = model_zoo.get_config(name)
    mapper = published.INPUT.DATASET_MAPPER_NAME
    task = next(task for task in TASKS if task in mapper)
    classes = {"instance": 5}.get(task, 7)
    overrides = [
        *TINY,
        *("MODEL.RESNETS.DEPTH", published.MODEL.RESNETS.DEPTH, "MODEL.WEIGHTS", ""),
        *("MODEL.SWIN.EMBED_DIM", 16, "MODEL.SWIN.DEPTHS", (1, 1, 1, 1)),
        *("MODEL.SWIN.NUM_HEADS", (1, 2, 4, 8), "MODEL.DEVICE", "cpu"),
        *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", classes, "SOLVER.MAX_ITER", 1),
        *("DATASETS.TRAIN", (f"synthetic_shapes_{task}_train",), "DATASETS.TEST", ()),
        *("INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.CROP.SIZE", (64, 64), "OUTPUT_DIR", str(tmp_path)),
    ]
    if published.INPUT.SIZE_DIVISIBILITY > 0:
        overrides += ["INPUT.SIZE_DIVISIBILITY", 64]
    if published.MODEL.SEM_SEG_HEAD.NAME == "PerPixelBaselinePlusHead":  # a query per class
        overrides += ["MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", classes]
    trainer = Trainer(load_config(model_zoo.get_config_file(name), overrides))
    trainer.resume_or_load(resume=False)
    trainer.train()
    latest = trainer.storage.latest()
    assert 0 < latest["total_loss"][0] < 1e4
    assert (tmp_path / "model_final.pth").is_file()
