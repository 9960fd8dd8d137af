"""Cityscapes' own scripts run on a miniature of the real layout, and say what is missing."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.cityscapes_panoptic import load_cityscapes_panoptic
from detectron2.structures import Instances
from evaluator_configs import make_cfg, switches
from PIL import Image

from mask2former.data import DatasetError
from mask2former.evaluation import build_evaluator, check_evaluation

NAME = "test_cityscapes_evaluation"
HEIGHT, WIDTH = 64, 128
# instanceIds of rectangles: road, sky, void, two cars, a group of cars, a person
LAYOUT = {
    7: (0, 64, 0, 128),
    23: (0, 20, 0, 128),
    4: (56, 64, 0, 128),
    26000: (22, 42, 0, 30),
    26001: (22, 50, 40, 70),
    26: (22, 50, 72, 90),
    24000: (20, 54, 100, 120),
}


@pytest.fixture(scope="module")
def scripts():
    return pytest.importorskip("cityscapesscripts.helpers.labels")


def write_png(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def root(tmp_path, scripts):
    """leftImg8bit/val and gtFine/val of two images of two cities, and the panoptic conversion."""
    from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic

    for city, shift in (("frankfurt", 0), ("lindau", 3)):
        ids = np.zeros((HEIGHT, WIDTH), np.uint16)
        for instance_id, (top, bottom, left, right) in LAYOUT.items():
            ids[top:bottom, left:right] = instance_id
        ids = np.roll(ids, shift, 1)
        labels = np.where(ids < 1000, ids, ids // 1000).astype(np.uint8)
        to_train_id = np.array([scripts.id2label[i].trainId % 256 for i in range(34)], np.uint8)
        stem = f"{city}_000000_000294"
        folder = tmp_path / "gtFine/val" / city
        write_png(folder / f"{stem}_gtFine_instanceIds.png", ids)
        write_png(folder / f"{stem}_gtFine_labelIds.png", labels)
        write_png(folder / f"{stem}_gtFine_labelTrainIds.png", to_train_id[labels])
        size = {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": []}
        (folder / f"{stem}_gtFine_polygons.json").write_text(json.dumps(size))
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        write_png(tmp_path / "leftImg8bit/val" / city / f"{stem}_leftImg8bit.png", image)
    convert2panoptic(str(tmp_path / "gtFine"), None, False, ["val"])
    return tmp_path


@pytest.fixture
def dataset(root):
    """The registration of Detectron2, with other folders."""
    known = MetadataCatalog.get("cityscapes_fine_panoptic_val").as_dict()
    known.pop("name")
    known |= {
        "image_root": str(root / "leftImg8bit/val"),
        "panoptic_root": str(root / "gtFine/cityscapes_panoptic_val"),
        "panoptic_json": str(root / "gtFine/cityscapes_panoptic_val.json"),
        "gt_dir": str(root / "gtFine/val"),
    }
    files = (known[key] for key in ("image_root", "panoptic_root", "panoptic_json"))
    records = load_cityscapes_panoptic(*files, known)
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).set(**known)
    yield records
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def truth(scripts, record, keep=lambda instance_id: True) -> dict:
    """The ground truth of an image as a model would predict it."""
    path = record["sem_seg_file_name"]
    ids = np.asarray(Image.open(path.replace("labelTrainIds", "instanceIds"))).astype(np.int64)
    train_ids = np.asarray(Image.open(path))
    scores = np.zeros((19, HEIGHT, WIDTH), np.float32)
    segments, masks, classes = [], [], []
    panoptic = np.zeros(ids.shape, np.int32)
    for instance_id in np.unique(ids).tolist():
        label = scripts.id2label[instance_id // 1000 or instance_id]
        single = instance_id >= 1000 or not label.hasInstances
        if label.ignoreInEval or not keep(instance_id) or not single:
            continue
        mask = ids == instance_id
        scores[label.trainId, mask] = 1
        panoptic[mask] = len(segments) + 1
        segments.append(
            {
                "id": len(segments) + 1,
                "isthing": label.hasInstances,
                "category_id": label.trainId,
            }
        )
        if label.hasInstances:
            masks.append(mask)
            classes.append(label.trainId)
    scores[:, (train_ids == 13) & (ids == 26)] = np.eye(19, dtype=np.float32)[13][:, None]
    instances = Instances(ids.shape)
    instances.pred_masks = torch.from_numpy(np.stack(masks))
    instances.pred_classes = torch.tensor(classes)
    instances.scores = torch.linspace(0.5, 0.9, len(classes))
    return {
        "panoptic_seg": (torch.from_numpy(panoptic), segments),
        "sem_seg": torch.from_numpy(scores),
        "instances": instances,
    }


def run(evaluator, records, predict) -> dict:
    evaluator.reset()
    for record in records:
        evaluator.process([record], [predict(record)])
    return evaluator.evaluate()


@pytest.fixture
def cfg(shapes, tmp_path):
    return make_cfg(tmp_path / "out", "panoptic", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 19)


def test_ground_truth_against_itself(scripts, cfg, dataset, tmp_path, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    results = run(build_evaluator(cfg, NAME), dataset, lambda record: truth(scripts, record))
    assert set(results) == {"panoptic_seg", "segm", "sem_seg"}
    assert set(results["panoptic_seg"].values()) == {100}
    assert results["segm"] == {"AP": pytest.approx(100), "AP50": pytest.approx(100)}
    assert set(results["sem_seg"]) == {"IoU", "iIoU", "IoU_sup", "iIoU_sup"}
    assert results["sem_seg"]["IoU"] == results["sem_seg"]["IoU_sup"] == 100
    assert not os.listdir(empty)


def test_panoptic_quality_equals_cityscapes(scripts, cfg, dataset, root, capsys):
    """Of predictions where a car is lost and everything is shifted."""
    from cityscapesscripts.evaluation.evalPanopticSemanticLabeling import evaluatePanoptic

    def predict(record):
        output = truth(scripts, record, lambda instance_id: instance_id != 26000)
        ids, segments = output["panoptic_seg"]
        return output | {"panoptic_seg": (ids.roll(4, 0), segments)}

    results = run(build_evaluator(cfg, NAME), dataset, predict)
    inference = Path(cfg.OUTPUT_DIR, "inference")
    expected = evaluatePanoptic(
        str(root / "gtFine/cityscapes_panoptic_val.json"),
        str(root / "gtFine/cityscapes_panoptic_val"),
        str(inference / "predictions.json"),
        str(inference / "predictions"),
        str(root / "results.json"),
    )
    for group, suffix in (("All", ""), ("Things", "_th"), ("Stuff", "_st")):
        for quality in ("pq", "sq", "rq"):
            ours = results["panoptic_seg"][f"{quality.upper()}{suffix}"]
            assert ours == pytest.approx(100 * expected[group][quality], abs=1e-9)
    assert 20 < results["panoptic_seg"]["PQ"] < 90
    # of car, one of two is found in both images and rightly so; of person all
    assert results["segm"]["AP"] == pytest.approx((100 * 1 / 2 + 100) / 2)
    there, predicted = [], []
    for record in dataset:
        train_ids = np.asarray(Image.open(record["sem_seg_file_name"]))
        there.append(train_ids[train_ids != 255])
        predicted.append(predict(record)["sem_seg"].argmax(0).numpy()[train_ids != 255])
    there, predicted = np.concatenate(there), np.concatenate(predicted)
    ious = [
        ((there == k) & (predicted == k)).sum() / ((there == k) | (predicted == k)).sum()
        for k in np.unique(there)
    ]
    assert results["sem_seg"]["IoU"] == pytest.approx(100 * np.mean(ious), abs=1e-9)
    assert results["sem_seg"]["IoU"] < 95


@pytest.mark.parametrize("task", ["instances", "sem_seg"])
def test_sets_of_one_task(scripts, cfg, dataset, root, task):
    """Detectron2's cityscapes_fine_{instance,sem}_seg_val, whose things count from 0."""
    name = "test_cityscapes_evaluation_task"
    kind = {"instances": "instance", "sem_seg": "sem"}[task]
    known = MetadataCatalog.get(f"cityscapes_fine_{kind}_seg_val").as_dict()
    known.pop("name")
    MetadataCatalog.get(name).set(**known | {"gt_dir": str(root / "gtFine/val")})

    def predict(record):
        output = truth(scripts, record)
        output["instances"].pred_classes -= 11
        return output

    try:
        results = run(build_evaluator(cfg, name), dataset, predict)
        cfg.merge_from_list(switches("panoptic_seg"))
        with pytest.raises(ValueError, match="predicts only panoptic_seg"):
            build_evaluator(cfg, name)
    finally:
        MetadataCatalog.remove(name)
    if task == "instances":
        assert results == {"segm": {"AP": pytest.approx(100), "AP50": pytest.approx(100)}}
    else:
        assert results["sem_seg"]["IoU"] == 100


def test_an_image_without_prediction_is_an_error_not_an_exit(scripts, cfg, dataset, capsys):
    cfg.merge_from_list(switches("sem_seg"))
    with pytest.raises(ValueError, match="prediction for every image of the split"):
        run(build_evaluator(cfg, NAME), dataset[:1], lambda record: truth(scripts, record))
    assert "Found no prediction" in capsys.readouterr().out


def test_missing_ground_truth(cfg, dataset, root):
    for path in (root / "gtFine/val").glob("*/*_instanceIds.png"):
        path.unlink()
    with pytest.raises(DatasetError, match=r"_gtFine_instanceIds\.png.*gtFine_trainvaltest\.zip"):
        build_evaluator(cfg, NAME)


def test_missing_scripts(cfg, dataset, monkeypatch):
    monkeypatch.setitem(sys.modules, "cityscapesscripts", None)
    with pytest.raises(ImportError, match="pip install cityscapesscripts"):
        build_evaluator(cfg, NAME)
    cfg.DATASETS.TEST = (NAME,)
    with pytest.raises(ImportError, match="pip install cityscapesscripts"):
        check_evaluation(cfg)
    cfg.merge_from_list(switches("panoptic_seg"))
    check_evaluation(cfg)
    build_evaluator(cfg, NAME)
