"""The numbers are panopticapi's, on made-up and on real ground truth."""

import contextlib
import copy
import io
import json
import logging
import runpy
from pathlib import Path

import hotcoco.panoptic
import numpy as np
import panoptic_sets
import pytest
import torch
from detectron2.data import MetadataCatalog
from panoptic_sets import CATEGORIES, CONTIGUOUS, read_ids
from support import REPOSITORY

from mask2former.data import DatasetError
from mask2former.evaluation import PanopticEvaluator
from mask2former.evaluation.panoptic_quality import count_overlaps, match_segments

SAMPLE = REPOSITORY.parent / "shared/data/coco_panoptic_sample/sample_data"
NAMES = [f"{q}{suffix}" for suffix in ("", "_th", "_st") for q in ("PQ", "SQ", "RQ")]


@pytest.fixture
def register():
    """Registers a data set of `panoptic_sets` and returns its name."""
    names = []

    def _register(folder, content, **kwargs) -> str:
        names.append(f"test_panoptic_evaluation_{len(names)}")
        return panoptic_sets.register(names[-1], folder, content, **kwargs)

    yield _register
    for name in names:
        panoptic_sets.unregister(name)


def run(evaluator, predictions: dict, content: dict):
    names = {image["id"]: image["file_name"] for image in content["images"]}
    evaluator.reset()
    for image_id, prediction in predictions.items():
        before = copy.deepcopy(prediction[1])
        inputs = [{"image_id": image_id, "file_name": f"somewhere/{names[image_id]}"}]
        evaluator.process(inputs, [{"panoptic_seg": prediction}])
        assert prediction[1] == before  # other evaluators read it, too
    return evaluator.evaluate()


def literal(folder: Path, content: dict, predictions: dict) -> dict[str, float]:
    """Panoptic quality as its definition reads, with sets of pixels."""
    totals = {c["id"]: [0.0, 0, 0, 0] for c in content["categories"]}
    ids = {i: c for c, i in CONTIGUOUS.items()}
    for annotation in content["annotations"]:
        truth = read_ids(folder / annotation["file_name"]).ravel()
        predicted, infos = predictions[annotation["image_id"]]
        predicted = predicted.numpy().ravel()
        void = {int(i) for i in np.flatnonzero(truth == 0)}
        crowds, segments = {}, []
        for info in annotation["segments_info"]:
            pixels = {int(i) for i in np.flatnonzero(truth == info["id"])}
            if info["iscrowd"]:
                crowds[info["category_id"]] = pixels  # of several, panopticapi takes the last
            else:
                segments.append((info["category_id"], pixels))
        found = []
        for info in infos:
            pixels = {int(i) for i in np.flatnonzero(predicted == info["id"])}
            found.append((ids[info["category_id"]], pixels))
        matched = set()
        for category, pixels in segments:
            for j, (other, others) in enumerate(found):
                iou = len(pixels & others) / len(pixels | (others - void))
                if category == other and iou > 0.5:
                    matched.add(j)
                    totals[category][0] += iou
                    totals[category][1] += 1
                    break
            else:
                totals[category][3] += 1
        for j, (category, pixels) in enumerate(found):
            ignored = pixels & (void | crowds.get(category, set()))
            if j not in matched and len(ignored) <= len(pixels) / 2:
                totals[category][2] += 1
    result = {}
    for suffix, things in (("", {0, 1}), ("_th", {1}), ("_st", {0})):
        rows = []
        for c in content["categories"]:
            iou, tp, fp, fn = totals[c["id"]]
            if c["isthing"] in things and tp + fp + fn:
                f1 = tp / (tp + fp / 2 + fn / 2)
                rows.append((iou / tp * f1 if tp else 0, iou / tp if tp else 0, f1))
        for name, mean in zip(("PQ", "SQ", "RQ"), np.mean(rows, axis=0), strict=True):
            result[f"{name}{suffix}"] = 100 * float(mean)
    return result


def by_file(compute, folder: Path, truth_json: Path, truth_folder: Path) -> dict[str, float]:
    """What a tool makes of the results file that the evaluator wrote into `folder`."""
    with contextlib.redirect_stdout(io.StringIO()):
        results = compute(
            str(truth_json),
            str(folder / "predictions.json"),
            gt_folder=str(truth_folder),
            pred_folder=str(folder / "predictions"),
        )
    return {
        f"{quality.upper()}{suffix}": 100 * results[group][quality]
        for group, suffix in (("All", ""), ("Things", "_th"), ("Stuff", "_st"))
        for quality in ("pq", "sq", "rq")
    }


def panopticapi_compute():
    return pytest.importorskip("panopticapi.evaluation").pq_compute


@pytest.mark.parametrize("from_json", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_equals_the_definition_and_panopticapi(register, tmp_path, seed, from_json):
    content = panoptic_sets.make_truth(tmp_path, seed)
    predictions = panoptic_sets.make_predictions(tmp_path, content, seed)
    name = register(tmp_path, content, from_json=from_json)
    results = run(PanopticEvaluator(name, tmp_path / "out"), predictions, content)["panoptic_seg"]
    assert list(results) == NAMES
    assert 5 < results["PQ"] < 95
    assert results == pytest.approx(
        literal(tmp_path / "panoptic", content, predictions), abs=1e-9, rel=0
    )
    files = tmp_path / "out", tmp_path / "panoptic.json", tmp_path / "panoptic"
    assert results == pytest.approx(by_file(hotcoco.panoptic.pq_compute, *files), abs=1e-9, rel=0)
    assert results == pytest.approx(by_file(panopticapi_compute(), *files), abs=1e-9, rel=0)


def test_the_made_up_data_has_every_case(tmp_path):
    """Crowds that hide a false positive, predictions in void, several crowds of a class."""
    crowds, ignored, double = 0, 0, 0
    for seed in range(5):
        folder = tmp_path / str(seed)
        content = panoptic_sets.make_truth(folder, seed)
        predictions = panoptic_sets.make_predictions(folder, content, seed)
        for annotation in content["annotations"]:
            infos = annotation["segments_info"]
            crowd_classes = [s["category_id"] for s in infos if s["iscrowd"]]
            crowds += len(crowd_classes)
            double += len(crowd_classes) - len(set(crowd_classes))
            truth = read_ids(folder / "panoptic" / annotation["file_name"])
            ids, segments = predictions[annotation["image_id"]]
            for s in segments:
                s["category_id"] = CATEGORIES[s["category_id"]]["id"]
            with_crowds = match_segments(truth, infos, ids.numpy(), segments)
            infos = [s for s in infos if not s["iscrowd"]]
            without = match_segments(truth, infos, ids.numpy(), segments)
            ignored += sum(c.fp for c in without.values()) - sum(c.fp for c in with_crowds.values())
    assert crowds > 20 and double > 2 and ignored > 5


@pytest.mark.skipif(not SAMPLE.exists(), reason="needs the data sets next to the checkout")
def test_real_ground_truth(tmp_path):
    """Against itself 100, and as panopticapi finds it once it is perturbed."""
    truth_json, truth_folder = SAMPLE / "panoptic_examples.json", SAMPLE / "panoptic_examples"
    content = json.loads(truth_json.read_text())
    name = "test_panoptic_evaluation_real"
    index = {c["id"]: i for i, c in enumerate(content["categories"])}
    things = {c["id"] for c in content["categories"] if c["isthing"]}
    MetadataCatalog.get(name).set(
        panoptic_json=str(truth_json),
        panoptic_root=str(truth_folder),
        thing_dataset_id_to_contiguous_id={i: index[i] for i in things},
        stuff_dataset_id_to_contiguous_id=index,
    )
    predictions, perturbed = {}, {}
    for annotation in content["annotations"]:
        ids = torch.from_numpy(read_ids(truth_folder / annotation["file_name"])).int()
        segments = [
            {
                "id": s["id"],
                "isthing": s["category_id"] in things,
                "category_id": index[s["category_id"]],
            }
            for s in annotation["segments_info"]
            if not s["iscrowd"]
        ]
        known = torch.isin(ids, torch.tensor([s["id"] for s in segments], dtype=torch.int32))
        ids[~known] = 0
        predictions[annotation["image_id"]] = (ids, segments)
        moved = ids.roll((4, 7), (0, 1))
        left = [s for s in segments if (moved == s["id"]).any()]
        perturbed[annotation["image_id"]] = (moved, left)
    try:
        evaluator = PanopticEvaluator(name, tmp_path)
        same = run(evaluator, predictions, content)["panoptic_seg"]
        assert same == dict.fromkeys(NAMES, 100)
        results = run(evaluator, perturbed, content)["panoptic_seg"]
    finally:
        MetadataCatalog.pop(name)
    assert 20 < results["PQ"] < 99
    for compute in (hotcoco.panoptic.pq_compute, panopticapi_compute()):
        expected = by_file(compute, tmp_path, truth_json, truth_folder)
        assert results == pytest.approx(expected, abs=1e-9, rel=0)


def test_overlaps_are_counted_pixel_by_pixel():
    rng = np.random.default_rng(0)
    for shape in ((7, 9), (1, 1), (5, 1), (0, 4)):
        first, second = (rng.choice([0, 3, 2**24 - 1], shape) for _ in range(2))
        expected: dict = {}
        for pair in zip(first.ravel().tolist(), second.ravel().tolist(), strict=True):
            expected[pair] = expected.get(pair, 0) + 1
        assert count_overlaps(first, second.astype(np.int32)) == expected


def test_detectron2_separate_ids_of_things_and_stuff(register, tmp_path):
    """In the older convention thing 0 and stuff 0 are different classes; `isthing` decides."""
    content = panoptic_sets.make_truth(tmp_path, 0)
    predictions = panoptic_sets.make_predictions(tmp_path, content, 0)
    expected = run(PanopticEvaluator(register(tmp_path, content)), predictions, content)
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
        assert run(PanopticEvaluator(name), predictions, content) == expected
        for _, segments in predictions.values():
            for s in segments:  # without `isthing`, ids are the data set's
                isthing = s.pop("isthing")
                back = {i: category_id for category_id, i in separate[isthing].items()}
                s["category_id"] = back[s["category_id"]]
        assert run(PanopticEvaluator(name), predictions, content) == expected
    finally:
        MetadataCatalog.pop(name)


def test_maps_without_segments(register, tmp_path):
    """Detectron2 allows maps of class * label_divisor + instance, with -1 where there is none."""
    content = panoptic_sets.make_truth(tmp_path, 1)
    predictions = panoptic_sets.make_predictions(tmp_path, content, 1)
    evaluator = PanopticEvaluator(register(tmp_path, content))
    expected = run(evaluator, predictions, content)
    evaluator.reset()
    for image_id, (ids, segments) in predictions.items():
        labels = torch.full_like(ids, -1)
        for k, s in enumerate(segments):
            labels[ids == s["id"]] = s["category_id"] * 1000 + k
        evaluator.process([{"image_id": image_id}], [{"panoptic_seg": (labels, None)}])
    assert evaluator.evaluate() == expected


def test_classes_that_do_not_occur_have_no_number(register, tmp_path, caplog):
    content = panoptic_sets.make_truth(tmp_path, 0)
    predictions = {
        image_id: (torch.zeros_like(ids), [])
        for image_id, (ids, _) in panoptic_sets.make_predictions(tmp_path, content, 0).items()
    }
    evaluator = PanopticEvaluator(register(tmp_path, content))
    with caplog.at_level(logging.INFO, logger="mask2former.evaluation.panoptic"):
        results = run(evaluator, predictions, content)["panoptic_seg"]
    assert results == dict.fromkeys(NAMES, 0)
    assert "cat" in caplog.text and "unicorn" not in caplog.text
    content["annotations"] = [a for a in content["annotations"] if not a["segments_info"]]
    content["images"] = content["images"][2:3]
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    empty = {i: p for i, p in predictions.items() if i == content["images"][0]["id"]}
    results = run(PanopticEvaluator(register(tmp_path, content)), empty, content)["panoptic_seg"]
    assert np.isnan(list(results.values())).all()


def test_images_without_prediction_are_missed(register, tmp_path, caplog):
    content = panoptic_sets.make_truth(tmp_path, 2)
    predictions = panoptic_sets.make_predictions(tmp_path, content, 2)
    evaluator = PanopticEvaluator(register(tmp_path, content))
    left_out = content["images"][0]["id"]
    nothing = {**predictions, left_out: (torch.zeros_like(predictions[left_out][0]), [])}
    expected = run(evaluator, nothing, content)
    del nothing[left_out]
    with caplog.at_level(logging.WARNING, logger="mask2former.evaluation.panoptic"):
        assert run(evaluator, nothing, content) == expected
    assert f"1 of 6 images of {tmp_path / 'panoptic.json'}" in caplog.text
    assert repr(left_out) in caplog.text


def test_predictions_are_replaced_at_the_end(register, tmp_path):
    content = panoptic_sets.make_truth(tmp_path, 3)
    predictions = panoptic_sets.make_predictions(tmp_path, content, 3)
    evaluator = PanopticEvaluator(register(tmp_path, content), tmp_path / "out")
    run(evaluator, predictions, content)
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


def test_test_sets_without_annotations(register, tmp_path):
    content = panoptic_sets.make_truth(tmp_path, 3)
    predictions = panoptic_sets.make_predictions(tmp_path, content, 3)
    name = register(tmp_path, content)
    del content["annotations"]
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    assert run(PanopticEvaluator(name, tmp_path / "out"), predictions, content) == {}
    written = json.loads((tmp_path / "out/predictions.json").read_text())
    assert len(written["annotations"]) == 6
    assert written["annotations"][0]["file_name"] == "000.png"
    assert {s["category_id"] for s in written["annotations"][0]["segments_info"]} <= {1, 3, 4, 9}


def test_mistakes_are_named(register, tmp_path):
    content = panoptic_sets.make_truth(tmp_path, 4)
    predictions = panoptic_sets.make_predictions(tmp_path, content, 4)
    image_id = content["images"][0]["id"]
    ids, segments = predictions[image_id]
    evaluator = PanopticEvaluator(register(tmp_path, content))
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
        PanopticEvaluator(register(tmp_path, content))
    (tmp_path / "panoptic.json").write_text('{"categories": [{"id": 1}]}')
    with pytest.raises(DatasetError, match=r"panoptic\.json .*'name'"):
        PanopticEvaluator(register(tmp_path, content))


def test_tool_for_files(register, tmp_path, capsys):
    """The same numbers from what the evaluator wrote, by one process and by two."""
    main = runpy.run_path(str(REPOSITORY / "tools/evaluate_panoptic.py"))["main"]
    content = panoptic_sets.make_truth(tmp_path, 0)
    predictions = panoptic_sets.make_predictions(tmp_path, content, 0)
    out = tmp_path / "out"
    results = run(PanopticEvaluator(register(tmp_path, content), out), predictions, content)
    options = ["--truth", str(tmp_path / "panoptic.json")]
    options += ["--results", str(out / "predictions.json")]
    for workers in "12":
        main([*options, "--workers", workers, "--output", str(tmp_path / "scores.json")])
        written = json.loads((tmp_path / "scores.json").read_text())
        assert written["classes"].keys() == {c["name"] for c in CATEGORIES}
        assert {name: written[name] for name in NAMES} == pytest.approx(results["panoptic_seg"])
        assert f"{results['panoptic_seg']['PQ']:.3f}" in capsys.readouterr().out

    def fails(match, *more, change=None):
        predicted = json.loads((out / "predictions.json").read_text())
        if change:
            change(predicted["annotations"])
        (out / "changed.json").write_text(json.dumps(predicted))
        files = ["--results", str(out / "changed.json"), "--workers", "1"]
        files += ["--results-folder", str(out / "predictions")]
        with pytest.raises(SystemExit, match=match):
            main([*options[:2], *files, *more])

    fails("no folder /nowhere", "--truth-folder", "/nowhere")
    fails("no prediction for 1 of 6 images: 10", change=lambda a: a.pop(0))
    fails("1 images that .* has not: 5", change=lambda a: a.append({**a[0], "image_id": 5}))
    fails(
        r"image 10: category ids \[5\] are not in",
        change=lambda a: a[0]["segments_info"][0].update(category_id=5),
    )
    fails(
        r"000\.png: ids .* not among the predicted segments",
        change=lambda a: a[0]["segments_info"].pop(0),
    )
