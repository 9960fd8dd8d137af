"""The numbers are those of counting by hand, and of Detectron2's evaluator."""

import json
import logging
import warnings

import numpy as np
import panoptic_sets
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from PIL import Image

from mask2former.data import DatasetError
from mask2former.evaluation import SemanticEvaluator
from mask2former.evaluation.semantic import best_classes


@pytest.fixture
def register(tmp_path):
    """Registers label maps (H, W) as a data set; returns its name and the images' file names."""
    names = []

    def _register(labels, num_classes, ignore_label, suffix=".png", dataset_ids=None):
        name = f"test_semantic_evaluation_{len(names)}"
        names.append(name)
        records = []
        for i, label_map in enumerate(labels):
            path = tmp_path / f"{name}_{i}{suffix}"
            Image.fromarray(label_map).save(path)
            records.append({"file_name": f"{i}.jpg", "sem_seg_file_name": str(path)})
        DatasetCatalog.register(name, lambda: [dict(record) for record in records])
        metadata = MetadataCatalog.get(name)
        metadata.set(
            stuff_classes=[f"class{k}" for k in range(num_classes)], ignore_label=ignore_label
        )
        if dataset_ids:
            metadata.set(
                stuff_dataset_id_to_contiguous_id={k: i for i, k in enumerate(dataset_ids)}
            )
        return name, [record["file_name"] for record in records]

    yield _register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def run(evaluator, files, scores):
    evaluator.reset()
    for file_name, score in zip(files, scores, strict=True):
        evaluator.process([{"file_name": file_name}], [{"sem_seg": score}])
    return evaluator.evaluate()


def made_up(rng, num_classes, ignore_label, dtype, images=4):
    """Truth and scores: some right, some wrong, one class never there, one never predicted."""
    labels, scores = [], []
    for _ in range(images):
        height, width = rng.integers(5, 40, 2)
        truth = rng.integers(0, num_classes - 1, (height, width))
        score = rng.standard_normal((num_classes, height, width)) * 0.7
        right = np.where(rng.uniform(size=(1, height, width)) < 0.7, 9, 0)
        np.put_along_axis(score, truth[None], right, axis=0)
        score[0] = -9
        truth[rng.uniform(size=truth.shape) < 0.2] = ignore_label
        labels.append(truth.astype(dtype))
        scores.append(torch.from_numpy(score).float())
    return labels, scores


def by_hand(labels, scores, num_classes, ignore_label) -> dict[str, float]:
    truth, predicted = [], []
    for label_map, score in zip(labels, scores, strict=True):
        for (y, x), t in np.ndenumerate(label_map):
            if t != ignore_label:
                truth.append(int(t))
                predicted.append(int(np.argmax(score[:, y, x])))
    truth, predicted = np.array(truth), np.array(predicted)
    iou, accuracy, frequency = {}, {}, {}
    for k in range(num_classes):
        there = truth == k
        if there.any():
            both = int((there & (predicted == k)).sum())
            iou[k] = 100 * both / int((there | (predicted == k)).sum())
            accuracy[k] = 100 * both / int(there.sum())
            frequency[k] = int(there.sum()) / len(truth)
    return {
        "mIoU": sum(iou.values()) / len(iou),
        "fwIoU": sum(iou[k] * frequency[k] for k in iou),
        **{f"IoU-class{k}": iou.get(k, np.nan) for k in range(num_classes)},
        "mACC": sum(accuracy.values()) / len(accuracy),
        "pACC": 100 * float((truth == predicted).mean()),
        **{f"ACC-class{k}": accuracy.get(k, np.nan) for k in range(num_classes)},
    }


def detectron2(name, files, scores, output_dir) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it divides by zero
        evaluator = SemSegEvaluator(
            name,
            output_dir=str(output_dir),
            sem_seg_loading_fn=lambda path, dtype: np.array(Image.open(path)).astype(dtype),
        )
        results = run(evaluator, files, scores)["sem_seg"]
    # of the boundary, if OpenCV is installed
    return {key: value for key, value in results.items() if "B" not in key}


@pytest.mark.parametrize(
    ("num_classes", "ignore_label", "dtype", "suffix"),
    [
        (3, 255, np.uint8, ".png"),
        (19, 255, np.uint8, ".png"),
        (65, 65, np.uint8, ".png"),
        (150, 255, np.uint8, ".tif"),
        (847, 65535, np.uint16, ".tif"),
        (847, 65535, np.uint16, ".png"),
        (300, 0, np.uint16, ".png"),  # a class to ignore
    ],
)
def test_equals_counting_by_hand_and_detectron2(
    register, tmp_path, num_classes, ignore_label, dtype, suffix
):
    rng = np.random.default_rng(num_classes)
    labels, scores = made_up(rng, num_classes, ignore_label, dtype)
    name, files = register(labels, num_classes, ignore_label, suffix)
    results = run(SemanticEvaluator(name), files, scores)["sem_seg"]
    expected = by_hand(labels, scores, num_classes, ignore_label)
    assert 5 < results["mIoU"] < 95
    assert list(results) == list(expected)
    assert results == pytest.approx(expected, abs=1e-9, rel=0, nan_ok=True)
    if ignore_label < num_classes:
        return  # Detectron2 counts predictions of that class
    expected = detectron2(name, files, scores, tmp_path)
    assert list(results) == list(expected)
    assert results == pytest.approx(expected, abs=1e-9, rel=0, nan_ok=True)


def test_analysis_of_images_and_pixels(register):
    labels, scores = made_up(np.random.default_rng(5), 6, 255, np.uint8)
    name, files = register(labels, 6, 255)
    evaluator = SemanticEvaluator(name)
    run(evaluator, files, scores)
    analysis = evaluator.analysis()
    assert list(analysis.names) == [f"class{k}" for k in range(6)]
    expected = {
        file: by_hand([truth], [score], 6, 255)["mIoU"] / 100
        for file, truth, score in zip(files, labels, scores, strict=True)
    }
    assert analysis.quality == pytest.approx(expected)
    for k in range(6):
        for j in range(6):
            pixels = sum(
                ((truth == k) & (score.argmax(0).numpy() == j)).sum()
                for truth, score in zip(labels, scores, strict=True)
            )
            assert analysis.confusion[k, j] == pixels


def test_files_are_those_of_detectron2(register, tmp_path):
    labels, scores = made_up(np.random.default_rng(0), 5, 255, np.uint8)
    name, files = register(labels, 5, 255, dataset_ids=[1, 4, 6, 90, 91])
    detectron2(name, files, scores, tmp_path / "theirs")
    evaluator = SemanticEvaluator(name, tmp_path / "ours")
    for _ in range(2):  # a second evaluation replaces what the first one wrote
        results = run(evaluator, files, scores)["sem_seg"]
    names = ["sem_seg_evaluation.pth", "sem_seg_predictions.json"]
    assert sorted(p.name for p in (tmp_path / "ours").iterdir()) == names
    ours, theirs = (
        json.loads((tmp_path / side / names[1]).read_text()) for side in ("ours", "theirs")
    )
    assert ours == theirs and len(ours) > 10
    assert {entry["category_id"] for entry in ours} == {4, 6, 90, 91}
    assert torch.load(tmp_path / "ours" / names[0]) == pytest.approx(results, nan_ok=True)
    evaluator.reset()
    evaluator.evaluate()
    assert json.loads((tmp_path / "ours" / names[1]).read_text()) == []


@pytest.mark.parametrize("from_json", [True, False])
def test_ground_truth_may_be_panoptic(tmp_path, from_json):
    """Crowds are of their class, void is ignored, and the convention for ids does not matter."""
    name = "test_semantic_evaluation_panoptic"
    content = panoptic_sets.make_truth(tmp_path, 0)
    panoptic_sets.register(name, tmp_path, content, from_json=from_json)
    rng = np.random.default_rng(0)
    labels, scores = [], []
    for annotation in content["annotations"]:
        ids = panoptic_sets.read_ids(tmp_path / "panoptic" / annotation["file_name"])
        label_map = np.full(ids.shape, 255)
        for s in annotation["segments_info"]:
            label_map[ids == s["id"]] = panoptic_sets.CONTIGUOUS[s["category_id"]]
        labels.append(label_map)
        scores.append(torch.from_numpy(rng.uniform(size=(6, *ids.shape))))
        wide = np.where(label_map < 255, label_map, 0)[None]
        np.put_along_axis(scores[-1].numpy(), wide, 0.8, axis=0)
    files = [str(tmp_path / image["file_name"]) for image in content["images"]]
    try:
        results = run(SemanticEvaluator(name), files, scores)["sem_seg"]
    finally:
        panoptic_sets.unregister(name)
    expected = by_hand(labels, scores, 6, 255)
    values = [expected[key] for key in expected]
    assert list(results.values()) == pytest.approx(values, abs=1e-9, nan_ok=True)
    assert 5 < results["mIoU"] < 95
    assert list(results)[2] == "IoU-cat"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 3, 4), (256, 20, 7), (257, 9, 31), (5, 300, 451), (4, 0, 3)])
def test_best_class_is_the_first_of_the_highest(shape, dtype):
    generator = torch.manual_seed(0)
    scores = torch.randint(-20, 3, shape, generator=generator).to(dtype)  # many are equal
    expected = scores.numpy(force=True) if dtype != torch.bfloat16 else scores.float().numpy()
    labels = best_classes(scores)
    np.testing.assert_array_equal(labels, expected.argmax(axis=0))
    assert labels.dtype.itemsize == (1 if shape[0] <= 256 else 2)
    transposed = best_classes(scores.permute(0, 2, 1))
    np.testing.assert_array_equal(transposed, expected.argmax(axis=0).T)


def test_nothing_to_count(register):
    name, files = register([np.full((4, 4), 255, np.uint8)], 3, 255)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = run(SemanticEvaluator(name), files, [torch.zeros(3, 4, 4)])["sem_seg"]
    assert np.isnan(list(results.values())).all()


def test_table_has_every_class_once(register, caplog):
    labels, scores = made_up(np.random.default_rng(0), 8, 255, np.uint8)
    name, files = register(labels, 8, 255)
    with caplog.at_level(logging.INFO, logger="mask2former.evaluation.semantic"):
        results = run(SemanticEvaluator(name), files, scores)["sem_seg"]
    assert f"mIoU {results['mIoU']:.3f}" in caplog.text
    cells = [cell.strip() for cell in caplog.text.replace("\n", "|").split("|")]
    for k in range(7):
        at = cells.index(f"class{k}")
        assert cells[at + 1 : at + 3] == [
            f"{results[f'{score}-class{k}']:.3f}" for score in ("IoU", "ACC")
        ]
        assert f"class{k}" not in cells[at + 1 :]
    assert "class7" not in cells  # never in the ground truth


def test_mistakes_are_named(register):
    labels, scores = made_up(np.random.default_rng(0), 5, 255, np.uint8)
    labels[0][0, 0] = 5
    labels[1][0, 0] = 254
    name, files = register(labels, 5, 255)
    evaluator = SemanticEvaluator(name)
    evaluator.reset()

    def process(file_name=files[0], **output):
        evaluator.process([{"file_name": file_name}], [output])

    with pytest.raises(ValueError, match=r"image 0\.jpg: .*SEMANTIC_ON"):
        process(instances=None)
    with pytest.raises(ValueError, match=r"predicts 4 classes.* has 5; .*NUM_CLASSES must be 5"):
        process(sem_seg=scores[0][1:])
    with pytest.raises(ValueError, match=r"does not have image .*other\.jpg"):
        process("other.jpg", sem_seg=scores[0])
    with pytest.raises(ValueError, match=r"height and width"):
        process(sem_seg=scores[0][:, 1:])
    with pytest.raises(DatasetError, match=r"_0\.png: labels 5 are neither one of the 5 classes"):
        process(sem_seg=scores[0])
    with pytest.raises(DatasetError, match=r"_1\.png: labels 254 .* ignore label 255"):
        process(files[1], sem_seg=scores[1])
    process(files[2], sem_seg=scores[2])
    MetadataCatalog.get(name).stuff_classes.clear()
    with pytest.raises(DatasetError, match="stuff_classes"):
        SemanticEvaluator(name)


def test_data_without_semantic_ground_truth():
    name = "test_semantic_evaluation_none"
    DatasetCatalog.register(name, lambda: [{"file_name": "a.jpg"}])
    MetadataCatalog.get(name).stuff_classes = ["a"]
    try:
        with pytest.raises(DatasetError, match=r"a\.jpg has neither sem_seg_file_name nor"):
            SemanticEvaluator(name)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
