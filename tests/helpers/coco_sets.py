"""Made-up instance annotations in COCO's format, and predictions that are wrong in every way."""

import contextlib
import copy
import io

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import BitMasks, Instances
from pycocotools.coco import COCO

METRICS = ["AP", "AP50", "AP75", "APs", "APm", "APl"]


def made_up_annotations(seed: int = 0) -> dict:
    """Blobs in six images, with crowds, an empty image, gaps in ids, a class without objects."""
    rng = np.random.default_rng(seed)
    category_ids = [1, 3, 4, 90]
    images, annotations = [], []
    for i in range(6):
        height, width = int(rng.integers(60, 240)), int(rng.integers(60, 240))
        images.append({"id": 7 + 5 * i, "height": height, "width": width, "file_name": f"{i}.png"})
        y, x = np.mgrid[:height, :width]
        for _ in range(0 if i == 2 else 8):
            cy, cx = rng.uniform(0, height), rng.uniform(0, width)
            ry, rx = np.exp(rng.uniform(np.log(3), np.log(120), 2))
            mask = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
            if not mask.any():
                continue
            rle = encode(mask)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": images[-1]["id"],
                    "category_id": category_ids[rng.integers(3)],
                    "iscrowd": int(rng.uniform() < 0.15),
                    "area": float(mask.sum()),
                    "bbox": mask_util.toBbox(rle).tolist(),
                    "segmentation": rle,
                }
            )
    categories = [{"id": c, "name": f"class{c}"} for c in category_ids]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def encode(mask: np.ndarray) -> dict:
    rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def truth_masks(data: dict) -> dict[int, list[tuple[np.ndarray, dict]]]:
    """Image id -> masks and annotations of its objects."""
    api = COCO()
    api.dataset = copy.deepcopy(data)
    with contextlib.redirect_stdout(io.StringIO()):
        api.createIndex()
    return {
        image["id"]: [
            (api.annToMask(a).astype(bool), a) for a in api.imgToAnns.get(image["id"], [])
        ]
        for image in data["images"]
    }


def perturbed(data: dict, seed: int) -> dict[int, Instances]:
    """Predictions: the truth shifted, missed, repeated, relabelled, with ties in the scores."""
    rng = np.random.default_rng(seed)
    num_classes = len(data["categories"])
    to_index = category_indices(data)
    truth, predictions = truth_masks(data), {}
    for image in data["images"]:
        masks, classes = [], []
        for mask, annotation in truth[image["id"]]:
            for _ in range(rng.integers(0, 4)):
                moved = np.roll(mask, rng.integers(-6, 7, 2), (0, 1))
                masks.append(moved & (rng.uniform() < 0.95))  # a few are empty
                known = rng.uniform() < 0.85
                index = to_index[annotation["category_id"]]
                classes.append(index if known else rng.integers(num_classes))
        scores = np.round(rng.uniform(0, 1, len(masks)), 1)
        predictions[image["id"]] = make_instances(image, masks, classes, scores)
    return predictions


def category_indices(data: dict) -> dict[int, int]:
    """Category id -> class index, by ascending id."""
    return {c: i for i, c in enumerate(sorted(c["id"] for c in data["categories"]))}


def make_instances(image, masks, classes, scores) -> Instances:
    size = (image["height"], image["width"])
    instances = Instances(size)
    stacked = np.stack(masks) if len(masks) else np.zeros((0, *size), bool)
    instances.pred_masks = torch.from_numpy(stacked)
    instances.pred_boxes = BitMasks(instances.pred_masks).get_bounding_boxes()
    instances.scores = torch.tensor(np.asarray(scores), dtype=torch.float32)
    instances.pred_classes = torch.tensor(np.asarray(classes), dtype=torch.int64)
    return instances


def results_of(data, predictions) -> list[dict]:
    """Predictions in COCO's format of results."""
    ids = list(category_indices(data))
    return [
        {
            "image_id": image_id,
            "category_id": ids[int(category)],
            "score": float(score),
            "bbox": [0, 0, 1, 1],  # must not decide between small and large
            "segmentation": encode(mask),
        }
        for image_id, p in predictions.items()
        for mask, category, score in zip(
            p.pred_masks.numpy(), p.pred_classes, p.scores, strict=True
        )
    ]


def evaluate(evaluator, predictions: dict[int, Instances]):
    """Run an evaluator on predictions by image id."""
    evaluator.reset()
    for image_id, instances in predictions.items():
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    return evaluator.evaluate()
