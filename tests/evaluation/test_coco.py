"""Cases of instance evaluation whose numbers are known, the result files, and the messages."""

import copy
import json
import logging

import numpy as np
import pycocotools.mask as mask_util
import pytest
from coco_sets import (
    METRICS,
    category_indices,
    encode,
    evaluate,
    made_up_annotations,
    make_instances,
    perturbed,
    truth_masks,
)
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances

from mask2former.evaluation import COCOInstanceEvaluator, instances_to_coco_results


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


def test_perfect_predictions_give_100(register_coco):
    data = made_up_annotations()
    results = evaluate(COCOInstanceEvaluator(register_coco(data)), exact(data))
    for task in ("bbox", "segm"):
        np.testing.assert_allclose([results[task][m] for m in METRICS[:3]], 100)
        assert np.isnan(results[task]["AP-class90"])  # no object of that class


def test_boxes_and_areas_that_are_missing_are_those_of_the_masks(register_coco):
    data = made_up_annotations()
    expected = evaluate(COCOInstanceEvaluator(register_coco(data)), perturbed(data, 0))
    for number, annotation in enumerate(data["annotations"]):
        for key in [("bbox",), ("area",), ("bbox", "area")][number % 3]:
            del annotation[key]
    found = evaluate(COCOInstanceEvaluator(register_coco(data)), perturbed(data, 0))
    assert 0 < expected["bbox"]["AP"] < 100
    for task in ("bbox", "segm"):
        np.testing.assert_equal(dict(found[task]), dict(expected[task]))


@pytest.mark.parametrize("first_id", [0, 1])
def test_an_annotation_with_id_0_counts(register_coco, first_id):
    data = made_up_annotations()
    for i, annotation in enumerate(data["annotations"]):
        annotation["id"] = first_id + i
    results = evaluate(COCOInstanceEvaluator(register_coco(data)), exact(data))
    assert results["segm"]["AP"] == pytest.approx(100)


def test_no_predictions_give_0(register_coco, tmp_path):
    data = made_up_annotations()
    predictions = {i["id"]: make_instances(i, [], [], []) for i in data["images"]}
    results = evaluate(COCOInstanceEvaluator(register_coco(data), str(tmp_path)), predictions)
    for task in ("bbox", "segm"):
        assert results[task]["AP"] == 0
    assert json.loads((tmp_path / "coco_instances_results.json").read_text()) == []


def test_no_ground_truth_gives_nan(register_coco):
    data = made_up_annotations()
    predictions = perturbed(data, 0)
    data = data | {"annotations": []}
    results = evaluate(COCOInstanceEvaluator(register_coco(data)), predictions)
    assert np.isnan(results["segm"]["AP"])


def test_recall_of_sizes_without_objects_is_nan(register_coco, caplog):
    data = made_up_annotations()
    data["annotations"] = [a for a in data["annotations"] if a["area"] < 96**2]
    with caplog.at_level(logging.INFO, logger="mask2former.evaluation.coco"):
        results = evaluate(COCOInstanceEvaluator(register_coco(data)), exact(data))
    assert np.isnan(results["segm"]["APl"])
    assert "ARm 100.00, ARl nan" in caplog.text and "-100" not in caplog.text


def test_detections_in_a_crowd_are_neither_right_nor_wrong(register_coco):
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
        return evaluate(COCOInstanceEvaluator(register_coco(data)), predictions)["segm"]["AP"]

    assert ap([inside, inside, lone]) == pytest.approx(100)
    assert ap([inside, beside, lone]) == pytest.approx(50)


def test_written_results_have_the_data_sets_category_ids(register_coco, tmp_path):
    data = made_up_annotations()
    predictions = perturbed(data, 0)
    evaluate(COCOInstanceEvaluator(register_coco(data), str(tmp_path)), predictions)
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


def test_class_names_follow_the_metadata_whatever_their_order(register_coco):
    """Classes listed in another order than their ids keep their own AP."""
    data = made_up_annotations()
    name = register_coco(data)
    plain = evaluate(COCOInstanceEvaluator(name), perturbed(data, 0))
    reverse = {c: 3 - i for c, i in category_indices(data).items()}
    other = register_coco(data, with_ids=False)
    MetadataCatalog.pop(other)
    MetadataCatalog.get(other).set(
        json_file=MetadataCatalog.get(name).json_file,
        thing_classes=["class90", "class4", "class3", "class1"],
        thing_dataset_id_to_contiguous_id=reverse,
    )
    predictions = perturbed(data, 0)
    for instances in predictions.values():
        instances.pred_classes = 3 - instances.pred_classes
    reordered = evaluate(COCOInstanceEvaluator(other), predictions)
    for task in ("bbox", "segm"):
        assert reordered[task].keys() == plain[task].keys()
        for key, value in plain[task].items():
            np.testing.assert_equal(reordered[task][key], value)


def test_limit_of_detections(register_coco):
    """The lowest-scoring detections beyond the limit do not count."""
    data = made_up_annotations()
    image = data["images"][0]
    objects = truth_masks(data)[image["id"]]
    mask, annotation = next((m, a) for m, a in objects if not a["iscrowd"])
    index = category_indices(data)[annotation["category_id"]]
    data["annotations"] = [annotation]
    masks = [np.zeros_like(mask)] * 4 + [mask]
    predictions = {image["id"]: make_instances(image, masks, [index] * 5, [0.9] * 4 + [0.1])}
    name = register_coco(data)
    assert (
        evaluate(COCOInstanceEvaluator(name, max_dets_per_image=5), predictions)["segm"]["AP"] > 0
    )
    assert (
        evaluate(COCOInstanceEvaluator(name, max_dets_per_image=4), predictions)["segm"]["AP"] == 0
    )


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


def test_mistakes_are_named(register_coco):
    data = made_up_annotations()
    predictions = perturbed(data, 0)
    evaluator = COCOInstanceEvaluator(register_coco(data))
    evaluator.reset()
    with pytest.raises(ValueError, match=r"image 7: .*INSTANCE_ON"):
        evaluator.process([{"image_id": 7}], [{"sem_seg": None}])
    with pytest.raises(ValueError, match="id 123456"):
        evaluate(evaluator, {123456: predictions[7]})
    bad = copy.deepcopy(predictions[7])
    bad.pred_classes[0] = 4
    with pytest.raises(ValueError, match=r"predicted class 4.*has 4 classes"):
        evaluate(evaluator, {7: bad})
    bad.scores[0] = float("nan")
    with pytest.raises(ValueError, match=r"image 7: .*not finite"):
        evaluate(evaluator, {7: bad})


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
        results = evaluate(evaluator, {3: make_instances(record, [mask], [1], [0.7])})
    finally:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)
    assert results["segm"]["AP-b"] == pytest.approx(100)
