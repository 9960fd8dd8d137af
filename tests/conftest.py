"""What several test modules need: a data set on disk and a model that trains in seconds."""

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode

from mask2former import load_config
from mask2former.data import register_synthetic
from mask2former.data.synthetic import generate

REPOSITORY = Path(__file__).parents[1]
QUICKSTART = REPOSITORY / "configs/quickstart/instance.yaml"
TINY = [
    *("MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.WIDTH_PER_GROUP", 4),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 16, "MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
    *("MODEL.SEM_SEG_HEAD.CONVS_DIM", 32, "MODEL.SEM_SEG_HEAD.MASK_DIM", 32),
    *("MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 1),
    *("MODEL.MASK_FORMER.HIDDEN_DIM", 32, "MODEL.MASK_FORMER.DEC_LAYERS", 3),
    *("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 10, "MODEL.MASK_FORMER.TRAIN_NUM_POINTS", 256),
    *("INPUT.IMAGE_SIZE", 64, "INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 64),
    *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 4, "TEST.EVAL_PERIOD", 0, "SEED", 1),
    *("DATALOADER.NUM_WORKERS", 0, "SOLVER.WARMUP_ITERS", 0, "SOLVER.CHECKPOINT_PERIOD", 1000),
]


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """The synthetic data set, 12 images to train on and 4 to validate, registered by name."""
    root = tmp_path_factory.mktemp("datasets")
    generate(root / "synthetic_shapes", train=12, val=4, size=64, seed=0, progress=False)
    register_synthetic(root)
    return root / "synthetic_shapes"


@pytest.fixture
def tiny_cfg(shapes, tmp_path) -> CfgNode:
    """The quickstart's config with everything smaller still."""
    torch.manual_seed(0)
    return load_config(str(QUICKSTART), [*TINY, "OUTPUT_DIR", str(tmp_path / "run")])
