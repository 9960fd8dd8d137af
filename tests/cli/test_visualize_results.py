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

from mask2former.cli.visualize_results import main
from mask2former.data.image import read_image
from mask2former.data.label_maps import read_label_map, read_panoptic_png
from mask2former.data.segmentation import to_rle
from mask2former.evaluation import COCOInstanceEvaluator, PanopticEvaluator, SemanticEvaluator
from mask2former.visualization import (
    draw_instances,
    draw_panoptic,
    draw_semantic,
    palette_color,
    shade,
)
from mask2former_runtime.drawing.colors import shade_numbers


@pytest.fixture
def command(capsys):
    """A function that runs the command and returns its exit status, stdout and stderr."""

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
    """Return what a model without mistakes would predict for an image."""
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
    """The task, the data set, and the file that its evaluator wrote for perfect predictions."""
    task = request.param
    name = f"synthetic_shapes_{task}_val"
    evaluator = EVALUATORS[task](name, output_dir=str(tmp_path / "inference"))
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        evaluator.process([record], [perfect(task, record)])
    evaluator.evaluate()
    return task, name, tmp_path / "inference" / FILES[task]


def test_files_of_evaluators(command, evaluated, tmp_path):
    """Both panels equal drawings from the data set, up to the loss of JPEG."""
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
            both = [
                draw_panoptic(image, ids.numpy(), segments, metadata.stuff_classes, legend=True)
            ] * 2
        elif task == "semantic":
            truth = read_label_map(record["sem_seg_file_name"])
            both = [
                draw_semantic(image, labels, metadata.stuff_classes, legend=True)
                for labels in (truth, output["sem_seg"].argmax(0).numpy())
            ]
        else:
            found = output["instances"]
            kept = found.scores >= 0.5
            categories = found.pred_classes.tolist()
            names = [metadata.thing_classes[i] for i in categories]
            scored = [f"{n} {s:.0%}" for n, s in zip(names, found.scores, strict=True)]
            colors = [
                shade(palette_color(c), i)
                for c, i in zip(categories, shade_numbers(categories), strict=True)
            ]
            masks = found.pred_masks.numpy()
            number = int(kept.sum())
            both = [
                draw_instances(image, masks, names, colors, names=names),
                draw_instances(
                    image, masks[:number], scored[:number], colors[:number], names=names[:number]
                ),
            ]
        drawn = np.asarray(Image.open(path)).astype(int)
        width, height = (max(p.size[axis] for p in both) for axis in (0, 1))
        corners = drawn[-height:, :width], drawn[-height:, -width:]
        for corner, expected in zip(corners, both, strict=True):
            panel = corner[: expected.height, : expected.width]  # legends differ in size
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
    """Files instead of a registered name give the same pictures."""
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
    """The pictures of a test set show only the predictions."""
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


def test_errors_say_what_to_do(command, evaluated, shapes, tmp_path):
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
        ((tmp_path / "text.json", *data), "is not JSON"),
        ((tmp_path / "empty.json", *data), "has no predictions"),
        ((tmp_path / "foreign.json", *data), "has category_id 12345; the data set has"),
        ((results, "--dataset", "no_such_set"), "no data set of this name"),
        ((results, *data, "--json", "a.json"), "--dataset and --json: give one or the other"),
        ((results, "--json", "a.json"), "name the data set by one of: --dataset; --json --images"),
        ((results, *data, "--num", 0), "at least one image"),
        ((tmp_path / "others.json", *data), "has one for 'elsewhere.jpg', the data set's are like"),
    ]
    if task != "instance":
        cases.append(
            ((results, *data, "--confidence-threshold", 0.5), "predictions without scores")
        )
    of_the_file = ("none.json", "is not JSON", "has no predictions")
    for arguments, message in cases:
        status, _, err = command(*arguments, *out)
        assert status == (1 if message in of_the_file else 2), arguments
        assert message in err
    assert not list(tmp_path.glob("out/*"))


def test_real_photographs(command, shared, tmp_path):
    """COCO's panoptic sample with its 133 classes; its ground truth serves as prediction too."""
    folder = shared / "data/coco_panoptic_sample/sample_data"
    json_file = folder / "panoptic_examples.json"
    status, _, err = command(
        json_file, "--json", json_file, "--images", folder / "input_images",
        "--panoptic", folder / "panoptic_examples", "--output", tmp_path,
    )  # fmt: skip
    assert status == 0, err
    assert len(os.listdir(tmp_path)) == 2
