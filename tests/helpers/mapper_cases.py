"""Configs and an image with every kind of label map, for the tests of the mapper."""

# ruff: noqa: NPY002  Detectron2 draws from NumPy's global generator.
from itertools import islice

import numpy as np
import torch
from label_files import id_colors, patches, save
from support import QUICKSTART

from mask2former import load_config
from mask2former.data import build_train_loader

HEIGHT, WIDTH = 90, 120
# What the mask_former_* mappers need of a config: everything that they can do.
RECIPE = [
    *("INPUT.MIN_SIZE_TRAIN", (60, 90, 150), "INPUT.MIN_SIZE_TRAIN_SAMPLING", "choice"),
    *("INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [64, 80]),
    *("INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", 0.75, "INPUT.COLOR_AUG_SSD", True),
    *("INPUT.SIZE_DIVISIBILITY", 64, "INPUT.IMAGE_SIZE", 96),
    *("INPUT.MIN_SCALE", 0.1, "INPUT.MAX_SCALE", 2.0),
]
NAMES = ["coco_panoptic_lsj", "mask_former_panoptic", "mask_former_semantic"]
# Segment ids of one, two and three bytes, white included, whose colours differ much (so that mixed
# ones are rarely equal to another); the last is not listed.
IDS = [240, 130, 256 * 150, 64000, 65536 * 180, 9000000, (1 << 24) - 1, 77]


def make_cfg(name, *overrides, sets=(), classes=20):
    head = ["INPUT.DATASET_MAPPER_NAME", name, "DATASETS.TRAIN", sets]
    head += ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", classes]
    return load_config(str(QUICKSTART), [*head, *RECIPE, *overrides])


def run(mapper, record, seed):
    np.random.seed(seed)
    return mapper(record)


def write_record(folder):
    """An image with panoptic segments and the semantic labels of the same things."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    ids = patches(rng, HEIGHT, WIDTH, [*IDS, 0], cell=23)
    classes = {segment_id: 3 * (number % 5) for number, segment_id in enumerate(IDS[:-1])}
    labels = np.full(ids.shape, 255, dtype=np.uint8)
    for segment_id, label in classes.items():
        labels[ids == segment_id] = label
    return {
        "file_name": save(folder / "image.png", pixels),
        "image_id": 5,
        "height": HEIGHT,
        "width": WIDTH,
        "pan_seg_file_name": save(folder / "segments.png", id_colors(ids)),
        "sem_seg_file_name": save(folder / "labels.png", labels),
        "segments_info": [
            {"id": i, "category_id": c, "isthing": c < 7, "iscrowd": int(i == 130)}
            for i, c in classes.items()
        ],
    }


def check_that_the_seed_decides(cfg):
    """Check that workers and resuming change no sample; return six batches of the loader."""

    def batches(workers, start):
        cfg.DATALOADER.NUM_WORKERS = workers
        return list(islice(build_train_loader(cfg, seed=3, start_iter=start), 6 - start))

    whole = batches(0, 0)
    for workers, start in ((2, 0), (0, 3)):
        for ours, theirs in zip(batches(workers, start), whole[start:], strict=True):
            for a, b in zip(ours, theirs, strict=True):
                assert torch.equal(a["image"], b["image"])
                assert torch.equal(a["instances"].gt_masks.tensor, b["instances"].gt_masks.tensor)
    return whole
