"""Made-up panoptic data sets in COCO's format, and predictions with every kind of mistake."""

import copy
import json
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

# Ids have gaps, things and stuff are mixed, the last two never occur.
CATEGORIES = [
    {"id": 1, "name": "cat", "isthing": 1},
    {"id": 3, "name": "grass", "isthing": 0},
    {"id": 4, "name": "dog", "isthing": 1},
    {"id": 9, "name": "sky", "isthing": 0},
    {"id": 90, "name": "unicorn", "isthing": 1},
    {"id": 91, "name": "heaven", "isthing": 0},
]
CONTIGUOUS = {c["id"]: i for i, c in enumerate(CATEGORIES)}
THINGS = {c["id"] for c in CATEGORIES if c["isthing"]}
# The keys of a panoptic evaluator's results.
QUALITIES = [f"{q}{suffix}" for suffix in ("", "_th", "_st") for q in ("PQ", "SQ", "RQ")]


def rgb(ids: np.ndarray) -> np.ndarray:
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


def blobs(rng, height: int, width: int, number: int) -> np.ndarray:
    """Draw a map (H, W) of 0 and the numbers of ellipses that cover each other."""
    y, x = np.mgrid[:height, :width]
    result = np.zeros((height, width), np.int32)
    for i in range(1, number + 1):
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        ry, rx = np.exp(rng.uniform(np.log(4), np.log(40), 2))
        result[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1] = i
    return result


def make_truth(folder: Path, seed: int, images: int = 6) -> dict:
    """Write ground truth with void, crowds, an image without segments; return the JSON's content.

    Segment ids go up to 2**24. A class may have two crowd regions.
    """
    rng = np.random.default_rng(seed)
    (folder / "panoptic").mkdir(parents=True)
    content = {"images": [], "annotations": [], "categories": CATEGORIES}
    for i in range(images):
        height, width = (int(n) for n in rng.integers(40, 100, 2))
        drawn = blobs(rng, height, width, 0 if i == 2 else 12)
        ids = np.zeros_like(drawn)
        segments = []
        used_stuff = set()
        for number in np.unique(drawn[drawn > 0]):
            category = CATEGORIES[rng.integers(4)]
            if not category["isthing"] and category["id"] in used_stuff:
                continue  # void
            used_stuff.add(category["id"])
            segment_id = int(rng.integers(1, 2**24))
            ids[drawn == number] = segment_id
            segments.append(
                {
                    "id": segment_id,
                    "category_id": category["id"],
                    "iscrowd": int(category["isthing"] and rng.uniform() < 0.3),
                    "area": int((drawn == number).sum()),
                    "bbox": [0, 0, width, height],
                }
            )
        image_id, name = 10 + 3 * i, f"{i:03d}"
        Image.fromarray(rgb(ids)).save(folder / "panoptic" / f"{name}.png")
        content["images"].append(
            {"id": image_id, "file_name": f"{name}.jpg", "height": height, "width": width}
        )
        content["annotations"].append(
            {"image_id": image_id, "file_name": f"{name}.png", "segments_info": segments}
        )
    (folder / "panoptic.json").write_text(json.dumps(content))
    return content


def read_ids(path) -> np.ndarray:
    channels = np.asarray(Image.open(path)).astype(np.int64)
    return channels[..., 0] + 256 * channels[..., 1] + 65536 * channels[..., 2]


def make_predictions(folder: Path, content: dict, seed: int) -> dict:
    """Image id -> (map, segments) as a model returns them: shifted, merged, split, relabelled.

    One image has no segment at all.
    """
    rng = np.random.default_rng(seed)
    predictions = {}
    for k, annotation in enumerate(content["annotations"]):
        truth = read_ids(folder / "panoptic" / annotation["file_name"])
        ids = np.zeros(truth.shape, np.int32)
        segments: list[dict] = []

        def add(mask, category_id, ids=ids, segments=segments):
            ids[mask] = len(segments) + 1
            segments.append(
                {
                    "id": len(segments) + 1,
                    "isthing": category_id in THINGS,
                    "category_id": CONTIGUOUS[category_id],
                }
            )

        for segment in annotation["segments_info"] if k != 1 else ():
            mask = np.roll(truth == segment["id"], rng.integers(-2, 3, 2), (0, 1))
            category_id = segment["category_id"]
            what = rng.choice(["keep", "keep", "keep", "lose", "relabel", "split", "grow"])
            if what == "lose":
                continue
            if what == "relabel":
                category_id = int(rng.choice([c["id"] for c in CATEGORIES[:4]]))
            if what == "split":
                half = np.arange(truth.shape[1]) < np.flatnonzero(mask.any(0)).mean()
                add(mask & half, category_id)
                mask &= ~half
            if what == "grow":
                mask |= np.roll(mask, 5, 1) | (truth == 0) & (np.roll(mask, 15, 1))
            add(mask, category_id)
        present = set(np.unique(ids))
        segments = [s for s in segments if s["id"] in present]
        predictions[annotation["image_id"]] = (torch.from_numpy(ids), segments)
    return predictions


def register(name: str, folder: Path, content: dict, *, from_json: bool = True) -> str:
    """Register what `make_truth` wrote, with or without a panoptic JSON in the metadata."""
    records = []
    sizes = {image["id"]: image for image in content["images"]}
    for annotation in content["annotations"]:
        image = sizes[annotation["image_id"]]
        records.append(
            {
                "file_name": str(folder / image["file_name"]),
                "image_id": image["id"],
                "height": image["height"],
                "width": image["width"],
                "pan_seg_file_name": str(folder / "panoptic" / annotation["file_name"]),
                "segments_info": [
                    {
                        **segment,
                        "category_id": CONTIGUOUS[segment["category_id"]],
                        "isthing": segment["category_id"] in THINGS,
                    }
                    for segment in annotation["segments_info"]
                ],
            }
        )
    DatasetCatalog.register(name, lambda: copy.deepcopy(records))
    metadata = MetadataCatalog.get(name)
    metadata.set(
        stuff_classes=[c["name"] for c in CATEGORIES],
        thing_classes=[c["name"] for c in CATEGORIES if c["isthing"]],
        thing_dataset_id_to_contiguous_id={i: CONTIGUOUS[i] for i in sorted(THINGS)},
        stuff_dataset_id_to_contiguous_id=CONTIGUOUS,
        ignore_label=255,
        label_divisor=1000,
        evaluator_type="coco_panoptic_seg",
        json_file=None,
    )
    if from_json:
        metadata.set(
            panoptic_json=str(folder / "panoptic.json"), panoptic_root=str(folder / "panoptic")
        )
    return name


def unregister(name: str) -> None:
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def evaluate(evaluator, predictions: dict, content: dict):
    """Run a panoptic evaluator on predictions by image id."""
    names = {image["id"]: image["file_name"] for image in content["images"]}
    evaluator.reset()
    for image_id, prediction in predictions.items():
        before = copy.deepcopy(prediction[1])
        inputs = [{"image_id": image_id, "file_name": f"somewhere/{names[image_id]}"}]
        evaluator.process(inputs, [{"panoptic_seg": prediction}])
        assert prediction[1] == before  # other evaluators also read it
    return evaluator.evaluate()
