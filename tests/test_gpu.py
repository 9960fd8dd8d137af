"""The whole model on a GPU: the CPU's numbers, mixed precision, training."""

import copy

import pytest
import torch
from detectron2.modeling import build_model
from support import QUICKSTART, TINY

from mask2former import load_config
from mask2former.data.datasets.synthetic_shapes import THING_CLASSES
from mask2former.engine import Trainer
from mask2former.modeling.postprocessing import (
    instance_inference,
    panoptic_inference,
    semantic_inference,
)
from mask2former.modeling.query_prediction import QueryPrediction

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch):
    """Convolutions on GPUs round their arguments to 10 bits (TF32) unless they are told not to."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def models(size=64):
    torch.manual_seed(0)
    cfg = load_config(str(QUICKSTART), [*TINY, "MODEL.DEVICE", "cpu"])
    model = build_model(cfg).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("sampling_offsets.bias"):
            # At first it leads to centres of pixels, where the slope jumps.
            parameter.data += 0.25 + 0.5 * torch.rand_like(parameter)
    return model, copy.deepcopy(model).cuda(), torch.rand(2, 3, size, size + 32)


def predictions(model, images):
    outputs = model.sem_seg_head(model.backbone(images))
    every = [outputs, *outputs["aux_outputs"]]
    return [x[key] for x in every for key in ("pred_logits", "pred_masks")]


def test_predictions_and_gradients_are_those_of_the_cpu():
    on_cpu, on_gpu, images = models()
    gradients = []
    for model, device in ((on_cpu, "cpu"), (on_gpu, "cuda")):
        found = predictions(model, images.to(device))
        sum(x.square().mean() for x in found).backward()
        gradients.append(({k: p.grad for k, p in model.named_parameters()}, found))
    for result, expected in zip(gradients[1][1], gradients[0][1], strict=True):
        torch.testing.assert_close(result.cpu(), expected, rtol=1e-3, atol=1e-4)
    largest = max(grad.norm() for grad in gradients[0][0].values() if grad is not None)
    for name, expected in gradients[0][0].items():
        result = gradients[1][0][name]
        assert (result is None) == (expected is None), name
        if result is not None:
            # before a normalisation a bias has no effect, but rounding gives it a gradient
            error = (result.cpu() - expected).norm() / expected.norm().clamp(min=1e-3 * largest)
            assert error < 1e-3, name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_stays_near_float32(dtype):
    _, model, images = models()
    with torch.no_grad():
        expected = predictions(model, images.cuda())
        with torch.autocast("cuda", dtype=dtype):
            found = predictions(model, images.cuda())
    assert all(result.isfinite().all() for result in found)
    # the prediction from the initial queries, which no attention mask has touched
    for result, true in zip(found[2:4], expected[2:4], strict=True):
        error = (result.float() - true).norm() / true.norm()
        assert error < (0.01 if dtype == torch.float16 else 0.05)


def test_results_from_logits_are_those_of_the_cpu():
    torch.manual_seed(0)
    class_logits, mask_logits = 3 * torch.randn(30, 6), 4 * torch.randn(30, 24, 32)
    cases = [
        (QueryPrediction(*logits, (96, 128), (90, 120)), (135, 180))
        for logits in ((class_logits, mask_logits), (class_logits.cuda(), mask_logits.cuda()))
    ]
    expected, found = (instance_inference(*case, max_detections=50) for case in cases)
    assert found.pred_masks.is_cuda
    assert torch.equal(found.pred_classes.cpu(), expected.pred_classes)
    torch.testing.assert_close(found.scores.cpu(), expected.scores)
    assert (found.pred_masks.cpu() != expected.pred_masks).float().mean() < 1e-4
    expected, found = (semantic_inference(*case, resize_first=True) for case in cases)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-5)
    expected, found = (
        panoptic_inference(
            *case,
            object_mask_threshold=0.5,
            overlap_threshold=0.3,
            thing_classes={0, 1},
        )
        for case in cases
    )
    for segment, true in zip(found[1], expected[1], strict=True):
        assert segment == {**true, "score": pytest.approx(true["score"])}
    assert (found[0].cpu() != expected[0]).float().mean() < 1e-4


def test_points_sampled_from_targets_are_those_of_the_cpu(tiny_cfg):
    batch = next(iter(Trainer.build_train_loader(tiny_cfg)))
    masks = next(x["instances"].gt_masks for x in batch if len(x["instances"]))
    points = torch.rand(len(masks), 200, 2)
    result = masks.to("cuda").sample(points.cuda())
    torch.testing.assert_close(result.cpu(), masks.sample(points))


def test_the_network_never_waits_for_the_gpu():
    """What a CUDA graph may hold does not."""
    _, model, images = models()
    with torch.no_grad():
        images = images.cuda()
        expected = predictions(model, images)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = predictions(model, images)
        for result in found:
            result.fill_(torch.nan)
        graph.replay()
    for result, true in zip(found, expected, strict=True):
        torch.testing.assert_close(result, true)


@pytest.mark.parametrize("mixed", [False, True])
def test_training(tiny_cfg, tmp_path, mixed):
    """With losses that fall, and a run that goes on where it was interrupted."""
    tiny_cfg.MODEL.DEVICE = "cuda"
    tiny_cfg.SOLVER.AMP.ENABLED = mixed
    tiny_cfg.SOLVER.MAX_ITER = 60
    tiny_cfg.SOLVER.BASE_LR = 0.002
    tiny_cfg.SOLVER.CHECKPOINT_PERIOD = 30
    trainer = Trainer(tiny_cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert next(trainer.model.parameters()).dtype == torch.float32
    history = [x for x, _ in trainer.storage.history("total_loss").values()]
    assert sum(history[-10:]) < 0.95 * sum(history[:10])
    scale = trainer._trainer.grad_scaler.get_scale()
    assert (scale > 1) == mixed

    resumed = Trainer(tiny_cfg)
    (tmp_path / "run/last_checkpoint").write_text("model_0000029.pth")
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 30
    assert resumed._trainer.grad_scaler.get_scale() == scale
    resumed.train()
    again = [x for x, _ in resumed.storage.history("total_loss").values()]
    # sums in no fixed order drift apart, slowly at first
    assert again[-30:][:3] == pytest.approx(history[30:33], rel=0.02 if mixed else 1e-3)


def test_evaluation_under_mixed_precision(tiny_cfg):
    tiny_cfg.MODEL.DEVICE = "cuda"
    tiny_cfg.SOLVER.AMP.ENABLED = True
    results = Trainer.test(tiny_cfg, Trainer.build_model(tiny_cfg))
    assert 0 <= results["segm"]["AP"] <= 100
    assert len([key for key in results["segm"] if key.startswith("AP-")]) == len(THING_CLASSES)
