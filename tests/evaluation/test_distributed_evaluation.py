"""Two processes, each with a part of the images, come to the numbers of one."""

import json
from pathlib import Path

import hotcoco.panoptic
import numpy as np
import panoptic_sets
import pytest
import torch
from detectron2.structures import Instances
from detectron2.utils import comm

from mask2former.engine import launch
from mask2former.evaluation import COCOInstanceEvaluator, PanopticEvaluator, SemanticEvaluator

EVALUATORS = {
    "panoptic": PanopticEvaluator,
    "semantic": SemanticEvaluator,
    "instances": COCOInstanceEvaluator,  # whose ground truth, too, is derived by each process
}


def outputs(folder: Path, content: dict) -> dict:
    """Image id -> (input, output) of a model."""
    rng = np.random.default_rng(0)
    predictions = panoptic_sets.make_predictions(folder, content, 0)
    result = {}
    for image in content["images"]:
        ids, segments = predictions[image["id"]]
        scores = torch.from_numpy(rng.uniform(size=(6, *ids.shape)))
        instances = Instances(ids.shape)
        masks = [ids == s["id"] for s in segments]
        instances.pred_masks = torch.stack(masks) if masks else torch.zeros(0, *ids.shape).bool()
        instances.pred_classes = torch.tensor([s["category_id"] for s in segments]).long()
        instances.scores = torch.from_numpy(rng.uniform(size=len(segments)))
        inputs = {"image_id": image["id"], "file_name": str(folder / image["file_name"])}
        output = {"panoptic_seg": (ids, segments), "sem_seg": scores, "instances": instances}
        result[image["id"]] = (inputs, output)
    return result


def evaluate(folder: Path, output_dir: Path, chosen=lambda image_id: True) -> dict:
    content = json.loads((folder / "panoptic.json").read_text())
    name = panoptic_sets.register("test_distributed_evaluation", folder, content)
    results = {}
    try:
        for task, evaluator_class in EVALUATORS.items():
            evaluator = evaluator_class(name, str(output_dir / task))
            evaluator.reset()
            for image_id, (inputs, output) in outputs(folder, content).items():
                if chosen(image_id):
                    evaluator.process([inputs], [output])
            results[task] = evaluator.evaluate()
    finally:
        panoptic_sets.unregister(name)
    return results


def _evaluate_shard(folder: str, output_dir: str) -> None:
    # The main process has a single image, and that is one without any prediction.
    results = evaluate(
        Path(folder), Path(output_dir), lambda i: (i == 13) == comm.is_main_process()
    )
    Path(output_dir, f"rank{comm.get_rank()}.json").write_text(json.dumps(results))


def test_two_processes_equal_one(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("Detectron2's launcher would want two GPUs")
    panoptic_sets.make_truth(tmp_path, 0)
    one, two = tmp_path / "one", tmp_path / "two"
    content = json.loads((tmp_path / "panoptic.json").read_text())
    assert len(outputs(tmp_path, content)[13][1]["instances"]) == 0
    expected = evaluate(tmp_path, one)
    launch(_evaluate_shard, 2, dist_url="auto", args=(str(tmp_path), str(two)))
    gathered = json.loads((two / "rank0.json").read_text())
    for task in EVALUATORS:
        for key, scores in expected[task].items():
            np.testing.assert_equal(gathered[task][key], scores)  # to the last bit
    assert json.loads((two / "rank1.json").read_text()) == {
        "panoptic": None, "semantic": None, "instances": {}
    }  # fmt: skip

    def names(folder):
        return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if "rank" not in p.name)

    assert names(one) == names(two)
    for path in (
        "panoptic/predictions.json",
        "semantic/sem_seg_predictions.json",
        "instances/coco_instances_results.json",
    ):
        ours, theirs = (json.loads((folder / path).read_text()) for folder in (two, one))
        if "panoptic" in path:
            ours, theirs = ours["annotations"], theirs["annotations"]
        assert sorted(map(str, ours)) == sorted(map(str, theirs))
    by_file = hotcoco.panoptic.pq_compute(
        tmp_path / "panoptic.json",
        two / "panoptic/predictions.json",
        gt_folder=tmp_path / "panoptic",
        pred_folder=two / "panoptic/predictions",
    )
    assert 100 * by_file["All"]["pq"] == pytest.approx(gathered["panoptic"]["panoptic_seg"]["PQ"])
