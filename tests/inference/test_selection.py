"""Selections keep what they name, in pictures and in files."""

import json

import numpy as np
import pytest
import torch
from demo_runs import ALL_NAMES, IDS
from detectron2.structures import Instances
from PIL import Image

from mask2former.data.label_maps import read_label_map
from mask2former.inference.predictions import of_instances, of_panoptic_seg
from mask2former.inference.selection import Selection, build_selection, class_indices, select
from mask2former.structures import Classes
from mask2former_runtime.prediction import ImageSource
from mask2former_runtime.predictions import InstancePrediction, SemanticPrediction

CLASSES = Classes(["cat", "dog", "Person", "bed, made", "bed"], range(5), ignore_label=255)


def instances(seed: int, count: int = 40) -> InstancePrediction:
    """Random rectangles, the best first."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, 30, 40), bool)
    for mask in masks:
        y, x = rng.integers(0, 20), rng.integers(0, 25)
        mask[y : y + rng.integers(3, 10), x : x + rng.integers(3, 15)] = True
    found = Instances((30, 40))
    found.pred_masks = torch.from_numpy(masks)
    found.pred_classes = torch.from_numpy(rng.integers(0, 3, count))
    found.scores = torch.from_numpy(np.sort(rng.random(count))[::-1].copy())
    return of_instances(found, CLASSES, ImageSource())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.7, 1.0])
def test_suppression_leaves_no_doubles_and_removes_nothing_else(seed, overlap):
    found = instances(seed)
    kept = select(found, Selection(overlap=overlap))
    chosen = {score: i for i, score in enumerate(found.scores.tolist())}
    kept_indices = [chosen[score] for score in kept.scores.tolist()]
    masks, labels = found.masks, found.labels

    def iou(i, j):
        return (masks[i] & masks[j]).sum() / (masks[i] | masks[j]).sum()

    for i in range(len(found)):
        better = [j for j in kept_indices if j < i and labels[j] == labels[i]]
        assert (i in kept_indices) == all(iou(i, j) <= overlap for j in better)
    assert overlap < 1 or len(kept) == len(found)
    assert overlap > 0.3 or len(kept) < len(found)


def test_classes_are_chosen_before_the_best_are():
    found = instances(0)
    kept = select(found, Selection(frozenset({1}), most=3))
    expected = np.flatnonzero(found.labels == 1)[:3]
    assert kept.scores.tolist() == found.scores[expected].tolist()
    assert set(kept.labels.tolist()) == {1}
    np.testing.assert_array_equal(kept.masks, found.masks[expected])
    assert len(select(found, Selection(most=1000))) == len(found)
    assert len(select(found, Selection(frozenset({4})))) == 0


def test_segments():
    ids = np.array([[1, 2, 2], [3, 0, 4]], np.int32)
    segments = [
        {"id": i, "category_id": c, "isthing": c == 0, "score": s}
        for i, c, s in [(1, 0, 0.6), (2, 1, 0.9), (3, 0, 0.8), (4, 0, 0.7)]
    ]
    for selection, expected in [
        (Selection(frozenset({0})), [1, 3, 4]),
        (Selection(most=2), [2, 3]),
        (Selection(frozenset({0}), 2), [3, 4]),
        (Selection(frozenset({2})), []),
    ]:
        output = torch.from_numpy(ids), segments
        kept = select(of_panoptic_seg(output, CLASSES, ImageSource()), selection)
        assert kept.ids == expected
        rows = [[i if i in expected else 0 for i in row] for row in ids]
        assert kept.segment_map.tolist() == rows


def test_pixels_of_other_classes_are_void():
    labels = np.arange(5, dtype=np.int32).reshape(1, 5)
    for classes, void in ((CLASSES, 255), (Classes.numbered(300), 65535)):
        found = SemanticPrediction.from_labels(labels, classes, ImageSource())
        kept = select(found, Selection(frozenset({1, 3})))
        assert kept.label_map.tolist() == [[-1, 1, -1, 3, -1]]
        assert kept.scene().labels.tolist() == [[void, 1, void, 3, void]]


def test_names():
    assert class_indices(["cat,dog"], CLASSES) == [0, 1]
    assert class_indices(["PERSON", " dog , cat"], CLASSES) == [2, 1, 0]
    assert class_indices(["bed, made"], CLASSES) == [3]
    twice = Classes(["cat", "dog", "cat"], range(3))
    assert class_indices(["cat"], twice) == [0, 2]
    for names, message in [
        (["cat,dogg"], "--class dogg: no such class; did you mean dog?"),
        (["pirson"], "did you mean Person?"),
        (["xyz"], "no such class; the model knows cat, dog, Person, bed, made, bed"),
        ([","], "--class names no class"),
    ]:
        with pytest.raises(ValueError) as error:
            class_indices(names, CLASSES)
        assert message in str(error.value)


def test_what_a_task_does_not_have_is_refused():
    for task, arguments, message in [
        ("semantic", {"most": 3}, "--max means nothing for semantic"),
        ("semantic", {"overlap": 0.5}, "--nms is for instances"),
        ("panoptic", {"overlap": 0.5}, "--nms is for instances"),
        ("instance", {"overlap": 1.5}, "--nms 1.5"),
        ("instance", {"overlap": float("nan")}, "--nms nan"),
        ("instance", {"most": 0}, "--max 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            build_selection(task, CLASSES, **arguments)


def test_flags_act_on_the_file(demo, photo, tmp_path):
    photo.save(tmp_path / "a.png")
    arguments = ("--input", tmp_path / "a.png", "--json", tmp_path / "r.json")
    arguments += ("--confidence-threshold", 0)
    found = []
    for flags in ((), ("--class", "DOG"), ("--max", 4), ("--class", "cat", "--class", "dog")):
        status, _, err = demo(*arguments, *flags)
        assert status == 0, err
        found.append(json.loads((tmp_path / "r.json").read_text()))
    everything, dogs, few, both = found
    assert dogs == [r for r in everything if r["category_id"] == IDS[1]]
    assert few == everything[:4]
    assert both == [r for r in everything if r["category_id"] in IDS[:2]]
    assert 0 < len(both) <= len(everything)
    status, _, err = demo(*arguments, "--class", "doog")
    assert status == 2
    assert "error: --class doog: no such class; did you mean dog?" in err


def test_flags_act_on_maps(demo, panoptic_config, photo, tmp_path):
    photo.save(tmp_path / "a.png")
    arguments = ("--input", tmp_path / "a.png", "--task", "semantic")
    arguments += ("--json", tmp_path / "r.json", "--output", tmp_path / "out")
    maps = []
    for flags in ((), ("--class", ALL_NAMES[0])):
        status, _, err = demo(*arguments, *flags, config=panoptic_config)
        assert status == 0, err
        maps.append(read_label_map(tmp_path / "r" / "a.png"))
    np.testing.assert_array_equal(maps[1], np.where(maps[0] == 0, 0, 255))
    with Image.open(tmp_path / "out" / "a.png") as picture:
        drawn = np.asarray(picture.convert("RGB"))
    away = drawn.shape[:2] == maps[1].shape
    assert away and (drawn[maps[1] == 255] == np.asarray(photo)[maps[1] == 255]).mean() > 0.8
    status, _, err = demo(*arguments, "--max", 3, config=panoptic_config)
    assert status == 2 and "--max means nothing for semantic maps" in err
