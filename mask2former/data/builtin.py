"""Data sets that are registered by name, in the folder that ``DETECTRON2_DATASETS`` names."""

from __future__ import annotations

import os
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from .coco_json import register_coco_json
from .synthetic_scenes import THING_CLASSES

FOLDER = "synthetic_shapes"
SPLITS = ("train", "val")
# Ids with gaps, as in COCO itself, so that nothing that uses the set can confuse them with
# contiguous ones.
THING_IDS = (1, 2, 3, 5, 8)


def register_synthetic(root: str | os.PathLike[str]) -> None:
    """Register ``synthetic_shapes_instance_{train,val}`` of ``root/synthetic_shapes``.

    A registration that is already there, such as the one made at import, is replaced. The files
    need not exist yet; `mask2former.data.synthetic` writes them.
    """
    folder = Path(root) / FOLDER
    for split in SPLITS:
        name = f"{FOLDER}_instance_{split}"
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        register_coco_json(
            name,
            str(folder / "annotations" / f"instances_{split}.json"),
            str(folder / split),
            categories=dict(zip(THING_IDS, THING_CLASSES, strict=True)),
        )
