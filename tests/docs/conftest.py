"""The files that the examples of the documentation name."""

from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import BACKBONE_REGISTRY, SEM_SEG_HEADS_REGISTRY
from PIL import Image
from support import QUICKSTART, REPOSITORY, TINY
from tiny_exports import tiny_metadata, write_onnx

from mask2former import load_config
from mask2former.cli import convert_checkpoint
from mask2former.data import register_synthetic
from mask2former.engine import Trainer
from mask2former.engine.setup import save_metadata
from mask2former.modeling import TRANSFORMER_DECODER_REGISTRY


@pytest.fixture(scope="session")
def example_files(datasets, tmp_path_factory) -> Path:
    """A folder with a photograph, a data set of each kind, and the runs of small models."""
    root = tmp_path_factory.mktemp("examples")
    (root / "configs").symlink_to(REPOSITORY / "configs")
    with Image.open(REPOSITORY / "docs/pictures/food.jpg") as picture:
        picture.crop((0, 0, 420, 420)).resize((128, 96)).save(root / "photo.jpg")
    write_onnx(root / "mine.onnx", tiny_metadata())

    shapes = datasets / "synthetic_shapes"
    for split in ("train", "val"):
        (root / f"{split}.json").symlink_to(shapes / f"annotations/instances_{split}.json")
        (root / split).symlink_to(shapes / split)
    (root / "my_data").symlink_to(shapes)
    (root / "rooms.json").symlink_to(shapes / "annotations/panoptic_train.json")
    (root / "rooms_png").symlink_to(shapes / "panoptic_train")
    (root / "images").symlink_to(shapes / "train")
    (root / "labels").symlink_to(shapes / "semantic_train")

    register_synthetic(datasets)
    for name in ("quickstart/instance", "mine"):
        output = root / "output" / name
        cfg = load_config(str(QUICKSTART), [*TINY, "OUTPUT_DIR", str(output)])
        trainer = Trainer(cfg)
        trainer.train()
        save_metadata(cfg)
        (output / "config.yaml").write_text(cfg.dump())
    convert_checkpoint.main(
        [
            *("--from", "d2", str(output / "model_final.pth")),
            *("--to", "hf", str(root / "my-model")),
        ]
    )
    return root


@pytest.fixture
def registries():
    """Whatever an example registers is gone afterwards."""
    holders = [DatasetCatalog, MetadataCatalog]
    registries = [BACKBONE_REGISTRY, SEM_SEG_HEADS_REGISTRY, TRANSFORMER_DECODER_REGISTRY]
    data = [dict(holder.data) for holder in holders]
    objects = [dict(registry._obj_map) for registry in registries]
    yield
    for holder, saved in zip(holders, data, strict=True):
        holder.data = saved
    for registry, saved in zip(registries, objects, strict=True):
        registry._obj_map = saved
