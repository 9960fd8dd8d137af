"""What the result types promise, checked with other libraries on results of real models."""

import io
import json
import pickle

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.structures import Instances
from matplotlib.path import Path as MatplotlibPath
from PIL import Image
from pycocotools.coco import COCO
from torch import tensor

from mask2former.inference.predictions import of_instances
from mask2former.inference.segmenters import load_model
from mask2former.structures import Classes
from mask2former_runtime.polygons import polygon_area
from mask2former_runtime.prediction import ImageSource, Prediction

TASKS = ("instance", "panoptic", "semantic")


@pytest.fixture(scope="module")
def predictions(panoptic_config, photo) -> dict[str, Prediction]:
    model = load_model(str(panoptic_config), ["MODEL.DEVICE", "cpu"])
    image = np.asarray(photo)[:, :, ::-1]
    thresholds = {"instance": 0.1, "panoptic": None, "semantic": None}
    return {task: model.segmenter(task, thresholds[task]).find(image) for task in TASKS}


def outputs_of_the_model(panoptic_config, photo, task: str):
    model = load_model(str(panoptic_config), ["MODEL.DEVICE", "cpu"])
    return model.segmenter(task).predictor(np.asarray(photo)[:, :, ::-1])


def test_instances_are_those_of_the_model(predictions, panoptic_config, photo):
    expected = outputs_of_the_model(panoptic_config, photo, "instance")["instances"]
    expected = expected[expected.scores >= 0.1]
    expected = expected[expected.scores.argsort(descending=True, stable=True)]
    found = predictions["instance"]
    assert len(found) == len(expected) > 5
    np.testing.assert_array_equal(found.masks, expected.pred_masks.numpy())
    np.testing.assert_array_equal(found.scores, expected.scores.numpy())
    np.testing.assert_array_equal(found.labels, expected.pred_classes.numpy())
    np.testing.assert_array_equal(found.boxes, expected.pred_boxes.tensor.numpy())


def test_segments_are_those_of_the_model(predictions, panoptic_config, photo):
    ids, segments = outputs_of_the_model(panoptic_config, photo, "panoptic")["panoptic_seg"]
    found = predictions["panoptic"]
    np.testing.assert_array_equal(found.segment_map, ids.numpy())
    assert len(found) == len(segments) >= 3
    for i, segment in enumerate(segments):
        np.testing.assert_array_equal(found.mask(i), ids.numpy() == segment["id"])
        assert found.labels[i] == segment["category_id"]
        assert found.things[i] == segment["isthing"]
        assert found.scores[i] == np.float32(segment["score"])
    assert {found.names[i] for i in range(len(found)) if found.things[i]} <= {"dog", "person"}


@pytest.mark.parametrize("task", TASKS)
def test_parts_agree_with_each_other(predictions, task):
    """Boxes, areas and the map of classes against masks, by loops and pycocotools."""
    found = predictions[task]
    masks = found.masks
    assert masks.dtype == bool and masks.shape == (len(found), *found.size)
    covered = np.zeros(found.size, bool)
    for i, segment in enumerate(found.segments):
        np.testing.assert_array_equal(masks[i], found.mask(i))
        rows, columns = np.nonzero(masks[i])
        edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert segment["box"] == found.boxes[i].tolist() == edges
        assert segment["area"] == len(rows)
        assert segment["name"] == found.classes.names[segment["label"]] == found.names[i]
        covered |= masks[i]
    np.testing.assert_array_equal(found.label_map >= 0, covered)
    best = np.argsort(np.nan_to_num(found.scores), kind="stable")
    expected = np.full(found.size, -1)
    for i in best:
        expected[masks[i]] = found.labels[i]
    np.testing.assert_array_equal(found.label_map, expected)


@pytest.mark.parametrize("task", TASKS)
def test_coco_files_hold_the_masks(predictions, task, tmp_path, capfd):
    found = predictions[task]
    found.save(tmp_path / "new/r.json")
    coco = COCO(str(tmp_path / "new/r.json"))
    annotations = coco.loadAnns(coco.getAnnIds())
    assert len(annotations) == len(found)
    for annotation, mask, label in zip(annotations, found.masks, found.labels, strict=True):
        np.testing.assert_array_equal(coco.annToMask(annotation).astype(bool), mask)
        assert annotation["area"] == mask.sum()
        assert annotation["bbox"] == mask_util.toBbox(annotation["segmentation"]).tolist()
        assert coco.cats[annotation["category_id"]]["name"] == found.classes.names[label]
    assert ("score" in annotations[0]) == (task != "semantic")
    if task != "semantic":
        results = coco.loadRes(found.to_coco(1))
        assert len(results.getAnnIds()) == len(found)


@pytest.mark.parametrize("task", TASKS)
def test_polygons_cover_the_masks(predictions, task):
    """As matplotlib fills them; the areas of holes count negatively."""
    found = predictions[task][[0, 1]]
    y, x = np.mgrid[: found.size[0], : found.size[1]]
    centres = np.stack([x.ravel(), y.ravel()], axis=1) + 0.5
    for mask, polygons in zip(found.masks, found.polygons(), strict=True):
        assert polygons
        assert sum(polygon_area(polygon) for polygon in polygons) == mask.sum()
        vertices = [np.concatenate([polygon, polygon[:1]]) for polygon in polygons]
        filled = np.zeros(len(centres), bool)
        for ring in vertices:
            filled ^= MatplotlibPath(ring).contains_points(centres)
        np.testing.assert_array_equal(filled.reshape(mask.shape), mask)


@pytest.mark.parametrize("task", TASKS)
def test_supervision_gets_everything(predictions, task):
    supervision = pytest.importorskip("supervision")
    found = predictions[task]
    for one in (found, found[[]]):
        detections = one.to_supervision()
        assert isinstance(detections, supervision.Detections) and len(detections) == len(one)
        np.testing.assert_array_equal(detections.mask, one.masks)
        np.testing.assert_array_equal(detections.xyxy, one.boxes)
        np.testing.assert_array_equal(detections.class_id, one.labels)
        assert list(detections["class_name"]) == one.names
        if task == "semantic":
            assert detections.confidence is None
        else:
            np.testing.assert_array_equal(detections.confidence, one.scores)


def test_supervision_takes_detectron2s_instances(panoptic_config, photo):
    """With boxes around the masks, which the published code leaves at 0."""
    supervision = pytest.importorskip("supervision")
    outputs = outputs_of_the_model(panoptic_config, photo, "instance")
    detections = supervision.Detections.from_detectron2(outputs)
    instances = outputs["instances"]
    assert len(detections) == len(instances) > 5
    for box, mask in zip(detections.xyxy, instances.pred_masks.numpy(), strict=True):
        if mask.any():
            rows, columns = np.nonzero(mask)
            assert box.tolist() == [
                columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            ]  # fmt: skip
    assert (detections.area > 0).any()


@pytest.mark.parametrize("task", TASKS)
def test_subsets(predictions, task):
    found = predictions[task]
    for kept in ([2, 0], np.arange(len(found)) % 2 == 0, []):
        chosen = np.arange(len(found))[np.asarray(kept, dtype=None if len(kept) else int)]
        subset = found[kept]
        if task == "semantic":  # classes stay in their order
            chosen = np.sort(chosen)
        assert type(subset) is type(found) and len(subset) == len(chosen)
        np.testing.assert_array_equal(subset.masks, found.masks[chosen])
        np.testing.assert_array_equal(subset.boxes, found.boxes[chosen])
        np.testing.assert_array_equal(subset.labels, found.labels[chosen])
        np.testing.assert_array_equal(subset.scores, found.scores[chosen])
        assert subset.things == [found.things[i] for i in chosen]
        assert (subset.label_map >= 0).sum() == found.masks[chosen].any(0).sum()


@pytest.mark.parametrize("task", TASKS)
def test_pickles_are_equal_and_small(panoptic_config, photo, tmp_path, task):
    photo.save(tmp_path / "photo.png")
    model = load_model(str(panoptic_config), ["MODEL.DEVICE", "cpu"])
    threshold = 0.1 if task == "instance" else None
    source = ImageSource("photo.png", file=tmp_path / "photo.png")
    found = model.segmenter(task, threshold).find(np.asarray(photo)[:, :, ::-1], source)
    content = pickle.dumps(found)
    # One bit per pixel and instance, or one byte per pixel of a map
    planes = -(-len(found) // 8) if task == "instance" else 1
    assert len(content) < planes * photo.width * photo.height + 5000
    copy = pickle.loads(content)
    np.testing.assert_array_equal(copy.masks, found.masks)
    assert repr(copy) == repr(found)
    np.testing.assert_array_equal(np.asarray(copy.plot()), np.asarray(found.plot()))


@pytest.mark.parametrize("task", TASKS)
def test_pictures(predictions, task, photo, tmp_path):
    found = predictions[task]
    picture = np.asarray(found.plot())
    bare = np.asarray(found.plot(legend=False))
    assert bare.shape == (photo.height, photo.width, 3) and (bare != np.asarray(photo)).any()
    np.testing.assert_array_equal(picture[: photo.height, : photo.width], bare)
    found.save(tmp_path / "deep/er/a.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "deep/er/a.png")), picture)
    shown = Image.open(io.BytesIO(found._repr_png_()))
    assert shown.format == "PNG" and max(shown.size) <= 1200
    for name in ("a.xyz", "a"):
        with pytest.raises(ValueError, match=r"choose \.png"):
            found.save(tmp_path / name)


def test_repr_says_what_was_found():
    masks = np.zeros((3, 4, 6), bool)
    masks[0, :2], masks[1, 2:], masks[2, :, :3] = True, True, True

    instances = Instances((4, 6))
    instances.pred_masks = tensor(masks)
    instances.pred_classes = tensor([1, 0, 1])
    instances.scores = tensor([0.9, 0.8, 0.7])
    classes = Classes(["dog", "person"], [1, 2])
    found = of_instances(instances, classes, ImageSource("dir/photo.jpg"))
    assert repr(found) == "InstancePrediction(photo.jpg, 4\u00d76: 2 person, 1 dog)"
    assert repr(found[[]]) == "InstancePrediction(photo.jpg, 4\u00d76: nothing)"
    # Models other than Mask2Former may give no boxes.
    assert found.boxes.tolist() == [[0, 0, 6, 2], [0, 2, 6, 4], [0, 0, 3, 4]]
    with pytest.raises(ValueError, match="image="):
        found.plot()
    assert found.plot(np.zeros((4, 6, 3), np.uint8)).mode == "RGB"


def test_the_demo_writes_a_complete_coco_file(demo, photo, tmp_path, capfd):
    """Beside the list that loadRes takes; also images without instances are in it."""
    photo.save(tmp_path / "7.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "8.png")
    arguments = ["--input", tmp_path / "7.png", tmp_path / "8.png", "--json", tmp_path / "r.json"]
    assert demo(*arguments, "--confidence-threshold", 0.05)[0] == 0
    results = json.loads((tmp_path / "r.json").read_text())
    assert isinstance(results, list) and results
    coco = COCO(str(tmp_path / "r.coco.json"))
    assert sorted(coco.imgs) == [7, 8]
    assert coco.imgs[7]["width"] == photo.width
    annotations = coco.loadAnns(coco.getAnnIds())
    assert [a["id"] for a in annotations] == list(range(1, len(results) + 1))
    for annotation, result in zip(annotations, results, strict=True):
        assert {k: annotation[k] for k in result} == result
        assert mask_util.area(annotation["segmentation"]) == annotation["area"]
    assert len(coco.loadRes(str(tmp_path / "r.json")).getAnnIds()) == len(results)
    assert {c["name"] for c in coco.cats.values()} == {"cat", "dog", "person"}
