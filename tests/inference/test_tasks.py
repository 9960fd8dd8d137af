"""The demo for panoptic and semantic segmentation: what it finds, draws and writes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from demo_runs import ALL_IDS, ALL_NAMES, COLORS, DATA_SET, PANOPTIC_CONFIG, THINGS
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor
from panopticapi.utils import rgb2id
from panopticapi_oracle import pq_compute
from PIL import Image
from support import REPOSITORY
from torch.nn import functional as F

from mask2former.config import load_config
from mask2former.data.image import read_image
from mask2former.data.label_maps import read_label_map
from mask2former.data.metadata import find_classes
from mask2former.inference.predictor import best_classes
from mask2former.inference.run_folder import register_classes
from mask2former.inference.segmenters import choose_task, load_model
from mask2former.structures import Classes
from mask2former.visualization import draw_panoptic, draw_semantic
from mask2former_runtime.prediction import ImageSource
from mask2former_runtime.predictions import SemanticPrediction


@pytest.fixture
def image(photo, tmp_path) -> Path:
    photo.save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def expected(config: Path, image: Path, *overrides: object) -> dict:
    """Return the result of Detectron2's predictor with all tasks on."""
    weights = ["MODEL.WEIGHTS", str(config.with_name("model_final.pth"))]
    cfg = load_config(str(config), [*weights, *overrides])
    register_classes(cfg, find_classes(cfg, str(config)))
    predictor = DefaultPredictor(cfg)
    predictor.model.to(memory_format=torch.channels_last)  # rounds alike
    return predictor(read_image(image))


def panoptic_of(json_file: Path) -> tuple[np.ndarray, list[dict], dict]:
    """Return the map and segments of the only image, read by COCO's code, and the JSON content."""
    content = json.loads(json_file.read_text())
    (annotation,) = content["annotations"]
    png = json_file.with_suffix("") / annotation["file_name"]
    return rgb2id(np.asarray(Image.open(png))), annotation["segments_info"], content


def test_published_configs_choose_the_task_of_their_folder():
    files = sorted(REPOSITORY.glob("configs/*/*-segmentation/**/*.yaml"))
    assert len(files) > 50
    for file in files:
        task = next(part for part in file.parts if part.endswith("-segmentation"))
        if "Base" not in file.name:
            cfg = load_config(str(file))
            classes = find_classes(cfg, str(file))
            assert classes is not None, file
            assert f"{choose_task(cfg, None, classes, str(file))}-segmentation" == task, file


@pytest.mark.parametrize("given", [None, 0.6])
def test_panoptic_results_equal_the_models_output(demo, panoptic_config, image, given):
    overrides = () if given is None else ("MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD", given)
    ids, segments = expected(panoptic_config, image, *overrides)["panoptic_seg"]
    results = image.with_name("r.json")
    threshold = () if given is None else ("--confidence-threshold", given)
    status, out, err = demo("--input", image, "--json", results, *threshold, config=panoptic_config)
    assert status == 0, err
    things = sum(segment["isthing"] for segment in segments)
    stuff = len(segments) - things
    assert f"{things} thing{'s' * (things != 1)}, {stuff} stuff in" in out
    written, info, content = panoptic_of(results)
    np.testing.assert_array_equal(written, ids)
    assert [s["id"] for s in info] == [s["id"] for s in segments]
    for found, segment in zip(info, segments, strict=True):
        assert found["category_id"] == ALL_IDS[segment["category_id"]]
        assert found.get("score") == segment.get("score")
        rows, columns = np.nonzero(written == segment["id"])
        left, top, width, height = found["bbox"]
        assert (left, left + width - 1) == (columns.min(), columns.max())
        assert (top, top + height - 1) == (rows.min(), rows.max())
        assert found["area"] == len(rows)
    assert content["images"] == [
        {"id": 1, "file_name": str(image), "height": ids.shape[0], "width": ids.shape[1]}
    ]
    kinds = {category["name"]: category["isthing"] for category in content["categories"]}
    assert kinds == {name: int(i in THINGS) for i, name in enumerate(ALL_NAMES)}
    assert [tuple(c["color"]) for c in content["categories"]] == COLORS


def test_threshold_acts_on_panoptic_segments(demo, panoptic_config, image):
    found = []
    for threshold in (0, 0.5, 0.7, 1):
        arguments = ("--input", image, "--json", image.with_name("r.json"))
        status, _, err = demo(
            *arguments, "--confidence-threshold", threshold, config=panoptic_config
        )
        assert status == 0, err
        found.append((panoptic_of(image.with_name("r.json"))[0] > 0).sum())
    assert found[0] > found[-2] > 0
    assert found == sorted(found, reverse=True)
    assert found[-1] == 0


def test_panopticapi_reads_the_results(demo, panoptic_config, image, tmp_path):
    shutil.copy(image, tmp_path / "another.png")
    results = tmp_path / "r.json"
    inputs = (image, tmp_path / "another.png")
    assert demo("--input", *inputs, "--json", results, config=panoptic_config)[0] == 0
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == ["another.png", "photo.png"]
    # Each segment matches itself.
    quality = pq_compute(str(results), str(results))
    assert quality["All"]["pq"] == 1
    assert quality["All"]["n"] >= 3


def test_pictures_and_json_show_the_same_segments(demo, panoptic_config, photo, image):
    drawn, results = image.with_name("drawn.png"), image.with_name("r.json")
    arguments = ("--input", image, "--output", drawn, "--json", results)
    assert demo(*arguments, config=panoptic_config)[0] == 0
    ids, info, _ = panoptic_of(results)
    assert len(info) >= 3
    segments = [{**s, "category_id": ALL_IDS.index(s["category_id"])} for s in info]
    picture = draw_panoptic(
        np.asarray(photo), ids, segments, ALL_NAMES, THINGS, COLORS, legend=True
    )
    np.testing.assert_array_equal(np.asarray(Image.open(drawn)), np.asarray(picture))


@pytest.mark.parametrize("kind", ["panoptic", "segmentor"])
def test_semantic_results_equal_the_models_output(demo, kind, request, photo, image):
    """For Mask2Former and Detectron2's models, although the demo never enlarges all scores."""
    config = request.getfixturevalue(f"{kind}_config")
    only = [
        f"MODEL.MASK_FORMER.TEST.{key}" for key in ("PANOPTIC_ON", "INSTANCE_ON")
    ]  # a model with several tasks on resizes in another order
    scores = expected(config, image, only[0], False, only[1], False)["sem_seg"]
    labels = scores.argmax(0).numpy()
    drawn, results = image.with_name("drawn.png"), image.with_name("r.json")
    status, out, err = demo(
        "--input", image, "--output", drawn, "--json", results, "--task", "semantic", config=config
    )
    assert status == 0, err
    content = json.loads(results.read_text())
    (annotation,) = content["annotations"]
    written = read_label_map(results.with_suffix("") / annotation["file_name"])
    assert written.dtype == np.uint8
    np.testing.assert_array_equal(written, labels)
    assert annotation["image_id"] == content["images"][0]["id"]
    assert [c["id"] for c in content["categories"]] == [0, 1, 2, 3]
    assert [c["name"] for c in content["categories"]] == ALL_NAMES
    if kind == "panoptic":
        assert [c["category_id"] for c in content["categories"]] == ALL_IDS
    counts = np.bincount(labels.ravel(), minlength=4)
    assert len(np.unique(labels)) >= 2
    share = f"{counts.max() / labels.size:.0%} {ALL_NAMES[counts.argmax()]} in"
    assert f"photo.png: {len(np.unique(labels))} classes, {share}" in out
    colors = COLORS if kind == "panoptic" else None
    picture = draw_semantic(np.asarray(photo), labels, ALL_NAMES, colors, legend=True)
    np.testing.assert_array_equal(np.asarray(Image.open(drawn)), np.asarray(picture))


def test_semantic_results_if_masks_are_resized_first(demo, panoptic_config, image):
    """A model with all tasks on does this; then the demo has nothing left to enlarge."""
    labels = expected(panoptic_config, image)["sem_seg"].argmax(0).numpy()
    results = image.with_name("r.json")
    first = ("--opts", "MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE", True)
    arguments = ("--input", image, "--json", results, "--task", "semantic", *first)
    assert demo(*arguments, config=panoptic_config)[0] == 0
    written = read_label_map(results.with_suffix("") / "photo.png")
    np.testing.assert_array_equal(written, labels)


def test_instances_of_a_panoptic_model_are_things(demo, panoptic_config, image):
    instances = expected(panoptic_config, image)["instances"]
    instances = instances[instances.pred_masks.flatten(1).any(1)]
    results = image.with_name("r.json")
    status, out, err = demo(
        "--input", image, "--json", results, "--task", "instance", "--confidence-threshold", 0,
        config=panoptic_config,
    )  # fmt: skip
    assert status == 0, err
    written = json.loads(results.read_text())
    assert {r["category_id"] for r in written} <= {ALL_IDS[i] for i in THINGS}
    np.testing.assert_allclose(
        [r["score"] for r in written], instances.scores.sort(descending=True).values.numpy()
    )
    assert f"{len(written)} instances" in out


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_a_model_does_only_the_task(panoptic_config, photo, task):
    """Other results would take gigabytes for a large photograph."""
    weights = ["MODEL.WEIGHTS", str(panoptic_config.with_name("model_final.pth"))]
    model = load_model(str(panoptic_config), weights)
    keys = {"panoptic": "panoptic_seg", "instance": "instances", "semantic": "sem_seg"}
    assert list(model.segmenter(task).predictor(np.asarray(photo))) == [keys[task]]


@pytest.mark.parametrize("chunk_pixels", [1, 2500, 1 << 24])
@pytest.mark.parametrize("size", [(37, 31), (20, 15)])
def test_best_classes_are_those_of_the_resized_scores(chunk_pixels, size):
    torch.manual_seed(0)
    scores = torch.randn(7, 20, 15)
    resized = F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0]
    labels = best_classes(scores, size, chunk_pixels)
    assert torch.equal(labels, resized.argmax(0).int())


def test_many_classes_need_16_bits(tmp_path):
    from mask2former_runtime.result_files import SemanticResults

    labels = np.arange(600, dtype=np.int32).reshape(20, 30) % 300
    classes = Classes([f"class {i}" for i in range(300)], range(300))
    results = SemanticResults(tmp_path / "r.json", classes)
    found = SemanticPrediction.from_labels(labels, classes, ImageSource())
    results.add(found, 1, "a.jpg", "a.png")
    written = read_label_map(tmp_path / "r/a.png")
    assert written.dtype == np.uint16
    np.testing.assert_array_equal(written, labels)


def test_inputs_with_the_same_name_get_separate_maps(demo, panoptic_config, image, tmp_path):
    (tmp_path / "sub").mkdir()
    shutil.copy(image, tmp_path / "sub/photo.png")
    Image.open(image).save(tmp_path / "photo.jpg")
    inputs = [image, tmp_path / "sub/photo.png", tmp_path / "photo.jpg"]
    arguments = ("--input", *inputs, "--json", tmp_path / "r.json", "--task", "semantic")
    assert demo(*arguments, config=panoptic_config)[0] == 0
    annotations = json.loads((tmp_path / "r.json").read_text())["annotations"]
    names = [annotation["file_name"] for annotation in annotations]
    assert names == ["photo.png", "sub/photo.png", "photo-2.png"]
    assert all((tmp_path / "r" / name).is_file() for name in names)


def test_skipped_files_are_not_listed(demo, panoptic_config, image, tmp_path):
    (tmp_path / "bad.jpg").write_text("no image")
    arguments = ("--input", tmp_path / "bad.jpg", image, "--json", tmp_path / "r.json")
    status, out, _ = demo(*arguments, config=panoptic_config)
    assert status == 1
    assert f"1 map in {tmp_path / 'r'} written to {tmp_path / 'r.json'}" in out
    content = json.loads((tmp_path / "r.json").read_text())
    assert [entry["file_name"] for entry in content["images"]] == [str(image)]
    assert content["images"][0]["id"] == content["annotations"][0]["image_id"] == 2
    # No half-written file remains either.
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["photo.png"]


def test_errors_about_tasks_say_what_to_do(
    demo, run_folder, panoptic_config, segmentor_config, image, tmp_path
):
    instance = run_folder / "config.yaml"
    given = ["--input", image]
    output, results = ["--output", tmp_path / "out"], ["--json", tmp_path / "r.json"]
    off = ["--opts", "MODEL.MASK_FORMER.TEST.INSTANCE_ON", False]
    for config, arguments, message in [
        (instance, [*output, "--task", "panoptic"], "without panoptic segmentation, but one for "),
        (instance, [*output, "--task", "panoptic"], "MODEL.MASK_FORMER.TEST.PANOPTIC_ON True"),
        (
            instance,
            [*output, "--task", "semantic"],
            "task instance; if it was trained for that",
        ),
        (instance, [*output, *off], "a model that predicts nothing"),
        (instance, [*output, "--task", "all"], "invalid choice: 'all'"),
        (segmentor_config, [*output, "--task", "panoptic"], "only supports the task semantic"),
        (
            panoptic_config,
            [*output, "--task", "semantic", "--confidence-threshold", 0.3],
            "a threshold means nothing for semantic",
        ),
        (panoptic_config, ["--json", tmp_path / "r"], f"a file such as {tmp_path / 'r.json'}"),
        (panoptic_config, ["--json", tmp_path], "is a folder"),
        (panoptic_config, ["--json", f"{tmp_path}.json"], "photo.png would replace an input"),
        (
            panoptic_config,
            [*results, "--output", tmp_path / "r"],
            "photo.png would replace a picture of --output",
        ),
    ]:
        status, _, err = demo(*given, *arguments, config=config)
        assert status == 2, arguments
        assert message in err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "r").exists()


def test_things_must_be_known(demo, panoptic_config, image, tmp_path):
    """A panoptic model without `metadata.json`, for a data set that is not registered."""
    unknown = PANOPTIC_CONFIG.replace(DATA_SET, "data_set_that_nobody_registered")
    assert not MetadataCatalog.get("data_set_that_nobody_registered").get("thing_classes")
    (tmp_path / "config.yaml").write_text(unknown)
    shutil.copy(panoptic_config.with_name("model_final.pth"), tmp_path)
    status, _, err = demo(
        "--input", image, "--output", tmp_path / "out", config=tmp_path / "config.yaml"
    )
    assert status == 2
    assert "which classes are things" in err
