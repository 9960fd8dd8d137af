"""The numbers are pycocotools', on real and on made-up annotations."""

import contextlib
import copy
import io
import json
import logging

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BitMasks, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from support import REPOSITORY

from mask2former.evaluation import (
    COCOInstanceEvaluator,
    build_evaluator,
    instances_to_coco_results,
    summarize_coco,
)

SHARED = REPOSITORY.parent / "shared/data"
REAL = [
    SHARED / "coco_permissive/annotations/instances_val2017.json",
    SHARED / "food/annotations/instances_val.json",
]
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


def oracle(data: dict, predictions: dict[int, Instances], task: str) -> COCOeval:
    """pycocotools, with results written independently of the code under test."""
    ids = sorted(c["id"] for c in data["categories"])
    results = []
    for image_id, instances in predictions.items():
        for k in range(len(instances)):
            rle = encode(instances.pred_masks[k].numpy())
            result = {
                "image_id": image_id,
                "category_id": ids[int(instances.pred_classes[k])],
                "score": float(instances.scores[k]),
                "segmentation": rle,
            }
            if task == "bbox":
                result["bbox"] = mask_util.toBbox(rle).tolist()
            results.append(result)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(data)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), task)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.fixture
def register(tmp_path):
    """Registers annotations as a data set and returns its name."""
    names = []

    def _register(data: dict, with_ids: bool = True) -> str:
        name = f"test_coco_evaluation_{len(names)}"
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(data))
        to_index = category_indices(data)
        names_by_id = {c["id"]: c["name"] for c in data["categories"]}
        metadata = MetadataCatalog.get(name)
        metadata.set(
            json_file=str(path),
            evaluator_type="coco",
            thing_classes=[names_by_id[c] for c in to_index],
        )
        if with_ids:
            metadata.set(thing_dataset_id_to_contiguous_id=to_index)
        names.append(name)
        return name

    yield _register
    for name in names:
        MetadataCatalog.pop(name)


def run(evaluator, predictions):
    evaluator.reset()
    for image_id, instances in predictions.items():
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    return evaluator.evaluate()


def assert_same(results: dict, data: dict, predictions: dict) -> None:
    for task in ("bbox", "segm"):
        expected = oracle(data, predictions, task)
        for metric, value in zip(METRICS, expected.stats[:6], strict=True):
            value = 100 * value if value >= 0 else np.nan
            np.testing.assert_allclose(results[task][metric], value, rtol=0, atol=1e-9)
        for k, category_id in enumerate(sorted(category_indices(data))):
            name = next(c["name"] for c in data["categories"] if c["id"] == category_id)
            precision = expected.eval["precision"][:, :, k, 0, -1]
            precision = precision[precision > -1]
            value = 100 * precision.mean() if precision.size else np.nan
            np.testing.assert_allclose(results[task][f"AP-{name}"], value, rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools_on_made_up_annotations(register, seed):
    data = made_up_annotations(seed)
    predictions = perturbed(data, seed)
    assert sum(map(len, predictions.values())) > 30
    for entry in (data, *data["images"], *data["annotations"]):
        entry["license"] = None  # some annotation tools write nulls
    results = run(COCOInstanceEvaluator(register(data)), predictions)
    assert 0 < results["segm"]["AP"] < 100
    assert_same(results, data, predictions)


@pytest.mark.parametrize("path", REAL, ids=lambda p: p.parent.parent.name)
def test_equals_pycocotools_on_real_annotations(register, path):
    if not path.exists():
        pytest.skip("needs the data sets next to the checkout")
    data = json.loads(path.read_text())
    data["images"] = data["images"][:40]
    kept = {image["id"] for image in data["images"]}
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] in kept]
    predictions = perturbed(data, 0)
    results = run(COCOInstanceEvaluator(register(data)), predictions)
    assert_same(results, data, predictions)


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_all_twelve_numbers_equal_pycocotools_own_summary(register, task, caplog):
    data = made_up_annotations(1)
    predictions = perturbed(data, 1)
    expected = oracle(data, predictions, task)
    ours = summarize_coco(expected.eval["precision"], expected.eval["recall"])
    np.testing.assert_allclose(ours, expected.stats, rtol=0, atol=1e-12)
    # and the recalls that are logged are those of our own matching
    with caplog.at_level(logging.INFO, logger="mask2former.evaluation.coco"):
        run(COCOInstanceEvaluator(register(data)), predictions)
    labels = ["AR@1", "AR@10", "AR@100", "ARs", "ARm", "ARl"]
    line = ", ".join(
        f"{label} {100 * v:.2f}" for label, v in zip(labels, expected.stats[6:], strict=True)
    )
    assert f"Average recall for {task}: {line}" in caplog.text


def exact(data: dict) -> dict[int, Instances]:
    to_index = category_indices(data)
    truth, predictions = truth_masks(data), {}
    for image in data["images"]:
        objects = [(m, a) for m, a in truth[image["id"]] if not a["iscrowd"]]
        classes = [to_index[a["category_id"]] for _, a in objects]
        predictions[image["id"]] = make_instances(
            image, [m for m, _ in objects], classes, np.ones(len(objects))
        )
    return predictions


def test_perfect_predictions_give_100(register):
    data = made_up_annotations()
    results = run(COCOInstanceEvaluator(register(data)), exact(data))
    for task in ("bbox", "segm"):
        np.testing.assert_allclose([results[task][m] for m in METRICS[:3]], 100)
        assert np.isnan(results[task]["AP-class90"])  # no object of that class


@pytest.mark.parametrize("first_id", [0, 1])
def test_an_annotation_with_id_0_counts(register, first_id):
    data = made_up_annotations()
    for i, annotation in enumerate(data["annotations"]):
        annotation["id"] = first_id + i
    results = run(COCOInstanceEvaluator(register(data)), exact(data))
    assert results["segm"]["AP"] == pytest.approx(100)


def test_no_predictions_give_0(register, tmp_path):
    data = made_up_annotations()
    predictions = {i["id"]: make_instances(i, [], [], []) for i in data["images"]}
    results = run(COCOInstanceEvaluator(register(data), str(tmp_path)), predictions)
    for task in ("bbox", "segm"):
        assert results[task]["AP"] == 0
    assert json.loads((tmp_path / "coco_instances_results.json").read_text()) == []


def test_no_ground_truth_gives_nan(register):
    data = made_up_annotations()
    predictions = perturbed(data, 0)
    data = data | {"annotations": []}
    results = run(COCOInstanceEvaluator(register(data)), predictions)
    assert np.isnan(results["segm"]["AP"])


def test_detections_in_a_crowd_are_neither_right_nor_wrong(register):
    image = {"id": 1, "height": 40, "width": 60, "file_name": "a.png"}
    crowd, lone = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    crowd[:, :30] = True
    lone[5:25, 35:55] = True
    data = {
        "images": [image],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {
                "id": 1 + i, "image_id": 1, "category_id": 1, "iscrowd": int(mask is crowd),
                "area": float(mask.sum()), "segmentation": encode(mask),
                "bbox": mask_util.toBbox(encode(mask)).tolist(),
            }
            for i, mask in enumerate((crowd, lone))
        ],
    }  # fmt: skip
    inside, beside = np.zeros((2, 40, 60), bool)
    inside[3:9, 3:9] = True
    beside[30:38, 33:58] = True
    scores = [0.9, 0.8, 0.5]

    def ap(masks):
        predictions = {1: make_instances(image, masks, [0, 0, 0], scores)}
        return run(COCOInstanceEvaluator(register(data)), predictions)["segm"]["AP"]

    assert ap([inside, inside, lone]) == pytest.approx(100)
    assert ap([inside, beside, lone]) == pytest.approx(50)


def test_written_results_have_the_data_sets_category_ids(register, tmp_path):
    data = made_up_annotations()
    predictions = perturbed(data, 0)
    run(COCOInstanceEvaluator(register(data), str(tmp_path)), predictions)
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert len(written) == sum(map(len, predictions.values()))
    assert {r["category_id"] for r in written} == {1, 3, 4, 90}
    sizes = {i["id"]: [i["height"], i["width"]] for i in data["images"]}
    position = dict.fromkeys(sizes, 0)
    for result in written:
        assert result["segmentation"]["size"] == sizes[result["image_id"]]
        k = position[result["image_id"]]
        position[result["image_id"]] += 1
        decoded = mask_util.decode(result["segmentation"]).astype(bool)
        assert (decoded == predictions[result["image_id"]].pred_masks[k].numpy()).all()


def test_class_names_follow_the_metadata_whatever_their_order(register):
    """Classes listed in another order than their ids keep their own AP."""
    data = made_up_annotations()
    name = register(data)
    plain = run(COCOInstanceEvaluator(name), perturbed(data, 0))
    reverse = {c: 3 - i for c, i in category_indices(data).items()}
    other = register(data, with_ids=False)
    MetadataCatalog.pop(other)
    MetadataCatalog.get(other).set(
        json_file=MetadataCatalog.get(name).json_file,
        thing_classes=["class90", "class4", "class3", "class1"],
        thing_dataset_id_to_contiguous_id=reverse,
    )
    predictions = perturbed(data, 0)
    for instances in predictions.values():
        instances.pred_classes = 3 - instances.pred_classes
    reordered = run(COCOInstanceEvaluator(other), predictions)
    for task in ("bbox", "segm"):
        assert reordered[task].keys() == plain[task].keys()
        for key, value in plain[task].items():
            np.testing.assert_equal(reordered[task][key], value)


def test_limit_of_detections(register):
    """The lowest-scoring detections beyond the limit do not count."""
    data = made_up_annotations()
    image = data["images"][0]
    objects = truth_masks(data)[image["id"]]
    mask, annotation = next((m, a) for m, a in objects if not a["iscrowd"])
    index = category_indices(data)[annotation["category_id"]]
    data["annotations"] = [annotation]
    masks = [np.zeros_like(mask)] * 4 + [mask]
    predictions = {image["id"]: make_instances(image, masks, [index] * 5, [0.9] * 4 + [0.1])}
    name = register(data)
    assert run(COCOInstanceEvaluator(name, max_dets_per_image=5), predictions)["segm"]["AP"] > 0
    assert run(COCOInstanceEvaluator(name, max_dets_per_image=4), predictions)["segm"]["AP"] == 0


def test_boxes_come_from_masks_when_there_are_none():
    image = made_up_annotations()["images"][0]
    mask = np.zeros((image["height"], image["width"]), bool)
    mask[10:20, 5:45] = True
    instances = make_instances(image, [mask, np.zeros_like(mask)], [0, 0], [0.5, 0.5])
    with_boxes = instances_to_coco_results(instances, 1)
    instances.remove("pred_boxes")
    without = instances_to_coco_results(instances, 1)
    assert with_boxes == without
    assert without[0]["bbox"] == [5, 10, 40, 10]


def test_mistakes_are_named(register):
    data = made_up_annotations()
    predictions = perturbed(data, 0)
    evaluator = COCOInstanceEvaluator(register(data))
    evaluator.reset()
    with pytest.raises(ValueError, match=r"image 7: .*INSTANCE_ON"):
        evaluator.process([{"image_id": 7}], [{"sem_seg": None}])
    with pytest.raises(ValueError, match="id 123456"):
        run(evaluator, {123456: predictions[7]})
    bad = copy.deepcopy(predictions[7])
    bad.pred_classes[0] = 4
    with pytest.raises(ValueError, match=r"predicted class 4.*has 4 classes"):
        run(evaluator, {7: bad})
    bad.scores[0] = float("nan")
    with pytest.raises(ValueError, match=r"image 7: .*not finite"):
        run(evaluator, {7: bad})


def test_data_set_without_a_json_file(tmp_path):
    """It is converted to COCO format, as Detectron2 does."""
    name = "test_coco_evaluation_convert"
    mask = np.zeros((40, 50), bool)
    mask[10:30, 5:25] = True
    rle = encode(mask)
    record = {
        "file_name": "a.png", "image_id": 3, "height": 40, "width": 50,
        "annotations": [
            {"bbox": [5, 10, 20, 20], "bbox_mode": 1, "category_id": 1, "segmentation": rle}
        ],
    }  # fmt: skip
    DatasetCatalog.register(name, lambda: [copy.deepcopy(record)])
    MetadataCatalog.get(name).set(thing_classes=["a", "b"])
    try:
        evaluator = COCOInstanceEvaluator(name, str(tmp_path))
        results = run(evaluator, {3: make_instances(record, [mask], [1], [0.7])})
    finally:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)
    assert results["segm"]["AP-b"] == pytest.approx(100)


def test_build_evaluator(register, tmp_path):
    name = register(made_up_annotations())
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    cfg.DATASETS.TEST = (name,)
    cfg.TEST.DETECTIONS_PER_IMAGE = 50
    evaluator = build_evaluator(cfg, name)
    assert isinstance(evaluator, COCOInstanceEvaluator)
    predictions = perturbed(made_up_annotations(), 0)
    run(evaluator, predictions)
    assert (tmp_path / "run/inference/coco_instances_results.json").exists()
    cfg.DATASETS.TEST = (name, "another")
    run(build_evaluator(cfg, name), predictions)
    assert (tmp_path / "run/inference" / name / "coco_instances_results.json").exists()
    MetadataCatalog.get("test_coco_evaluation_unknown").evaluator_type = "mystery"
    with pytest.raises(ValueError, match=r"'mystery'; known types: .*\bcoco, "):
        build_evaluator(cfg, "test_coco_evaluation_unknown")
    MetadataCatalog.pop("test_coco_evaluation_unknown")
