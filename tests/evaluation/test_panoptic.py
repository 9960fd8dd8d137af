"""Panoptic evaluation: forms of predictions, missing predictions, result files, and messages."""

import json
import logging

import numpy as np
import panoptic_sets
import pytest
import torch
from detectron2.data import MetadataCatalog
from panoptic_sets import CATEGORIES, QUALITIES, evaluate, read_ids

from mask2former.data import DatasetError
from mask2former.evaluation import PanopticEvaluator


def test_detectron2_separate_ids_of_things_and_stuff(register_panoptic, tmp_path):
    """In the older convention thing 0 and stuff 0 are different classes; `isthing` decides."""
    content = panoptic_sets.make_truth(tmp_path, 0)
    predictions = panoptic_sets.make_predictions(tmp_path, content, 0)
    expected = evaluate(
        PanopticEvaluator(register_panoptic(tmp_path, content)), predictions, content
    )
    name = "test_panoptic_evaluation_separate"
    separate = {
        isthing: {
            c["id"]: i for i, c in enumerate(c for c in CATEGORIES if bool(c["isthing"]) == isthing)
        }
        for isthing in (True, False)
    }
    MetadataCatalog.get(name).set(
        panoptic_json=str(tmp_path / "panoptic.json"),
        panoptic_root=str(tmp_path / "panoptic"),
        thing_dataset_id_to_contiguous_id=separate[True],
        stuff_dataset_id_to_contiguous_id=separate[False],
    )
    for _, segments in predictions.values():
        for s in segments:
            s["category_id"] = separate[s["isthing"]][CATEGORIES[s["category_id"]]["id"]]
    try:
        assert evaluate(PanopticEvaluator(name), predictions, content) == expected
        for _, segments in predictions.values():
            for s in segments:  # without `isthing`, ids are those of the data set
                isthing = s.pop("isthing")
                back = {i: category_id for category_id, i in separate[isthing].items()}
                s["category_id"] = back[s["category_id"]]
        assert evaluate(PanopticEvaluator(name), predictions, content) == expected
    finally:
        MetadataCatalog.pop(name)


def test_maps_without_segments(register_panoptic, tmp_path):
    """Detectron2 allows maps of class * label_divisor + instance, with -1 for void."""
    content = panoptic_sets.make_truth(tmp_path, 1)
    predictions = panoptic_sets.make_predictions(tmp_path, content, 1)
    evaluator = PanopticEvaluator(register_panoptic(tmp_path, content))
    expected = evaluate(evaluator, predictions, content)
    evaluator.reset()
    for image_id, (ids, segments) in predictions.items():
        labels = torch.full_like(ids, -1)
        for k, s in enumerate(segments):
            labels[ids == s["id"]] = s["category_id"] * 1000 + k
        evaluator.process([{"image_id": image_id}], [{"panoptic_seg": (labels, None)}])
    assert evaluator.evaluate() == expected


def test_classes_that_do_not_occur_have_no_number(register_panoptic, tmp_path, caplog):
    content = panoptic_sets.make_truth(tmp_path, 0)
    predictions = {
        image_id: (torch.zeros_like(ids), [])
        for image_id, (ids, _) in panoptic_sets.make_predictions(tmp_path, content, 0).items()
    }
    evaluator = PanopticEvaluator(register_panoptic(tmp_path, content))
    with caplog.at_level(logging.INFO, logger="mask2former.evaluation.panoptic"):
        results = evaluate(evaluator, predictions, content)["panoptic_seg"]
    assert results == dict.fromkeys(QUALITIES, 0)
    assert "cat" in caplog.text and "unicorn" not in caplog.text
    content["annotations"] = [a for a in content["annotations"] if not a["segments_info"]]
    content["images"] = content["images"][2:3]
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    empty = {i: p for i, p in predictions.items() if i == content["images"][0]["id"]}
    results = evaluate(PanopticEvaluator(register_panoptic(tmp_path, content)), empty, content)[
        "panoptic_seg"
    ]
    assert np.isnan(list(results.values())).all()


def test_images_without_prediction_count_as_missed(register_panoptic, tmp_path, caplog):
    content = panoptic_sets.make_truth(tmp_path, 2)
    predictions = panoptic_sets.make_predictions(tmp_path, content, 2)
    evaluator = PanopticEvaluator(register_panoptic(tmp_path, content))
    left_out = content["images"][0]["id"]
    nothing = {**predictions, left_out: (torch.zeros_like(predictions[left_out][0]), [])}
    expected = evaluate(evaluator, nothing, content)
    del nothing[left_out]
    with caplog.at_level(logging.WARNING, logger="mask2former.evaluation.panoptic"):
        assert evaluate(evaluator, nothing, content) == expected
    assert f"1 of 6 images of {tmp_path / 'panoptic.json'}" in caplog.text
    assert repr(left_out) in caplog.text


def test_predictions_are_replaced_at_the_end(register_panoptic, tmp_path):
    content = panoptic_sets.make_truth(tmp_path, 3)
    predictions = panoptic_sets.make_predictions(tmp_path, content, 3)
    evaluator = PanopticEvaluator(register_panoptic(tmp_path, content), tmp_path / "out")
    evaluate(evaluator, predictions, content)
    before = (tmp_path / "out/predictions.json").read_text()
    names = sorted(p.name for p in (tmp_path / "out/predictions").iterdir())
    assert names == [a["file_name"] for a in content["annotations"]]
    (tmp_path / "out/predictions/old.png").touch()
    image_id = content["images"][0]["id"]
    moved = {image_id: (predictions[image_id][0].roll(9, 0), predictions[image_id][1])}
    evaluator.reset()
    evaluator.process(
        [{"image_id": image_id, "file_name": "x"}], [{"panoptic_seg": moved[image_id]}]
    )
    assert (tmp_path / "out/predictions.json").read_text() == before
    np.testing.assert_array_equal(
        read_ids(tmp_path / "out/predictions" / names[0]), predictions[image_id][0]
    )
    evaluator.evaluate()
    assert [p.name for p in (tmp_path / "out/predictions").iterdir()] == names[:1]
    np.testing.assert_array_equal(
        read_ids(tmp_path / "out/predictions" / names[0]), moved[image_id][0]
    )
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "predictions", "predictions.json"
    ]  # fmt: skip


def test_test_sets_without_annotations(register_panoptic, tmp_path):
    content = panoptic_sets.make_truth(tmp_path, 3)
    predictions = panoptic_sets.make_predictions(tmp_path, content, 3)
    name = register_panoptic(tmp_path, content)
    del content["annotations"]
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    assert evaluate(PanopticEvaluator(name, tmp_path / "out"), predictions, content) == {}
    written = json.loads((tmp_path / "out/predictions.json").read_text())
    assert len(written["annotations"]) == 6
    assert written["annotations"][0]["file_name"] == "000.png"
    assert {s["category_id"] for s in written["annotations"][0]["segments_info"]} <= {1, 3, 4, 9}


def test_errors_name_the_mistake(register_panoptic, tmp_path):
    content = panoptic_sets.make_truth(tmp_path, 4)
    predictions = panoptic_sets.make_predictions(tmp_path, content, 4)
    image_id = content["images"][0]["id"]
    ids, segments = predictions[image_id]
    evaluator = PanopticEvaluator(register_panoptic(tmp_path, content))
    evaluator.reset()

    def process(ids=ids, segments=segments, image_id=image_id):
        evaluator.process([{"image_id": image_id}], [{"panoptic_seg": (ids, segments)}])

    with pytest.raises(ValueError, match=r"image 10: .*PANOPTIC_ON"):
        evaluator.process([{"image_id": 10}], [{"sem_seg": None}])
    with pytest.raises(ValueError, match=r"image 12345: .*no such image; its ids are like 10, 13"):
        process(image_id=12345)
    with pytest.raises(ValueError, match=r"height and width .* the ground truth"):
        process(ids=ids[1:])
    with pytest.raises(ValueError, match=r"image 10: .*thing of class 77"):
        process(segments=[{**segments[0], "category_id": 77, "isthing": True}])
    with pytest.raises(ValueError, match=r"ids \[\d.* not among the predicted segments"):
        process(segments=segments[1:])
    with pytest.raises(ValueError, match=r"segments \[99\] have no pixel"):
        process(segments=[*segments, {**segments[0], "id": 99}])
    with pytest.raises(ValueError, match="must differ"):
        process(segments=[*segments, segments[0]])
    with pytest.raises(ValueError, match=r"category ids \[555\]"):
        process(segments=[{"id": segments[0]["id"], "category_id": 555}, *segments[1:]])
    (tmp_path / "panoptic/000.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"000\.png"):
        process()
    (tmp_path / "panoptic.json").write_text("{")
    with pytest.raises(DatasetError, match=r"panoptic\.json"):
        PanopticEvaluator(register_panoptic(tmp_path, content))
    (tmp_path / "panoptic.json").write_text('{"categories": [{"id": 1}]}')
    with pytest.raises(DatasetError, match=r"panoptic\.json: .*'name'"):
        PanopticEvaluator(register_panoptic(tmp_path, content))
