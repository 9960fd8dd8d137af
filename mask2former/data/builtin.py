"""Data sets that are registered by name, in the folder that ``DETECTRON2_DATASETS`` names."""

from __future__ import annotations

import os
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from .coco_json import register_coco_json
from .panoptic_json import register_coco_panoptic
from .semantic_folders import register_semantic_folders
from .synthetic_scenes import STUFF_CLASSES, THING_CLASSES

FOLDER = "synthetic_shapes"
SPLITS = ("train", "val")
# Ids with gaps, as in COCO itself, so that nothing that uses the set can confuse them with
# contiguous ones.
THING_IDS = (1, 2, 3, 5, 8)
STUFF_IDS = (20, 21)


def register_synthetic(root: str | os.PathLike[str]) -> None:
    """Register ``synthetic_shapes_{instance,panoptic,semantic}_{train,val}`` of ``root``.

    Registrations that are already there, such as those made at import, are replaced. The files need
    not exist yet; `mask2former.data.synthetic` writes them.
    """
    folder = Path(root) / FOLDER
    preparation = f"Make it with: python -m mask2former.data.synthetic --output {folder}"
    classes = [*THING_CLASSES, *STUFF_CLASSES]
    for split in SPLITS:
        names = {task: f"{FOLDER}_{task}_{split}" for task in ("instance", "panoptic", "semantic")}
        for name in names.values():
            if name in DatasetCatalog:
                DatasetCatalog.remove(name)
                MetadataCatalog.remove(name)
        instance_json = str(folder / "annotations" / f"instances_{split}.json")
        label_maps = str(folder / f"semantic_{split}")
        register_coco_json(
            names["instance"],
            instance_json,
            str(folder / split),
            categories=dict(zip(THING_IDS, THING_CLASSES, strict=True)),
        )
        register_coco_panoptic(
            names["panoptic"],
            str(folder / "annotations" / f"panoptic_{split}.json"),
            str(folder / f"panoptic_{split}"),
            str(folder / split),
            categories=[
                {"id": i, "name": name, "isthing": i in THING_IDS}
                for i, name in zip((*THING_IDS, *STUFF_IDS), classes, strict=True)
            ],
            sem_seg_root=label_maps,
            json_file=instance_json,
            preparation=preparation,
        )
        register_semantic_folders(
            names["semantic"],
            str(folder / split),
            label_maps,
            classes=classes,
            preparation=preparation,
        )
