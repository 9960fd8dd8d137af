"""Mask annealing: the schedule, what queries attend to, and what inference and files know of it."""

import copy

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from small_decoders import LAYERS, K, Q, build, inputs
from support import QUICKSTART, TINY

from mask2former import load_config
from mask2former.checkpoint import Checkpointer, WeightsError
from mask2former.checkpoint.huggingface.weight_names import d2_to_hf
from mask2former.engine import Trainer
from mask2former.modeling.draws import draws_per_image
from mask2former.modeling.transformer_decoder import mask2former_decoder
from mask2former.modeling.transformer_decoder.annealing import MaskAnnealing, drop_masks
from mask2former.structures import PackedMasks

ARGUMENTS = {"start": 0.25, "end": 0.75, "power": 0.9, "max_iter": 80}  # 10 iterations per layer
ON = ["MODEL.MASK_FORMER.ANNEALING.ENABLED", True]
NAME = "sem_seg_head.predictor.annealing.masked"


def annealed(iteration, training=True, **changes):
    decoder = build(annealing={**ARGUMENTS, **changes}).train(training)
    with EventStorage(iteration):
        return decoder, decoder(*inputs())


def test_layers_lose_their_masks_one_after_another():
    annealing = MaskAnnealing(LAYERS, **ARGUMENTS)
    found = torch.tensor([annealing.probabilities(i) for i in range(80)])
    assert (found[:20] == 1).all() and (found[59:] == 0).all()
    assert (found.diff(dim=0) <= 0).all()
    assert ((found > 0) & (found < 1)).sum(1).max() == 1  # one layer at a time
    for layer in range(LAYERS):
        for step in range(1, 10):
            iteration = 19 + 10 * layer + step
            wanted = [0.0] * layer + [(1 - step / 10) ** 0.9] + [1.0] * (LAYERS - 1 - layer)
            assert found[iteration].tolist() == pytest.approx(wanted)


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.0), (1.0, 1.0), (0.5, 0.5), (0.0, 1.0)])
def test_schedules_at_the_limits_end_without_masks(start, end):
    annealing = MaskAnnealing(LAYERS, **{**ARGUMENTS, "start": start, "end": end})
    found = [annealing.probabilities(i) for i in range(80)]
    assert found[-1] == [0.0] * LAYERS
    assert all(0 <= p <= 1 for layers in found for p in layers)
    assert found[0][-1] == (0.0 if end == 0 else 1.0)


@torch.no_grad()
def test_before_and_after_it_the_decoder_is_the_one_with_and_without_masks(monkeypatch):
    with_masks = build().train()(*inputs())
    monkeypatch.setattr(mask2former_decoder, "attention_mask", torch.ones_like)
    everywhere = build().train()(*inputs())
    monkeypatch.undo()
    assert (with_masks["pred_logits"] - everywhere["pred_logits"]).abs().max() > 1e-3
    for iteration, wanted in ((0, with_masks), (79, everywhere)):
        decoder, found = annealed(iteration)
        for mode in (found, decoder.eval()(*inputs())):
            torch.testing.assert_close(mode["pred_masks"], wanted["pred_masks"])
            torch.testing.assert_close(mode["pred_logits"], wanted["pred_logits"])
        assert len(found["aux_outputs"]) == LAYERS


def test_queries_drop_their_masks_at_the_probability_each_on_its_own():
    torch.manual_seed(0)
    allowed = torch.zeros(3, 4000, 5, dtype=torch.bool)
    drop_masks(allowed, 0.3)
    kept = ~allowed.all(-1)
    assert torch.equal(allowed.any(-1), allowed.all(-1))
    assert kept.float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert not torch.equal(kept[0], kept[1])
    for probability, everywhere in ((1.0, False), (0.0, True)):
        allowed = torch.zeros(1, 50, 5, dtype=torch.bool)
        drop_masks(allowed, probability)
        assert (allowed == everywhere).all()


@torch.no_grad()
def test_draws_depend_on_the_iteration_and_the_image_alone():
    decoder = build(annealing=ARGUMENTS).train()
    maps, mask_features = inputs(3)

    def run(images, seeds):
        with EventStorage(24), draws_per_image([{"seed": s} for s in seeds], torch.device("cpu")):
            return decoder([m[images] for m in maps], mask_features[images])["pred_masks"]

    together = run([0, 1, 2], [5, 6, 7])
    for image, seed in enumerate((5, 6, 7)):
        torch.testing.assert_close(run([image], [seed])[0], together[image])
    assert not torch.allclose(run([0], [8])[0], together[0])


@torch.no_grad()
def test_inference_uses_masks_where_most_queries_of_the_last_iteration_did():
    decoder, _ = annealed(36)  # the first layer is done, and the second beyond its half
    assert decoder.annealing.masked.tolist() == [False, False, True, True]
    seen = []

    def look(module, arguments, output):
        seen.append(arguments[-1] is not None)

    for layer in decoder.transformer_cross_attention_layers:
        layer.register_forward_hook(look)
    decoder.eval()(*inputs())
    assert seen == [False, False, True, True]


@torch.no_grad()
def test_without_masks_no_layer_but_the_last_predicts():
    decoder, _ = annealed(79)
    calls = []
    decoder.mask_embed.register_forward_hook(lambda *_: calls.append(1))
    decoder.eval()(*inputs())
    assert len(calls) == 1
    fewer, _ = annealed(79, training=False, end=0.0, start=0.0)
    assert fewer.annealing.masked.all()  # inference changes nothing


def test_training_without_a_counted_iteration_is_refused():
    decoder = build(annealing=ARGUMENTS).train()
    with pytest.raises(RuntimeError, match=r"MODEL\.MASK_FORMER\.ANNEALING needs .* iteration"):
        decoder(*inputs())
    decoder.eval()(*inputs())


def test_every_parameter_gets_a_gradient():
    for iteration in (0, 25, 79):
        decoder, found = annealed(iteration)
        outputs = [found, *found["aux_outputs"]]
        sum(x["pred_masks"].square().sum() + x["pred_logits"].sum() for x in outputs).backward()
        assert [n for n, p in decoder.named_parameters() if p.grad is None] == []


@torch.no_grad()
def test_pilots_keep_the_masks_that_they_are_given():
    piloted = {"groups": 1, "max_queries": 9, "label_noise": 0.0, "noise": "point"}
    piloted |= {"mask_noise": 0.0, "mask_layers": LAYERS}
    masks = torch.zeros(2, 64, 72, dtype=torch.bool)
    masks[0, :20, :30] = masks[1, 40:, 50:] = True
    target = {"labels": torch.tensor([0, K - 1]), "masks": PackedMasks.from_tensor(masks)}
    maps, mask_features = inputs(1)
    runs = []
    for annealing in (None, {**ARGUMENTS, "start": 0.0, "end": 0.0}):
        decoder = build(piloted=piloted, annealing=annealing).train()
        seen = []
        for layer in decoder.transformer_cross_attention_layers:
            layer.register_forward_hook(lambda _m, args, _o, seen=seen: seen.append(args[-1]))
        with EventStorage(0):
            decoder(maps, mask_features, [target])
        runs.append(seen)
    for with_masks, without in zip(*runs, strict=True):
        assert torch.equal(with_masks[:, Q:], without[:, Q:])
        assert without[:, :Q].all()
    assert not all(masks[:, :Q].all() for masks in runs[0])


# --- Files ---


def tiny(*overrides):
    torch.manual_seed(0)
    return build_model(load_config(str(QUICKSTART), [*TINY, "MODEL.DEVICE", "cpu", *overrides]))


@pytest.mark.parametrize("for_training", [False, True])
def test_files_say_whether_the_model_needs_masks(for_training, tmp_path, caplog):
    with_masks, off = tiny(*ON), tiny()
    assert set(with_masks.state_dict()) - set(off.state_dict()) == {NAME}
    without = copy.deepcopy(with_masks)
    without.sem_seg_head.predictor.annealing.masked[0] = False
    for name, model in (("off", off), ("masks", with_masks), ("without", without)):
        Checkpointer(model, str(tmp_path)).save(name)

    def load(model, name):
        checkpointer = Checkpointer(model, for_training=for_training)
        checkpointer.load(str(tmp_path / f"{name}.pth"), checkpointables=[])
        annealing = model.sem_seg_head.predictor.annealing
        return None if annealing is None else annealing.eval()()

    assert load(tiny(*ON), "off") == load(tiny(*ON), "masks") == [1.0, 1.0]
    assert load(tiny(*ON), "without") == [0.0, 1.0]
    assert load(without, "off") == [1.0, 1.0]  # masks of another file are forgotten
    assert load(tiny(), "masks") is None
    with pytest.raises(WeightsError, match=r"ANNEALING\.ENABLED: True in the file, False"):
        load(tiny(), "without")


def test_models_without_masks_are_not_converted():
    state = {NAME: torch.tensor([True, False])}
    with pytest.raises(WeightsError, match="without attention masks"):
        d2_to_hf(state)
    assert d2_to_hf({NAME: torch.ones(2, dtype=torch.bool)}) == {}


def test_a_resumed_run_is_the_uninterrupted_one(tiny_cfg, tmp_path):
    cfg = tiny_cfg
    cfg.merge_from_list([*ON, "SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 3])
    cfg.merge_from_list(["SOLVER.EMA_DECAY", 0.5])
    cfg.OUTPUT_DIR = str(tmp_path / "whole")
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    wanted = trainer.model.state_dict()
    assert not wanted[NAME].any()
    average = torch.load(tmp_path / "whole/model_final_ema.pth")["model"]
    assert torch.equal(average[NAME], wanted[NAME])
    for name in ("model_0000005", "model_final", "model_final_ema"):
        (tmp_path / f"whole/{name}.pth").unlink(missing_ok=True)
    (tmp_path / "whole/last_checkpoint").write_text("model_0000002.pth")
    resumed = Trainer(cfg)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 3
    resumed.train()
    for name, tensor in resumed.model.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name
