"""Scenes from result files and data sets: which image they belong to, and their colours."""

import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from mask2former.data.segmentation import to_rle
from mask2former.structures import Classes
from mask2former.visualization import palette_color, shade
from mask2former.visualization.object_colors import SteadyColors, shared_colors
from mask2former.visualization.result_files import ResultFile
from mask2former.visualization.scenes import RunLengthMasks, true_scene
from mask2former.visualization.side_by_side import side_by_side
from mask2former_runtime.drawing.labels import LabelStyle
from mask2former_runtime.drawing.scenes import InstanceScene, PanopticScene

CLASSES = Classes(["cat", "dog", "sky"], range(3), ignore_label=255)

# --- Which image a prediction belongs to ---


def entry(name: str) -> dict:
    rle = mask_util.encode(np.asfortranarray(np.ones((2, 3), np.uint8)))
    segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
    return {"file_name": name, "category_id": 0, "segmentation": segmentation}


def found_names(path: Path, record: dict) -> list[str] | None:
    entries = ResultFile(str(path)).find(record)
    return entries and [e["file_name"] for e in entries]


def test_images_are_found_by_their_names(tmp_path):
    path = tmp_path / "r.json"
    names = ["/data/a/1.jpg", "/data/b/1.jpg", "/data/a/2.jpg", "/data/a/2.jpg"]
    path.write_text(json.dumps([entry(name) for name in names]))
    for file_name, expected in [
        ("/data/b/1.jpg", ["/data/b/1.jpg"]),
        ("/moved/b/1.jpg", ["/data/b/1.jpg"]),
        ("/moved/1.jpg", None),  # matches two names
        ("2.jpg", ["/data/a/2.jpg"] * 2),
        ("/data/a/3.jpg", None),
    ]:
        assert found_names(path, {"file_name": file_name, "image_id": 1}) == expected


def test_ids_are_used_only_without_names(tmp_path):
    """The demo numbers images by their position, a data set does not."""
    images = [{"id": 1, "file_name": "dir/b.jpg"}, {"id": 2, "file_name": "dir/a.jpg"}]
    annotations = [
        {"image_id": 1, "file_name": "b.png", "segments_info": []},
        {"image_id": 2, "file_name": "a.png", "segments_info": []},
    ]
    path = tmp_path / "r.json"
    record = {"file_name": "a.jpg", "image_id": 1}
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    assert found_names(path, record) == ["a.png"]
    path.write_text(json.dumps({"annotations": annotations}))
    assert found_names(path, record) == ["b.png"]


def test_segments_below_the_threshold_are_left_out(tmp_path):
    Image.fromarray(np.array([[[1, 0, 0], [2, 0, 0]]], np.uint8)).save(tmp_path / "m.png")
    segments = [
        {"id": 1, "category_id": 9, "score": 0.4},
        {"id": 2, "category_id": 8, "score": 0.6},
    ]
    annotation = {"image_id": 7, "file_name": "m.png", "segments_info": segments}
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"annotations": [annotation]}))
    results = ResultFile(str(path))
    assert results.has_scores
    for threshold, expected in ((None, [1, 2]), (0.5, [2])):
        scene = results.scene(
            results.find({"file_name": "a.jpg", "image_id": 7}), (1, 2),
            Classes(["sky", "cat"], [9, 8], frozenset([1])), threshold=threshold,
        )  # fmt: skip
        assert [segment["id"] for segment in scene.segments] == expected
    assert scene.segments[0]["isthing"] and scene.segments[0]["category_id"] == 1
    del segments[0]["score"]
    path.write_text(json.dumps({"annotations": [annotation]}))
    assert not ResultFile(str(path)).has_scores


def test_the_demos_label_maps(tmp_path):
    Image.fromarray(np.array([[0, 2]], np.uint8)).save(tmp_path / "m.png")
    images = [{"id": 7, "file_name": "a.jpg", "height": 1, "width": 2}]
    content = {"images": images, "annotations": [{"image_id": 7, "file_name": "m.png"}]}
    (tmp_path / "r.json").write_text(json.dumps(content))
    results = ResultFile(str(tmp_path / "r.json"))
    assert results.task == "semantic"
    entries = results.find({"file_name": "a.jpg"})
    scene = results.scene(entries, (1, 2), CLASSES)
    assert scene.labels.tolist() == [[0, 2]]


# --- The same object in the same colour ---


def rle_of(mask: np.ndarray) -> dict:
    return mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))


def blocks(*corners: int) -> list[np.ndarray]:
    """10x10 squares in a row, each starting at one of `corners`."""
    masks = []
    for x in corners:
        mask = np.zeros((20, 100), bool)
        mask[5:15, x : x + 10] = True
        masks.append(mask)
    return masks


def as_scene(kind: str, masks: list[np.ndarray], categories: list[int]):
    if kind == "instance":
        return InstanceScene(RunLengthMasks([rle_of(mask) for mask in masks]), categories)
    ids = np.zeros((20, 100), np.int32)
    for i, mask in enumerate(masks):
        ids[mask] = 10 * i + 5
    segments = [
        {"id": 10 * i + 5, "category_id": c, "isthing": True} for i, c in enumerate(categories)
    ]
    return PanopticScene(ids, segments)


@pytest.mark.parametrize("kind", ["instance", "panoptic"])
def test_an_object_and_its_prediction_have_one_colour(kind):
    truth = as_scene(kind, blocks(0, 20, 40, 60), [0, 0, 1, 0])
    # close to the last object, too far off, of another class, near no object, and exact
    prediction = as_scene(kind, blocks(63, 26, 40, 85, 0), [0, 0, 0, 0, 0])
    own, found = shared_colors(truth, prediction, CLASSES)
    cat, dog = palette_color(0), palette_color(1)
    assert [own[i] for i in range(4)] == [shade(cat, 0), shade(cat, 1), dog, shade(cat, 2)]
    assert found[0] == own[3]
    assert found[4] == own[0]
    others = {found[i] for i in (1, 2, 3)}
    assert len(others) == 3
    assert not others & set(own.values())


def test_the_better_of_two_predictions_has_the_colour_of_the_object():
    truth = as_scene("instance", blocks(20), [0])
    prediction = as_scene("instance", blocks(22, 21), [0, 0])
    own, found = shared_colors(truth, prediction, CLASSES)
    assert found[1] == own[0] != found[0]


@pytest.mark.parametrize("kind", ["instance", "panoptic"])
def test_colours_where_there_is_nothing(kind):
    scene, nothing = as_scene(kind, blocks(20), [0]), as_scene(kind, [], [])
    assert shared_colors(nothing, scene, CLASSES) == ({}, {0: palette_color(0)})
    assert shared_colors(None, scene, CLASSES) == ({}, {0: palette_color(0)})
    assert shared_colors(scene, nothing, CLASSES) == ({0: palette_color(0)}, {})


@pytest.mark.parametrize("kind", ["instance", "panoptic"])
def test_objects_keep_their_colours_from_frame_to_frame(kind):
    """Squares that move, in another order in each frame; one leaves, and one comes."""
    colors = SteadyColors(CLASSES)
    seen = {}
    rng = np.random.default_rng(0)
    for frame in range(8):
        corners = {"a": 2 * frame, "b": 60 + 2 * frame, "dog": 30 + frame}
        if frame > 4:
            del corners["a"]
            corners["new"] = 10 + frame
        names = list(rng.permutation(list(corners)))
        scene = as_scene(
            kind,
            blocks(*(corners[name] for name in names)),
            [int(name == "dog") for name in names],
        )
        found = colors(scene)
        assert len(found) == len(set(found.values())) == 3
        for i, name in enumerate(names):
            assert found[i] == seen.setdefault(name, found[i]), (frame, name)
    assert {seen["a"], seen["b"]} <= {shade(palette_color(0), i) for i in range(2)}
    assert seen["new"] != seen["b"]
    assert seen["dog"] == palette_color(1)


def test_crowds_are_counted_and_named_apart():
    masks = blocks(0, 20, 40)
    scene = InstanceScene(masks, [0, 0, 1], crowds=[1])
    assert scene.summary(CLASSES) == "2 instances, 1 crowd"
    record = {
        "height": 20, "width": 100,
        "annotations": [
            {"category_id": 0, "segmentation": rle_of(mask), "iscrowd": i == 1}
            for i, mask in enumerate(masks)
        ],
    }  # fmt: skip
    assert list(true_scene("instance", record, CLASSES).crowds) == [1]


# --- Ground truth ---


def test_panoptic_ground_truth_serves_the_other_tasks(shapes):
    instances, panoptic = (
        DatasetCatalog.get(f"synthetic_shapes_{task}_val")[0] for task in ("instance", "panoptic")
    )
    expected = true_scene("instance", instances, CLASSES)
    found = true_scene("instance", panoptic, CLASSES)
    assert sorted(found.categories) == sorted(expected.categories)
    derived = {k: v for k, v in panoptic.items() if k != "sem_seg_file_name"}
    np.testing.assert_array_equal(
        true_scene("semantic", derived, CLASSES).labels,
        true_scene("semantic", panoptic, CLASSES).labels,
    )


def test_segmentations_of_every_kind():
    polygon = [[1.0, 1.0, 6.0, 1.0, 6.0, 5.0, 1.0, 5.0], [7.0, 0.0, 9.0, 0.0, 9.0, 2.0]]
    expected = mask_util.decode(to_rle(polygon, (8, 10)))
    compressed = rle_of(expected)
    changes = np.flatnonzero(np.diff(np.concatenate([[0], expected.T.ravel()])))
    counts = np.diff([0, *changes, expected.size]).tolist()
    for segmentation in (
        compressed,
        {**compressed, "counts": compressed["counts"].decode()},
        {"size": [8, 10], "counts": counts},
    ):
        np.testing.assert_array_equal(mask_util.decode(to_rle(segmentation, (8, 10))), expected)
    for wrong, message in (
        ({"size": [8, 10]}, "needs the keys"),
        ({"size": [8, 10], "counts": "~~"}, "do not decode"),
        ({"size": [10, 8], "counts": counts}, "look swapped"),
        ([[1, 2]], "at least 6"),
        (5, "neither a list of polygons nor an RLE"),
    ):
        with pytest.raises(ValueError, match=message):
            to_rle(wrong, (8, 10))


# --- Composition ---


@pytest.mark.parametrize("size", [(600, 500), (1000, 400)])
def test_pictures_are_complete_beside_each_other(size):
    pictures = [Image.new("RGB", size, color) for color in ((255, 0, 0), (0, 255, 0))]
    joined = np.asarray(side_by_side(pictures, ["one", "a caption that is too long " * 20]))
    width, height = size
    for channel in (0, 1):
        rows, columns = np.nonzero((joined == np.eye(3, dtype=np.uint8)[channel] * 255).all(-1))
        assert len(rows) == width * height
        assert np.ptp(rows) == height - 1 and np.ptp(columns) == width - 1
    wide = width > 1.6 * height
    assert (joined.shape[1] < 2 * width) == wide
    assert (
        joined.shape[0]
        < (2 if wide else 1) * height + 5 * LabelStyle.for_picture(pictures[0]).height
    )
