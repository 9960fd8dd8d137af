"""Registering semantic data sets: a folder of images and a folder of label maps."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from mask2former_runtime.image import IMAGE_SUFFIXES
from mask2former_runtime.text import some_of

from ..errors import DatasetError
from ..files import files_by_stem, require
from ..label_maps import LABEL_SUFFIXES


def register_semantic_folders(
    name: str,
    image_root: str,
    sem_seg_root: str,
    *,
    classes: Sequence[str],
    colors: Sequence[Sequence[int]] | None = None,
    ignore_label: int = 255,
    evaluator_type: str = "sem_seg",
    image_suffixes: Sequence[str] = IMAGE_SUFFIXES,
    label_suffixes: Sequence[str] = LABEL_SUFFIXES,
    preparation: str = "",
    **metadata: Any,
) -> None:
    """Register a semantic data set under `name`. Files are read only when it is loaded.

    An image and its label map have the same path relative to their folders, apart from the suffix;
    subfolders are searched.

    Args:
        name: name for ``cfg.DATASETS``.
        image_root: folder of the images.
        sem_seg_root: folder of the label maps, with one channel of 8 or 16 bits, whose values are
            contiguous class ids and `ignore_label`.
        classes: class names in the order of their ids.
        colors: RGB of each class, 0..255.
        ignore_label: label of pixels without a class.
        evaluator_type: the kind of evaluator; see `mask2former.evaluation.build_evaluator`.
        image_suffixes: possible ends of the names of images, in upper or lower case, such as
            "_leftImg8bit.png". Other files are not images of the data set.
        label_suffixes: possible ends of the names of label maps.
        preparation: a sentence that says how to make the files, for messages about missing ones.
        metadata: further entries of the ``MetadataCatalog``.

    Raises:
        ValueError: the numbers of colours and of classes differ.
    """
    if colors is not None and len(colors) != len(classes):
        raise ValueError(f"data set {name}: {len(colors)} colours for {len(classes)} classes")
    DatasetCatalog.register(
        name,
        lambda: load_semantic_folders(
            image_root,
            sem_seg_root,
            image_suffixes=image_suffixes,
            label_suffixes=label_suffixes,
            preparation=preparation,
        ),
    )
    if colors is not None:
        metadata = {"stuff_colors": [list(color) for color in colors], **metadata}
    MetadataCatalog.get(name).set(
        image_root=image_root,
        sem_seg_root=sem_seg_root,
        evaluator_type=evaluator_type,
        ignore_label=ignore_label,
        stuff_classes=list(classes),
        **metadata,
    )


def load_semantic_folders(
    image_root: str,
    sem_seg_root: str,
    *,
    image_suffixes: Sequence[str] = IMAGE_SUFFIXES,
    label_suffixes: Sequence[str] = LABEL_SUFFIXES,
    preparation: str = "",
) -> list[dict[str, Any]]:
    """Pair images with label maps; for the arguments see `register_semantic_folders`.

    Returns:
        Detectron2's dataset dicts, sorted by ``image_id``, which is the path of the image relative
        to its folder, without suffix. They have no height and width, because no image is opened.

    Raises:
        DatasetError: a folder is missing or empty, or an image or a label map has no counterpart.
    """
    require(image_root, "folder of images", preparation)
    require(sem_seg_root, "folder of label maps", preparation)
    images = _by_stem(image_root, image_suffixes, "images")
    labels = _by_stem(sem_seg_root, label_suffixes, "label maps")
    problems = []
    for found, others, what, other, other_root in (
        (images, labels, "images", "label map", sem_seg_root),
        (labels, images, "label maps", "image", image_root),
    ):
        lonely = sorted(found[stem] for stem in found.keys() - others.keys())
        if lonely:
            problems.append(
                f"{len(lonely)} of {len(found)} {what} have no {other} in {other_root}: "
                f"{some_of(lonely)}"
            )
    if problems:
        raise DatasetError("; ".join([*problems, preparation]).rstrip("; "))
    return [
        {"file_name": images[stem], "sem_seg_file_name": labels[stem], "image_id": stem}
        for stem in sorted(images)
    ]


def _by_stem(root: str, suffixes: Sequence[str], what: str) -> dict[str, str]:
    """Return the path of each file, by its path relative to `root` without the suffix."""
    found, twins = files_by_stem(root, suffixes)
    if twins:
        one, other = (os.path.join(root, name) for name in twins[0])
        raise DatasetError(f"{one} and {other}: two {what} of the same name.")
    if not found:
        raise DatasetError(f"{root}: there are no {what} ({', '.join(suffixes)}) in this folder.")
    return {stem: os.path.join(root, name) for stem, name in found.items()}
