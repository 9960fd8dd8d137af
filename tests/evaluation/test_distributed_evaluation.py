"""Two processes, each with a part of the images, come to the numbers of one."""

import json
from pathlib import Path

import hotcoco.panoptic
import numpy as np
import panoptic_sets
import pytest
import torch

from mask2former.evaluation import PanopticEvaluator, SemanticEvaluator

EVALUATORS = {"panoptic": PanopticEvaluator, "semantic": SemanticEvaluator}


def outputs(folder: Path, content: dict) -> dict:
    """Image id -> (input, output) of a model."""
    rng = np.random.default_rng(0)
    predictions = panoptic_sets.make_predictions(folder, content, 0)
    result = {}
    for image in content["images"]:
        ids, segments = predictions[image["id"]]
        scores = torch.from_numpy(rng.uniform(size=(6, *ids.shape)))
        inputs = {"image_id": image["id"], "file_name": str(folder / image["file_name"])}
        result[image["id"]] = (inputs, {"panoptic_seg": (ids, segments), "sem_seg": scores})
    return result


def evaluate(folder: Path, output_dir: Path, chosen=lambda image_id: True) -> dict:
    content = json.loads((folder / "panoptic.json").read_text())
    name = panoptic_sets.register("test_distributed_evaluation", folder, content)
    results = {}
    try:
        for task, evaluator_class in EVALUATORS.items():
            evaluator = evaluator_class(name, output_dir / task)
            evaluator.reset()
            for image_id, (inputs, output) in outputs(folder, content).items():
                if chosen(image_id):
                    evaluator.process([inputs], [output])
            results[task] = evaluator.evaluate()
    finally:
        panoptic_sets.unregister(name)
    return results


def _evaluate_shard(folder: str, output_dir: str) -> None:
    from detectron2.utils import comm

    # The main process has a single image.
    results = evaluate(
        Path(folder), Path(output_dir), lambda i: (i == 10) == comm.is_main_process()
    )
    Path(output_dir, f"rank{comm.get_rank()}.json").write_text(json.dumps(results))
    # A process that ends while another still talks to it would abort.
    comm.synchronize()
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    from detectron2.engine import launch

    if torch.cuda.is_available():
        pytest.skip("Detectron2's launcher would want two GPUs")
    panoptic_sets.make_truth(tmp_path, 0)
    one, two = tmp_path / "one", tmp_path / "two"
    expected = evaluate(tmp_path, one)
    launch(_evaluate_shard, 2, dist_url="auto", args=(str(tmp_path), str(two)))
    gathered = json.loads((two / "rank0.json").read_text())
    for task in EVALUATORS:
        for key, scores in expected[task].items():
            np.testing.assert_equal(gathered[task][key], scores)  # to the last bit
    assert json.loads((two / "rank1.json").read_text()) == {
        "panoptic": None, "semantic": None
    }  # fmt: skip

    def names(folder):
        return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if "rank" not in p.name)

    assert names(one) == names(two)
    for path in ("panoptic/predictions.json", "semantic/sem_seg_predictions.json"):
        ours, expected_content = (json.loads((d / path).read_text()) for d in (two, one))
        if "panoptic" in path:
            ours, expected_content = ours["annotations"], expected_content["annotations"]
        assert sorted(map(str, ours)) == sorted(map(str, expected_content))
    by_file = hotcoco.panoptic.pq_compute(
        tmp_path / "panoptic.json",
        two / "panoptic/predictions.json",
        gt_folder=tmp_path / "panoptic",
        pred_folder=two / "panoptic/predictions",
    )
    assert 100 * by_file["All"]["pq"] == pytest.approx(gathered["panoptic"]["panoptic_seg"]["PQ"])
