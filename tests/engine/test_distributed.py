"""Several processes train and evaluate as one process with all of their images."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.utils import comm
from support import QUICKSTART, TINY
from torch import nn

from mask2former import load_config
from mask2former.data import register_coco_json, register_synthetic
from mask2former.engine import Trainer, launch
from mask2former.engine.distributed import SyncBatchNorm

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the processes would communicate by NCCL"
)

SWIN = [
    *("MODEL.BACKBONE.NAME", "D2SwinTransformer", "MODEL.SWIN.EMBED_DIM", 16),
    *("MODEL.SWIN.DEPTHS", [1, 1, 2, 1], "MODEL.SWIN.NUM_HEADS", [1, 2, 4, 4]),
    *("MODEL.SWIN.WINDOW_SIZE", 4, "MODEL.SWIN.DROP_PATH_RATE", 0.5),
]
# Everything that a run can have beside the published method
EVERYTHING = [
    *("MODEL.MASK_FORMER.PILOTED.GROUPS", 2, "SOLVER.ACCUMULATE_STEPS", 2),
    *("SOLVER.EMA_DECAY", 0.9, "TEST.VALIDATION_LOSS", True, "TEST.EVAL_PERIOD", 2),
    *("SOLVER.BEST_METRIC", "segm/AP", "SOLVER.EARLY_STOPPING_PATIENCE", 9),
    # The first layer loses its masks from the first iteration on.
    *("MODEL.MASK_FORMER.ANNEALING.ENABLED", True, "MODEL.MASK_FORMER.ANNEALING.START", 0.0),
    *("MODEL.MASK_FORMER.ANNEALING.END", 1.0, "MODEL.MASK_FORMER.IGNORE_REGIONS", True),
]


@pytest.fixture(scope="module")
def sparse(datasets, tmp_path_factory):
    """A training set most of whose images are empty."""
    shapes = datasets / "synthetic_shapes"
    truth = json.loads((shapes / "annotations/instances_train.json").read_text())
    kept = {image["id"] for image in truth["images"][::3]}
    truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] in kept]
    path = tmp_path_factory.mktemp("sparse") / "train.json"
    path.write_text(json.dumps(truth))
    return path, shapes / "train"


def averaged(trainer):
    if trainer._average is None:
        return {}
    return {f"ema {name}": v for name, v in trainer._average.state_dict()["values"].items()}


def _train(datasets, sparse, folder, options, until):
    """Train to an iteration; save the losses of each one, the gradients and the results."""
    register_synthetic(datasets)
    if "sparse" not in DatasetCatalog:
        register_coco_json("sparse", *map(str, sparse))
    keys = [*TINY, "SOLVER.IMS_PER_BATCH", 4, "DATALOADER.FILTER_EMPTY_ANNOTATIONS", False]
    keys += ["DATASETS.TRAIN", ("sparse",), "OUTPUT_DIR", str(folder), *options]
    cfg = load_config(str(QUICKSTART), keys)
    Path(folder).mkdir(exist_ok=True)
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    losses = []
    write = trainer._trainer._write_metrics

    def record(values, *args):
        losses.append({name: loss.item() for name, loss in values.items()})
        write(values, *args)

    trainer._trainer._write_metrics = record
    trainer.max_iter = until
    trainer.train()
    everyones = comm.gather(losses)
    results = Trainer.test(cfg, trainer.model)
    if comm.is_main_process():
        model = trainer.checkpointer.model
        found = {
            "losses": [
                {name: sum(one[name] for one in ones) / len(ones) for name in ones[0]}
                for ones in zip(*everyones, strict=True)
            ],
            "gradients": {name: p.grad for name, p in model.named_parameters()},
            "weights": model.state_dict() | averaged(trainer),
            "validation": {
                name: history.latest()
                for name, history in trainer.storage.histories().items()
                if "validation/" in name
            },
            "norm": trainer.storage.history("gradient/norm").latest(),
            "results": json.dumps(results),
        }
        torch.save(found, Path(folder, f"{until}.pth"))


@pytest.mark.parametrize(
    "options",
    [["MODEL.RESNETS.NORM", "FrozenBN"], [*SWIN, *EVERYTHING]],
    ids=["r50", "swin-everything"],
)
def test_two_and_then_four_processes_train_like_one(datasets, sparse, tmp_path, options):
    for until in (1, 4):
        _train(datasets, sparse, tmp_path / "one", options, until)
    for folder, processes, until in (("several", 2, 1), ("several", 4, 4), ("four", 4, 1)):
        launch(_train, processes, args=(datasets, sparse, tmp_path / folder, options, until))

    def found(folder, until):
        return torch.load(tmp_path / folder / f"{until}.pth")

    whole = found("one", 1)
    for other in (found("several", 1), found("four", 1)):
        assert other["losses"] == [pytest.approx(whole["losses"][0], rel=1e-5)]
        assert other["norm"] == pytest.approx(whole["norm"], rel=1e-3)
        assert other["validation"] == pytest.approx(whole["validation"], rel=1e-3)
        assert bool(whole["validation"]) == ("TEST.VALIDATION_LOSS" in options)
        total = torch.cat([g.flatten() for g in whole["gradients"].values()]).norm().item()
        for name, gradient in whole["gradients"].items():
            torch.testing.assert_close(
                other["gradients"][name], gradient, rtol=1e-3, atol=1e-4 * total, msg=name
            )
        for name, value in whole["weights"].items():
            # The first step of AdamW is as long for a gradient that is nothing but rounding.
            gradient = whole["gradients"].get(name.removeprefix("ema "))
            sure = slice(None) if gradient is None else gradient.abs() > 1e-5 * total
            torch.testing.assert_close(
                other["weights"][name][sure], value[sure], rtol=1e-4, atol=1e-4, msg=name
            )
        assert other["results"] == whole["results"]
    # Rounding, which depends on the batch, later moves pixels across the attention's threshold.
    whole, other = found("one", 4), found("several", 4)
    for one, several in zip(whole["losses"], other["losses"], strict=True):
        assert several == pytest.approx(one, rel=1e-2)
    losses = found("one", 1)["losses"] + whole["losses"]
    if "SOLVER.ACCUMULATE_STEPS" not in options:  # there is an empty batch
        assert {loss["loss_mask"] > 0 for loss in losses} == {True, False}
    pairs = [(value, other["weights"][name]) for name, value in whole["weights"].items()]
    same = torch.cat([((a.float() - b.float()).abs() < 1e-4).flatten() for a, b in pairs])
    assert same.float().mean() > 0.95
    assert other["results"] == whole["results"]


def _evaluate(datasets, task, folder):
    register_synthetic(datasets)
    test = "MODEL.MASK_FORMER.TEST"  # an untrained model shall predict segments, too
    keys = [*TINY, f"{test}.OBJECT_MASK_THRESHOLD", 0.0, f"{test}.OVERLAP_THRESHOLD", 0.0]
    cfg = load_config(str(QUICKSTART.with_stem(task)), [*keys, "OUTPUT_DIR", str(folder)])
    torch.manual_seed(0)
    results = Trainer.test(cfg, Trainer.build_model(cfg))
    if comm.is_main_process():
        Path(folder, "results.json").write_text(json.dumps(results))


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_three_processes_evaluate_like_one(datasets, tmp_path, task):
    found = []
    for processes in (1, 3):
        folder = tmp_path / str(processes)
        folder.mkdir()
        launch(_evaluate, processes, args=(datasets, task, folder))
        found.append((folder / "results.json").read_text())
    assert found[0] == found[1]
    values = [value for result in json.loads(found[0]).values() for value in result.values()]
    assert any(value > 0 for value in values)


def _normalise(folder):
    rank, size = comm.get_rank(), comm.get_world_size()
    torch.manual_seed(0)
    x = torch.randn(8, 3, 4, 5) * 7 + 3
    wanted = torch.randn_like(x)
    norm = SyncBatchNorm(3) if size > 1 else nn.BatchNorm2d(3)
    nn.init.uniform_(norm.weight)
    for step in range(3):
        part = (x * (step + 1))[rank::size].requires_grad_()
        y = norm(part)
        (y * wanted[rank::size]).sum().backward()
    torch.save((y, part.grad, norm.weight.grad, norm.state_dict()), Path(folder, f"{rank}{size}"))


def test_batch_normalisation_of_two_processes_is_that_of_their_images(tmp_path):
    _normalise(tmp_path)
    launch(_normalise, 2, args=(tmp_path,))
    y, gradient, weight_gradient, state = torch.load(tmp_path / "01")
    parts = [torch.load(tmp_path / f"{rank}2") for rank in range(2)]
    torch.testing.assert_close(torch.stack([p[0] for p in parts], 1).flatten(0, 1), y)
    torch.testing.assert_close(torch.stack([p[1] for p in parts], 1).flatten(0, 1), gradient)
    torch.testing.assert_close(parts[0][2] + parts[1][2], weight_gradient)
    for _, _, _, other in parts:
        torch.testing.assert_close(other, state)
