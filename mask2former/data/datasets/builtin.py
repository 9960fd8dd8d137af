"""Data sets that are registered by name, in the folder that ``DETECTRON2_DATASETS`` names.

These are the data sets of the published models that Detectron2 does not register itself, with the
names, folders and metadata of the published code, and the synthetic data set. docs/datasets.md
lists them and the files of each.

Another package may register the same names. If it does so before this package is imported, its
data sets stay. If it is imported afterwards, call `unregister_builtin` first, because Detectron2
does not register a name twice.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from ...structures import Classes
from ..files import require
from . import read_classes
from .coco_instances import load_coco_instances, register_coco_json
from .coco_panoptic import load_coco_panoptic, register_coco_panoptic
from .semantic_folders import register_semantic_folders
from .synthetic_shapes import FOLDER, SPLITS, STUFF_CLASSES, STUFF_IDS, THING_CLASSES, THING_IDS

_LONG_SPLITS = {"train": "training", "val": "validation"}
_PREPARE = "Make it with: python -m mask2former.data.preparation"
_COCO_FILES = "COCO's 2017 images and panoptic annotations have it."
_VISTAS_FILES = "Mapillary Vistas 1.2 has it; put its folders into the folder of the data sets."


@dataclass(frozen=True)
class _Builtin:
    """An entry of the DatasetCatalog that this module made; other entries are functions."""

    load: Callable[[], list[dict[str, Any]]]

    def __call__(self) -> list[dict[str, Any]]:
        return self.load()


@dataclass(frozen=True)
class _Replaced:
    """What loads a data set that Detectron2 registered, in place of its own function."""

    load: Callable[[], list[dict[str, Any]]]
    original: Callable[[], list[dict[str, Any]]]

    def __call__(self) -> list[dict[str, Any]]:
        return self.load()


def register_builtin(root: str | os.PathLike[str]) -> None:
    """Register every built-in data set, in folders of `root`, without looking at its files.

    This replaces data sets that an earlier call registered. Data sets that others registered under
    the same names stay.
    """
    root = os.path.expanduser(os.fspath(root))
    _register_ade20k(os.path.join(root, "ADEChallengeData2016"))
    _register_ade20k_full(os.path.join(root, "ADE20K_2021_17_01"))
    _check_coco()
    _register_coco_panoptic(os.path.join(root, "coco"))
    _register_coco_stuff_10k(os.path.join(root, "coco", "coco_stuff_10k"))
    _register_mapillary_vistas(os.path.join(root, "mapillary_vistas"))
    register_synthetic(root)


def unregister_builtin() -> None:
    """Remove the data sets of `register_builtin` from Detectron2's catalogs."""
    for name, load in list(DatasetCatalog.data.items()):
        if isinstance(load, _Builtin):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        elif isinstance(load, _Replaced):
            DatasetCatalog[name] = load.original


def _register(register: Callable[..., None], name: str, *args: Any, **kwargs: Any) -> None:
    """Call ``register(name, ...)`` unless somebody else has registered that name."""
    if name in DatasetCatalog:
        if not isinstance(DatasetCatalog[name], _Builtin):
            return
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    register(name, *args, **kwargs)
    DatasetCatalog[name] = _Builtin(DatasetCatalog[name])


def _register_instances(name: str, json_file: str, image_root: str, **kwargs: Any) -> None:
    """Call `register_coco_json`; loading says how to make files that are missing."""
    preparation = kwargs.pop("preparation")
    register_coco_json(name, json_file, image_root, **kwargs)
    load = DatasetCatalog[name]

    def load_existing() -> list[dict[str, Any]]:
        require(json_file, "file of instance annotations", preparation)
        require(image_root, "folder of images", preparation)
        return load()

    DatasetCatalog[name] = load_existing


def register_synthetic(root: str | os.PathLike[str]) -> None:
    """Register ``synthetic_shapes_{instance,panoptic,semantic}_{train,val}`` in ``root``.

    This replaces existing registrations, such as those made at import. The files need not exist
    yet; `mask2former.data.preparation.synthetic` writes them.
    """
    folder = os.path.join(os.path.expanduser(os.fspath(root)), FOLDER)
    preparation = (
        f"Make it with: python -m mask2former.data.preparation.synthetic --output {folder}"
    )
    classes = [*THING_CLASSES, *STUFF_CLASSES]
    for split in SPLITS:
        images = os.path.join(folder, split)
        instance_json = os.path.join(folder, "annotations", f"instances_{split}.json")
        label_maps = os.path.join(folder, f"semantic_{split}")
        _register(
            _register_instances,
            f"{FOLDER}_instance_{split}",
            instance_json,
            images,
            categories=dict(zip(THING_IDS, THING_CLASSES, strict=True)),
            preparation=preparation,
        )
        _register(
            register_coco_panoptic,
            f"{FOLDER}_panoptic_{split}",
            os.path.join(folder, "annotations", f"panoptic_{split}.json"),
            os.path.join(folder, f"panoptic_{split}"),
            images,
            categories=[
                {"id": i, "name": name, "isthing": i in THING_IDS}
                for i, name in zip((*THING_IDS, *STUFF_IDS), classes, strict=True)
            ],
            sem_seg_root=label_maps,
            json_file=instance_json,
            preparation=preparation,
        )
        _register(
            register_semantic_folders,
            f"{FOLDER}_semantic_{split}",
            images,
            label_maps,
            classes=classes,
            preparation=preparation,
        )


def _register_ade20k(folder: str) -> None:
    """Register ADE20K with 150 classes; Detectron2 registers its semantic set."""
    categories = read_classes("ade20k")
    things = [category for category in categories if category["isthing"]]
    for split, long_split in _LONG_SPLITS.items():
        images = os.path.join(folder, "images", long_split)
        instance_json = os.path.join(folder, f"ade20k_instance_{split}.json")
        _register(
            _register_instances,
            f"ade20k_instance_{split}",
            instance_json,
            images,
            categories={c["id"]: c.get("instance_name", c["name"]) for c in things},
            preparation=f"{_PREPARE} ade20k-instance",
        )
        _register(
            register_coco_panoptic,
            f"ade20k_panoptic_{split}",
            os.path.join(folder, f"ade20k_panoptic_{split}.json"),
            os.path.join(folder, f"ade20k_panoptic_{split}"),
            images,
            categories=categories,
            json_file=instance_json,
            evaluator_type="ade20k_panoptic_seg",
            preparation=f"{_PREPARE} ade20k-panoptic",
        )
        _complete_ade20k_semantic(f"ade20k_sem_seg_{split}", categories)


def _complete_ade20k_semantic(name: str, categories: list[dict[str, Any]]) -> None:
    """Add colours to Detectron2's data set, and a message on how to make the label maps."""
    metadata, load = MetadataCatalog.get(name), DatasetCatalog.data.get(name)
    if metadata.get("stuff_colors") is None:
        metadata.stuff_colors = [category["color"] for category in categories]
    label_maps = metadata.get("sem_seg_root")
    if load is None or label_maps is None or isinstance(load, _Replaced):
        return

    def load_existing() -> list[dict[str, Any]]:
        require(label_maps, "folder of label maps", f"{_PREPARE} ade20k-semantic")
        return load()

    DatasetCatalog[name] = _Replaced(load_existing, load)


def _check_coco() -> None:
    """Let our loaders, which check files, load the COCO data sets that Detectron2 registered."""
    for name, theirs in list(DatasetCatalog.data.items()):
        by_detectron2 = getattr(theirs, "__module__", "").startswith("detectron2.data.datasets.")
        if not (by_detectron2 and name.startswith("coco_2017_")):
            continue
        metadata = MetadataCatalog.get(name)
        classes = Classes.from_metadata(metadata)
        if metadata.evaluator_type == "coco" and classes is not None:
            ours = partial(load_coco_instances, metadata.json_file, metadata.image_root, classes)
        elif name.endswith("_panoptic"):
            ours = partial(
                load_coco_panoptic,
                metadata.panoptic_json,
                metadata.panoptic_root,
                metadata.image_root,
                classes=Classes.from_categories(COCO_CATEGORIES),
                preparation=_COCO_FILES,
            )
        else:
            continue
        DatasetCatalog[name] = _Replaced(ours, theirs)


def _register_ade20k_full(folder: str) -> None:
    """Register ADE20K with 847 classes, whose label maps have 16 bits."""
    classes = read_classes("ade20k_full")
    for split, long_split in _LONG_SPLITS.items():
        _register(
            register_semantic_folders,
            f"ade20k_full_sem_seg_{split}",
            os.path.join(folder, "images_detectron2", long_split),
            os.path.join(folder, "annotations_detectron2", long_split),
            classes=classes,
            ignore_label=65535,
            label_suffixes=(".tif",),
        )


def _register_coco_panoptic(folder: str) -> None:
    """Register COCO panoptic with the label maps made from it.

    Detectron2's ``coco_2017_{train,val}_panoptic`` are the same without label maps.
    """
    for split in SPLITS:
        _register(
            register_coco_panoptic,
            f"coco_2017_{split}_panoptic_with_sem_seg",
            os.path.join(folder, "annotations", f"panoptic_{split}2017.json"),
            os.path.join(folder, f"panoptic_{split}2017"),
            os.path.join(folder, f"{split}2017"),
            categories=COCO_CATEGORIES,
            sem_seg_root=os.path.join(folder, f"panoptic_semseg_{split}2017"),
            json_file=os.path.join(folder, "annotations", f"instances_{split}2017.json"),
            preparation=_COCO_FILES,
        )


def _register_coco_stuff_10k(folder: str) -> None:
    """Register COCO-Stuff 10K, with 171 classes."""
    classes = read_classes("coco_stuff_10k")
    for split in ("train", "test"):
        _register(
            register_semantic_folders,
            f"coco_2017_{split}_stuff_10k_sem_seg",
            os.path.join(folder, "images_detectron2", split),
            os.path.join(folder, "annotations_detectron2", split),
            classes=[category["name"] for category in classes],
            stuff_dataset_id_to_contiguous_id={c["id"]: i for i, c in enumerate(classes)},
        )


def _register_mapillary_vistas(folder: str) -> None:
    """Register Mapillary Vistas 1.2, with 65 classes. The 66th, "Unlabeled", is ignored."""
    categories = read_classes("mapillary_vistas")
    names = [category["name"] for category in categories]
    colors = [category["color"] for category in categories]
    for split, long_split in _LONG_SPLITS.items():
        part = os.path.join(folder, long_split)
        _register(
            register_semantic_folders,
            f"mapillary_vistas_sem_seg_{split}",
            os.path.join(part, "images"),
            os.path.join(part, "labels"),
            classes=names,
            colors=colors,
            ignore_label=65,
            preparation=_VISTAS_FILES,
        )
        _register(
            register_coco_panoptic,
            f"mapillary_vistas_panoptic_{split}",
            os.path.join(part, "panoptic", "panoptic_2018.json"),
            os.path.join(part, "panoptic"),
            os.path.join(part, "images"),
            categories=categories,
            evaluator_type="mapillary_vistas_panoptic_seg",
            ignore_label=65,
            preparation=_VISTAS_FILES,
            # All classes, so that contiguous ids also index the names of things, as Detectron2
            # has it for COCO and Cityscapes.
            thing_classes=names,
            thing_colors=colors,
        )
