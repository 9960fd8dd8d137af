from pathlib import Path

import pytest
import torch
from detectron2.utils.events import EventStorage

from mask2former.checkpoint import WeightsError
from mask2former.engine import Trainer, TrainLoop


def train(cfg, iterations, resume=False):
    """Run to ``iterations`` of the schedule of SOLVER.MAX_ITER, from the same initial weights."""
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.max_iter = iterations
    trainer.train()
    return trainer


def weights(trainer):
    return {k: v.clone() for k, v in trainer.model.state_dict().items()}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_equals_an_uninterrupted_one(tiny_cfg, tmp_path, workers):
    tiny_cfg.SOLVER.MAX_ITER = 6
    tiny_cfg.SOLVER.CHECKPOINT_PERIOD = 3
    tiny_cfg.SOLVER.ACCUMULATE_STEPS = 2
    tiny_cfg.DATALOADER.NUM_WORKERS = workers
    tiny_cfg.OUTPUT_DIR = str(tmp_path / "whole")
    whole = weights(train(tiny_cfg, 6))

    tiny_cfg.OUTPUT_DIR = str(tmp_path / "parts")
    train(tiny_cfg, 3)
    tiny_cfg.SEED = 4711  # the checkpoint carries the seed of the run
    resumed = train(tiny_cfg, 6, resume=True)
    assert resumed.start_iter == 3
    parts = weights(resumed)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_another_seed_gives_another_run(tiny_cfg, tmp_path):
    runs = []
    for seed in (1, 2):
        tiny_cfg.SEED = seed
        tiny_cfg.OUTPUT_DIR = str(tmp_path / str(seed))
        runs.append(weights(train(tiny_cfg, 1)))
    assert any(not torch.equal(runs[0][k], runs[1][k]) for k in runs[0])


class Quadratic(torch.nn.Module):
    """A model whose loss is a mean over the batch, so batches can be compared exactly."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))

    def forward(self, batch):
        return {"loss": sum(((self.weight - x["x"]) ** 2).sum() for x in batch) / len(batch)}


def test_accumulating_small_batches_equals_one_large_batch():
    torch.manual_seed(0)
    samples = [{"x": torch.randn(3)} for _ in range(8)]
    results = []
    for size, steps in ((4, 1), (2, 2), (1, 4)):
        model = Quadratic()
        batches = [samples[i : i + size] for i in range(0, 8, size)]
        loop = TrainLoop(
            model,
            batches,
            torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
            device_type="cpu",
            precision=None,
            accumulate_steps=steps,
            seed=0,
        )
        with EventStorage() as storage:
            for loop.iter in range(2):
                loop.run_step()
            losses = storage.history("total_loss").values()
        results.append((model.weight.detach(), losses))
    for weight, losses in results[1:]:
        torch.testing.assert_close(weight, results[0][0])
        assert [x for x, _ in losses] == pytest.approx([x for x, _ in results[0][1]])


def test_mixed_precision_on_the_cpu_trains(tiny_cfg):
    tiny_cfg.SOLVER.AMP.ENABLED = True
    trainer = train(tiny_cfg, 2)
    assert trainer.cfg.SOLVER.AMP.ENABLED
    assert all(v.isfinite().all() for v in weights(trainer).values())
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


def test_a_tiny_set_is_overfitted(tiny_cfg):
    """The loss falls to a tenth: gradients reach all that they must, and targets are right."""
    tiny_cfg.DATASETS.TRAIN = ("synthetic_shapes_instance_val",)  # 4 images
    tiny_cfg.INPUT.MIN_SCALE = tiny_cfg.INPUT.MAX_SCALE = 1.0
    tiny_cfg.INPUT.RANDOM_FLIP = "none"
    # points at the boundary keep some loss however good the masks are
    tiny_cfg.MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO = 0.0
    tiny_cfg.SOLVER.IMS_PER_BATCH = 4
    tiny_cfg.SOLVER.BASE_LR = 0.003
    tiny_cfg.SOLVER.MAX_ITER = 500
    torch.manual_seed(0)
    trainer = Trainer(tiny_cfg)
    batch = next(iter(trainer.data_loader))

    def loss():
        torch.manual_seed(0)
        with torch.no_grad():
            return float(sum(trainer.model.train()(batch).values()))

    before = loss()
    trainer.train()
    assert loss() < before / 10


def test_evaluation_reports_mask_and_box_ap(tiny_cfg):
    trainer = train(tiny_cfg, 1)
    results = Trainer.test(tiny_cfg, trainer.model)
    for task in ("segm", "bbox"):
        assert 0 <= results[task]["AP"] <= 100


def augmented(cfg, sizes, flip=False):
    cfg.TEST.AUG.ENABLED, cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.FLIP = True, sizes, flip
    return cfg


def test_augmented_evaluation_comes_on_top_of_the_plain_one(tiny_cfg):
    model = Trainer.build_model(tiny_cfg).eval()
    plain = Trainer.test(tiny_cfg, model)
    one_view = Trainer.test(augmented(tiny_cfg, [64]), model)
    wanted = {**plain, **{f"{task}_TTA": result for task, result in plain.items()}}
    assert str(one_view) == str(wanted)  # there are NaNs, of sizes that no object has
    Trainer.test(augmented(tiny_cfg, [48, 96], flip=True), model)
    for folder in ("inference", "inference_TTA"):
        files = {path.name for path in (Path(tiny_cfg.OUTPUT_DIR) / folder).iterdir()}
        assert "coco_instances_results.json" in files
    assert not model.training


def test_augmented_evaluation_of_several_data_sets(tiny_cfg):
    tiny_cfg.DATASETS.TEST = (
        "synthetic_shapes_instance_val",
        "synthetic_shapes_instance_train",
    )
    results = Trainer.test(augmented(tiny_cfg, [64]), Trainer.build_model(tiny_cfg))
    assert list(results) == list(tiny_cfg.DATASETS.TEST)
    for name, result in results.items():
        assert list(result) == ["bbox", "segm", "bbox_TTA", "segm_TTA"]
        assert (Path(tiny_cfg.OUTPUT_DIR) / "inference_TTA" / name).is_dir()
    # nonsense is found before the long evaluation starts
    with pytest.raises(ValueError, match="MIN_SIZES"):
        Trainer.test(augmented(tiny_cfg, []), torch.nn.Identity())


def test_training_augments_the_last_evaluation_only(tiny_cfg):
    tiny_cfg.TEST.EVAL_PERIOD = 2
    trainer = train(augmented(tiny_cfg, [48]), 4)
    values = {name: history.values() for name, history in trainer.storage.histories().items()}
    assert [i for _, i in values["segm/AP"]] == [1, 4]
    assert [i for _, i in values["segm_TTA/AP"]] == [4]


@pytest.mark.parametrize("left", ["nothing", "an earlier one", "a damaged one"])
def test_a_run_killed_before_it_wrote_its_final_weights_finishes(tiny_cfg, left):
    tiny_cfg.SOLVER.MAX_ITER = 2
    train(tiny_cfg, 2)
    final = Path(tiny_cfg.OUTPUT_DIR, "model_final.pth")
    earlier = final.read_bytes()
    tiny_cfg.SOLVER.MAX_ITER = 4
    whole = weights(train(tiny_cfg, 4, resume=True))
    if left == "nothing":
        final.unlink()
    else:
        final.write_bytes(earlier if left == "an earlier one" else earlier[:-5000])
    train(tiny_cfg, 4, resume=True)
    saved = torch.load(final, weights_only=True)
    assert saved["iteration"] == 3
    for name, value in whole.items():
        assert torch.equal(saved["model"][name], value), name
    before = final.stat().st_mtime_ns
    train(tiny_cfg, 4, resume=True)
    assert final.stat().st_mtime_ns == before


def test_the_final_weights_are_alone_and_a_finished_run_goes_on_from_its_checkpoint(tiny_cfg):
    tiny_cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupMultiStepLR"  # does not depend on the length
    tiny_cfg.SOLVER.STEPS = ()
    train(tiny_cfg, 4)
    folder = Path(tiny_cfg.OUTPUT_DIR)
    final = torch.load(folder / "model_final.pth", weights_only=True)
    assert set(final) == {"model", "iteration", "final"}
    assert final["final"] == {"iterations": 4, "continue_from": "model_0000003.pth"}
    size, whole = ((folder / f"model_{n}.pth").stat().st_size for n in ("final", "0000003"))
    assert size < 0.4 * whole  # AdamW has two numbers per weight

    tiny_cfg.SOLVER.MAX_ITER = 6
    longer = weights(train(tiny_cfg, 6, resume=True))
    tiny_cfg.OUTPUT_DIR += "_at_once"
    at_once = weights(train(tiny_cfg, 6))
    assert all(torch.equal(longer[name], value) for name, value in at_once.items())

    tiny_cfg.OUTPUT_DIR = str(folder)
    for path in folder.glob("model_0*.pth"):
        path.unlink()
    with pytest.raises(WeightsError, match=r"cannot be resumed from model_0000005\.pth beside it"):
        train(tiny_cfg, 8, resume=True)


def test_a_run_of_an_earlier_version_goes_on_from_its_final_checkpoint(tiny_cfg):
    """It has the state of training in its last file, which `last_checkpoint` names."""
    train(tiny_cfg, 2)
    folder = Path(tiny_cfg.OUTPUT_DIR)
    (folder / "model_0000001.pth").replace(folder / "model_final.pth")
    (folder / "last_checkpoint").write_text("model_final.pth")
    assert train(tiny_cfg, 4, resume=True).start_iter == 2
