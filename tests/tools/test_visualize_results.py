"""Predictions beside ground truth, from the files that evaluators and the demo write."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from PIL import Image
from support import REPOSITORY

from mask2former.data.image import read_image
from mask2former.data.label_maps import read_label_map, read_panoptic_png
from mask2former.evaluation import COCOInstanceEvaluator, PanopticEvaluator, SemanticEvaluator
from mask2former.visualization import draw_instances, draw_panoptic, draw_semantic, palette_color
from mask2former.visualization.labels import LabelStyle
from mask2former.visualization.result_files import ResultFile
from mask2former.visualization.scenes import (
    InstanceScene,
    PanopticScene,
    SceneClasses,
    shared_colors,
    to_rle,
    true_scene,
)
from mask2former.visualization.side_by_side import side_by_side
from tools.visualize_results import main

CLASSES = SceneClasses(["cat", "dog", "sky"], None, 255)


@pytest.fixture
def command(capsys):
    """Runs the tool; returns exit status, stdout, stderr."""

    def run(*arguments):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as exit_:
            status = exit_.code
        return status, *capsys.readouterr()

    return run


EVALUATORS = {
    "instance": COCOInstanceEvaluator, "panoptic": PanopticEvaluator, "semantic": SemanticEvaluator
}  # fmt: skip
FILES = {
    "instance": "coco_instances_results.json",
    "panoptic": "predictions.json",
    "semantic": "sem_seg_predictions.json",
}


def perfect(task: str, record: dict) -> dict:
    """What a model that makes no mistake returns for an image."""
    if task == "semantic":
        labels = read_label_map(record["sem_seg_file_name"]).astype(np.int64)
        labels[labels == 255] = 0
        classes = len(MetadataCatalog.get("synthetic_shapes_semantic_val").stuff_classes)
        scores = torch.nn.functional.one_hot(torch.from_numpy(labels), classes)
        return {"sem_seg": scores.permute(2, 0, 1)}
    if task == "panoptic":
        ids = torch.from_numpy(read_panoptic_png(record["pan_seg_file_name"]))
        return {"panoptic_seg": (ids, record["segments_info"])}
    size = record["height"], record["width"]
    rles = [to_rle(a["segmentation"], size) for a in record["annotations"]]
    masks = np.array([mask_util.decode(rle) for rle in rles], bool).reshape(-1, *size)
    found = Instances(size)
    found.pred_masks = torch.from_numpy(masks)
    found.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]])
    found.scores = torch.linspace(0.9, 0.3, len(masks))
    return {"instances": found}


@pytest.fixture(params=["instance", "panoptic", "semantic"])
def evaluated(request, shapes, tmp_path) -> tuple[str, str, Path]:
    """Task, data set and the file that an evaluator wrote of perfect predictions."""
    task = request.param
    name = f"synthetic_shapes_{task}_val"
    evaluator = EVALUATORS[task](name, output_dir=str(tmp_path / "inference"))
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        evaluator.process([record], [perfect(task, record)])
    evaluator.evaluate()
    return task, name, tmp_path / "inference" / FILES[task]


def test_files_of_evaluators(command, evaluated, tmp_path):
    """Both panels are as drawn from the data set, apart from what JPEG does to them."""
    task, name, results = evaluated
    status, out, err = command(results, "--dataset", name, "--output", tmp_path / "out", "--num", 3)
    assert status == 0, err
    assert f"3 pictures of {task} segmentation: {tmp_path / 'out'}" in out
    pictures = sorted((tmp_path / "out").iterdir())
    records = DatasetCatalog.get(name)[:3]
    metadata = MetadataCatalog.get(name)
    assert len(pictures) == 3
    for number, (path, record) in enumerate(zip(pictures, records, strict=True), start=1):
        assert path.name == f"{number:05d}_{Path(record['file_name']).stem}.jpg"
        image, output = read_image(record["file_name"], "RGB"), perfect(task, record)
        if task == "panoptic":
            ids, segments = output["panoptic_seg"]
            colors = {s["id"]: palette_color(i) for i, s in enumerate(segments)}
            both = [
                draw_panoptic(
                    image, ids.numpy(), segments, metadata.stuff_classes, thing_colors=colors
                )
            ] * 2
        elif task == "semantic":
            truth = read_label_map(record["sem_seg_file_name"])
            both = [
                draw_semantic(image, labels, metadata.stuff_classes)
                for labels in (truth, output["sem_seg"].argmax(0).numpy())
            ]
        else:
            found = output["instances"]
            kept = found.scores >= 0.5
            names = [metadata.thing_classes[i] for i in found.pred_classes]
            scored = [f"{n} {s:.0%}" for n, s in zip(names, found.scores, strict=True)]
            colors = [palette_color(i) for i in range(len(found))]
            masks = found.pred_masks.numpy()
            number = int(kept.sum())
            both = [
                draw_instances(image, masks, names, colors),
                draw_instances(image, masks[:number], scored[:number], colors[:number]),
            ]
        drawn = np.asarray(Image.open(path)).astype(int)
        width, height = both[0].size
        panels = drawn[-height:, :width], drawn[-height:, -width:]
        for panel, expected in zip(panels, both, strict=True):
            difference = np.abs(panel - np.asarray(expected))
            assert difference.mean() < 3
            assert np.quantile(difference, 0.99) < 25


def test_threshold_and_progress(command, shapes, tmp_path):
    name = "synthetic_shapes_instance_val"
    record = DatasetCatalog.get(name)[0]
    category = next(iter(MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id))
    rle = to_rle(record["annotations"][0]["segmentation"], (64, 64))
    if isinstance(rle["counts"], bytes):
        rle["counts"] = rle["counts"].decode()
    result = {"image_id": record["image_id"], "category_id": category, "segmentation": rle}
    results = [{**result, "score": score} for score in (0.4, 0.9)]
    (tmp_path / "r.json").write_text(json.dumps(results))
    arguments = (tmp_path / "r.json", "--dataset", name, "--output", tmp_path / "out")
    truth = len(record["annotations"])
    for threshold, count in (
        ((), 1),
        (("--confidence-threshold", 0.1), 2),
        (("--confidence-threshold", 0.95), 0),
    ):
        status, out, err = command(*arguments, *threshold)
        assert status == 0, err
        assert f"prediction: {count} instance" in out + err
        assert f"ground truth: {truth} instance" in out + err
        assert len(list((tmp_path / "out").iterdir())) == 1  # other images have no predictions


def test_own_data(command, evaluated, shapes, tmp_path):
    """Files in place of a registered name give the same pictures."""
    task, name, results = evaluated
    annotations = shapes / "annotations"
    (tmp_path / "classes.txt").write_text(
        "\n".join(MetadataCatalog.get("synthetic_shapes_semantic_val").stuff_classes)
    )
    own = {
        "instance": ("--json", annotations / "instances_val.json"),
        "panoptic": (
            "--json", annotations / "panoptic_val.json", "--panoptic", shapes / "panoptic_val"
        ),
        "semantic": ("--labels", shapes / "semantic_val", "--classes", tmp_path / "classes.txt"),
    }[task]  # fmt: skip
    for folder, data in (("a", ("--dataset", name)), ("b", (*own, "--images", shapes / "val"))):
        status, _, err = command(results, *data, "--output", tmp_path / folder)
        assert status == 0, err
    a, b = (sorted((tmp_path / folder).iterdir()) for folder in "ab")
    assert [path.name for path in a] == [path.name for path in b]
    assert [path.read_bytes() for path in a] == [path.read_bytes() for path in b]


def test_a_data_set_without_ground_truth(command, evaluated, tmp_path):
    """Of a test set there are pictures of the predictions alone."""
    task, name, results = evaluated
    keys = ("file_name", "height", "width", "image_id")
    records = [{k: r[k] for k in keys if k in r} for r in DatasetCatalog.get(name)]
    unlabelled = f"unlabelled_{task}"
    DatasetCatalog.register(unlabelled, lambda: records)
    metadata = {k: v for k, v in MetadataCatalog.get(name).as_dict().items() if k != "name"}
    MetadataCatalog.get(unlabelled).set(**metadata)
    try:
        status, out, err = command(
            results, "--dataset", unlabelled, "--output", tmp_path / "out", "--num", 1
        )
    finally:
        DatasetCatalog.remove(unlabelled)
        MetadataCatalog.remove(unlabelled)
    assert status == 0, err
    assert "ground truth" not in out + err
    (path,) = (tmp_path / "out").iterdir()
    assert Image.open(path).width == 512


# --- Which image a prediction is of ---


def entry(name: str) -> dict:
    rle = mask_util.encode(np.asfortranarray(np.ones((2, 3), np.uint8)))
    segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
    return {"file_name": name, "category_id": 0, "segmentation": segmentation}


def found_names(path: Path, record: dict) -> list[str] | None:
    entries = ResultFile(str(path)).find(record)
    return entries and [e["file_name"] for e in entries]


def test_images_are_told_by_their_names(tmp_path):
    path = tmp_path / "r.json"
    names = ["/data/a/1.jpg", "/data/b/1.jpg", "/data/a/2.jpg", "/data/a/2.jpg"]
    path.write_text(json.dumps([entry(name) for name in names]))
    for file_name, expected in [
        ("/data/b/1.jpg", ["/data/b/1.jpg"]),
        ("/moved/b/1.jpg", ["/data/b/1.jpg"]),
        ("/moved/1.jpg", None),  # which of the two?
        ("2.jpg", ["/data/a/2.jpg"] * 2),
        ("/data/a/3.jpg", None),
    ]:
        assert found_names(path, {"file_name": file_name, "image_id": 1}) == expected


def test_ids_count_only_where_there_are_no_names(tmp_path):
    """The demo numbers images by their position; a data set does not."""
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


def test_the_demos_label_maps(tmp_path):
    Image.fromarray(np.array([[0, 2]], np.uint8)).save(tmp_path / "m.png")
    images = [{"id": 7, "file_name": "a.jpg", "height": 1, "width": 2}]
    content = {"images": images, "annotations": [{"image_id": 7, "file_name": "m.png"}]}
    (tmp_path / "r.json").write_text(json.dumps(content))
    results = ResultFile(str(tmp_path / "r.json"))
    assert results.task == "semantic"
    entries = results.find({"file_name": "a.jpg"})
    scene = results.scene(entries, (1, 2), {}, threshold=0, things=frozenset(), ignore_label=255)
    assert scene.labels.tolist() == [[0, 2]]


# --- The same object in the same colour ---


def rle_of(mask: np.ndarray) -> dict:
    return mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))


def blocks(*corners: int) -> list[np.ndarray]:
    """10x10 squares on a line."""
    masks = []
    for x in corners:
        mask = np.zeros((20, 100), bool)
        mask[5:15, x : x + 10] = True
        masks.append(mask)
    return masks


def as_scene(kind: str, masks: list[np.ndarray], categories: list[int]):
    if kind == "instance":
        return InstanceScene([rle_of(mask) for mask in masks], categories)
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
    # a third off, far off, of another class, nowhere, and exactly there
    prediction = as_scene(kind, blocks(63, 26, 40, 85, 0), [0, 0, 0, 0, 0])
    own, found = shared_colors(truth, prediction)
    assert [own[i] for i in range(4)] == [palette_color(i) for i in range(4)]
    assert found[0] == own[3]
    assert found[4] == own[0]
    others = {found[i] for i in (1, 2, 3)}
    assert len(others) == 3
    assert not others & set(own.values())


def test_of_two_predictions_the_better_is_the_object():
    truth = as_scene("instance", blocks(20), [0])
    prediction = as_scene("instance", blocks(22, 21), [0, 0])
    own, found = shared_colors(truth, prediction)
    assert found[1] == own[0] != found[0]


@pytest.mark.parametrize("kind", ["instance", "panoptic"])
def test_colours_where_there_is_nothing(kind):
    scene, nothing = as_scene(kind, blocks(20), [0]), as_scene(kind, [], [])
    assert shared_colors(nothing, scene) == ({}, {0: palette_color(0)})
    assert shared_colors(None, scene) == ({}, {0: palette_color(0)})
    assert shared_colors(scene, nothing) == ({0: palette_color(0)}, {})


# --- Ground truth ---


def test_panoptic_ground_truth_is_that_of_the_other_tasks(shapes):
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
def test_pictures_are_whole_beside_each_other(size):
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


def test_wrong_commands_say_what_to_do(command, evaluated, shapes, tmp_path):
    task, name, results = evaluated
    out = ("--output", tmp_path / "out")
    (tmp_path / "empty.json").write_text("[]")
    (tmp_path / "text.json").write_text("no JSON")
    foreign = json.loads(results.read_text())
    for annotation in foreign if isinstance(foreign, list) else foreign["annotations"]:
        for part in annotation.get("segments_info", [annotation]):
            part["category_id"] = 12345
    (tmp_path / "foreign.json").write_text(json.dumps(foreign))
    others = json.loads(results.read_text())
    for image in others if isinstance(others, list) else others["images"]:
        image["file_name"] = "elsewhere.jpg"
    (tmp_path / "others.json").write_text(json.dumps(others))
    if task == "panoptic":
        shutil.copytree(results.with_suffix(""), tmp_path / "foreign")
    data = ("--dataset", name)
    cases = [
        ((tmp_path / "none.json", *data), "none.json"),
        ((tmp_path / "text.json", *data), "results cannot be read"),
        ((tmp_path / "empty.json", *data), "has no predictions"),
        ((tmp_path / "foreign.json", *data), "has category_id 12345; the data set has"),
        ((results, "--dataset", "no_such_set"), "no data set of this name"),
        ((results, *data, "--json", "a.json"), "--dataset and --json: give one or the other"),
        ((results, "--json", "a.json"), "name the data set by one of: --dataset; --json --images"),
        ((results, *data, "--num", 0), "at least one image"),
        ((tmp_path / "others.json", *data), "has one for 'elsewhere.jpg', the data set's are like"),
    ]
    if task != "instance":
        cases.append(((results, *data, "--confidence-threshold", 0.5), "which have no scores"))
    for arguments, message in cases:
        status, _, err = command(*arguments, *out)
        assert status == 2, arguments
        assert message in err
    assert not list(tmp_path.glob("out/*"))


def test_real_photographs(command, tmp_path):
    """COCO's panoptic sample with its 133 classes, whose ground truth also is the prediction."""
    sample = REPOSITORY.parent / "shared/data/coco_panoptic_sample"
    if not sample.is_dir():
        pytest.skip("the sample of COCO's panoptic data is not there")
    folder = sample / "sample_data"
    json_file = folder / "panoptic_examples.json"
    status, _, err = command(
        json_file, "--json", json_file, "--images", folder / "input_images",
        "--panoptic", folder / "panoptic_examples", "--output", tmp_path,
    )  # fmt: skip
    assert status == 0, err
    assert len(os.listdir(tmp_path)) == 2
