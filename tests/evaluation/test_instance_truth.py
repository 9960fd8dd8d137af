"""AP on panoptic data sets, whose ids and classes follow various conventions."""

import contextlib
import copy
import io
import json
import logging

import numpy as np
import panoptic_sets
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from panoptic_sets import CATEGORIES, CONTIGUOUS, THINGS, read_ids
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mask2former.evaluation import COCOInstanceEvaluator

NAME = "test_panoptic_instances"


@pytest.fixture
def content(tmp_path):
    content = panoptic_sets.make_truth(tmp_path, 0)
    panoptic_sets.register(NAME, tmp_path, content)
    yield content
    panoptic_sets.unregister(NAME)


def encode(mask) -> dict:
    rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def make_predictions(folder, content) -> dict[int, Instances]:
    """Predict the segments, including stuff, slightly shifted and some with wrong classes."""
    rng = np.random.default_rng(0)
    predictions = {}
    for annotation in content["annotations"]:
        ids = read_ids(folder / "panoptic" / annotation["file_name"])
        masks, classes = [], []
        for s in annotation["segments_info"]:
            masks.append(np.roll(ids == s["id"], rng.integers(-1, 2, 2), (0, 1)))
            category = s["category_id"] if rng.uniform() < 0.8 else rng.choice([1, 4, 9])
            classes.append(CONTIGUOUS[int(category)])
        instances = Instances(ids.shape)
        stacked = np.stack(masks) if masks else np.zeros((0, *ids.shape), bool)
        instances.pred_masks = torch.from_numpy(stacked)
        instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
        # Many scores are equal, so the order of images decides.
        instances.scores = torch.from_numpy(rng.uniform(size=len(masks)).round(1))
        predictions[annotation["image_id"]] = instances
    return predictions


def instance_json(folder, content, number=lambda image_id: image_id) -> dict:
    """Make COCO annotations of the things, mask by mask."""
    annotations = []
    for annotation in content["annotations"]:
        ids = read_ids(folder / "panoptic" / annotation["file_name"])
        for s in annotation["segments_info"]:
            if s["category_id"] in THINGS:
                rle = encode(ids == s["id"])
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number(annotation["image_id"]),
                        "category_id": s["category_id"],
                        "iscrowd": s["iscrowd"],
                        "area": int((ids == s["id"]).sum()),
                        "bbox": mask_util.toBbox(rle).tolist(),
                        "segmentation": rle,
                    }
                )
    return {
        "images": [image | {"id": number(image["id"])} for image in content["images"]],
        "annotations": annotations,
        "categories": [c for c in CATEGORIES if c["isthing"]],
    }


def pycocotools_ap(truth: dict, predictions: dict, task: str) -> np.ndarray:
    results = []
    for image_id, instances in predictions.items():
        for k in range(len(instances)):
            category_id = CATEGORIES[int(instances.pred_classes[k])]["id"]
            if category_id in THINGS:
                rle = encode(instances.pred_masks[k].numpy())
                box = {"bbox": mask_util.toBbox(rle).tolist()} if task == "bbox" else {}
                results.append(
                    {
                        "image_id": image_id,
                        "category_id": category_id,
                        "score": float(instances.scores[k]),
                        "segmentation": rle,
                        **box,
                    }
                )
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO()
        api.dataset = copy.deepcopy(truth)
        api.createIndex()
        evaluation = COCOeval(api, api.loadRes(results), task)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * np.where(evaluation.stats[:6] >= 0, evaluation.stats[:6], np.nan)


def run(evaluator, predictions, file_names=None) -> dict:
    evaluator.reset()
    for image_id, instances in predictions.items():
        inputs = {"image_id": image_id}
        if file_names:
            inputs["file_name"] = file_names[image_id]
        evaluator.process([inputs], [{"instances": instances}])
    return evaluator.evaluate()


def assert_same(results, truth, predictions):
    for task in ("bbox", "segm"):
        expected = pycocotools_ap(truth, predictions, task)
        ours = [results[task][name] for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-9)
    assert 5 < results["segm"]["AP"] < 95


@pytest.mark.parametrize("json_file", [None, "missing.json"])
def test_things_are_the_instances(content, tmp_path, caplog, json_file):
    """The data set has no JSON of instances, or only its name."""
    metadata = MetadataCatalog.get(NAME)
    del metadata.json_file
    metadata.json_file = json_file
    truth = instance_json(tmp_path, content)
    assert any(a["iscrowd"] for a in truth["annotations"])
    predictions = make_predictions(tmp_path, content)
    with caplog.at_level(logging.INFO):
        results = run(COCOInstanceEvaluator(NAME, str(tmp_path)), predictions)
    assert_same(results, truth, predictions)
    assert set(results["segm"]) >= {"AP-cat", "AP-dog", "AP-unicorn"}
    assert "AP-sky" not in results["segm"]
    assert "things of its panoptic ground truth" in caplog.text
    assert ("missing.json does not exist" in caplog.text) == (json_file is not None)
    assert "are not things. They do not count" in caplog.text
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert {r["category_id"] for r in written} == {1, 4}
    # An image without prediction counts as missed: the same as one with an empty prediction.
    first = content["images"][0]["id"]
    some = {i: p for i, p in predictions.items() if i != first}
    results = run(COCOInstanceEvaluator(NAME), some)
    empty = Instances(predictions[first].image_size)
    empty.pred_masks = predictions[first].pred_masks[:0]
    empty.pred_classes, empty.scores = torch.zeros(0, dtype=torch.int64), torch.zeros(0)
    expected = run(COCOInstanceEvaluator(NAME), {first: empty, **some})
    np.testing.assert_equal(dict(results), dict(expected))
    assert expected["segm"]["AP"] != run(COCOInstanceEvaluator(NAME), predictions)["segm"]["AP"]


def test_ids_of_images_need_not_agree(content, tmp_path):
    """In ADE20K, the ids of panoptic annotations are names and those of instances are numbers."""
    truth = instance_json(tmp_path, content, number=lambda image_id: image_id * 7 % 31)
    (tmp_path / "instances.json").write_text(json.dumps(truth))
    metadata = MetadataCatalog.get(NAME)
    del metadata.json_file
    metadata.json_file = str(tmp_path / "instances.json")
    predictions = make_predictions(tmp_path, content)
    names = {image["id"]: f"somewhere/{image['file_name']}" for image in content["images"]}
    by_number = {image_id * 7 % 31: p for image_id, p in predictions.items()}
    by_name = {f"ADE_{image_id}": p for image_id, p in predictions.items()}
    files = {f"ADE_{image_id}": name for image_id, name in names.items()}
    evaluator = COCOInstanceEvaluator(NAME)
    results = run(evaluator, by_name, files)
    assert_same(results, truth, by_number)
    with pytest.raises(ValueError, match="ADE_10"):
        run(evaluator, {"ADE_10": predictions[10]}, {"ADE_10": "other.jpg"})


def test_ids_of_images_may_be_names(content, tmp_path):
    """They are in Cityscapes and Mapillary Vistas."""
    records = DatasetCatalog.get(NAME)
    for record in records:
        record["image_id"] = f"aachen_{record['image_id']}"
    DatasetCatalog.remove(NAME)
    DatasetCatalog.register(NAME, lambda: copy.deepcopy(records))
    predictions = make_predictions(tmp_path, content)
    named = {f"aachen_{image_id}": p for image_id, p in predictions.items()}
    results = run(COCOInstanceEvaluator(NAME, str(tmp_path)), named)
    assert_same(results, instance_json(tmp_path, content), predictions)
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert {r["image_id"] for r in written} <= named.keys()


@pytest.mark.parametrize("names_of", ["things", "all"])
def test_names_of_classes(content, tmp_path, names_of):
    """Contiguous ids of things have gaps; `thing_classes` may name things or all classes."""
    metadata = MetadataCatalog.get(NAME)
    del metadata.thing_classes
    metadata.thing_classes = [c["name"] for c in CATEGORIES if c["isthing"] or names_of == "all"]
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 4: 2, 90: 4}
    predictions = make_predictions(tmp_path, content)
    for instances in predictions.values():  # only of cats
        instances.pred_classes[:] = 0
    results = run(COCOInstanceEvaluator(NAME), predictions)["segm"]
    assert results["AP-cat"] > 5 and results["AP-dog"] == 0 and np.isnan(results["AP-unicorn"])


def test_classes_that_the_data_set_does_not_have(content, tmp_path):
    predictions = make_predictions(tmp_path, content)
    predictions[10].pred_classes[0] = 6
    with pytest.raises(
        ValueError, match=r"predicted class 6.*has 6 classes.*NUM_CLASSES must be 6"
    ):
        run(COCOInstanceEvaluator(NAME), predictions)
