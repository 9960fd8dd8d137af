import copy
import pickle

import pytest
import torch
from detectron2.modeling import build_model

from mask2former.engine import build_optimizer
from mask2former.engine.optimizer import ClippedSGD, Clipping
from mask2former.modeling.backbone import D2SwinTransformer, TimmBackbone


def settings(optimizer):
    return {p: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}


def test_groups_by_parameter_name(tiny_cfg):
    """The rule in design terms, restated over names: norms and embeddings do not decay."""
    tiny_cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    model = build_model(tiny_cfg)
    optimizer = build_optimizer(tiny_cfg, model)
    got = settings(optimizer)
    assert len(got) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        lr = 1e-4 if name.startswith("backbone.") else 1e-3
        no_decay = (
            ".norm" in name
            or "decoder_norm" in name
            or (".input_proj." in name and name.split(".")[-2] == "1")  # GroupNorm
            or any(e in name for e in ("query_feat", "query_embed", "predictor.level_embed"))
        )
        assert got[parameter] == pytest.approx((lr, 0.0 if no_decay else 0.05)), name


def test_swin_position_parameters_do_not_decay(tiny_cfg):
    model = torch.nn.Module()
    model.backbone = D2SwinTransformer(
        embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), ape=True
    )
    got = settings(build_optimizer(tiny_cfg, model))
    tables = [p for n, p in model.named_parameters() if "relative_position" in n or "absolute" in n]
    assert len(tables) == 5
    assert all(got[p][1] == 0.0 for p in tables)


@pytest.mark.parametrize("name", ["ADAMW", "SGD"])
def test_full_model_clipping_equals_clipping_by_hand(tiny_cfg, name):
    tiny_cfg.SOLVER.OPTIMIZER = name
    torch.manual_seed(0)
    clipped = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.LayerNorm(4))
    by_hand = copy.deepcopy(clipped)
    optimizer = build_optimizer(tiny_cfg, clipped)
    tiny_cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    plain = build_optimizer(tiny_cfg, by_hand)
    x = torch.randn(8, 5) * 100
    for _ in range(3):
        for model, opt in ((clipped, optimizer), (by_hand, plain)):
            opt.zero_grad()
            (model(x) * torch.arange(4.0)).sum().backward()
        total = torch.cat([p.grad.flatten() for p in by_hand.parameters()]).norm()
        assert total > 0.01
        for p in by_hand.parameters():
            p.grad *= 0.01 / (total + 1e-6)
        optimizer.step()
        plain.step()
    for a, b in zip(clipped.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_unknown_names_are_refused(tiny_cfg):
    model = torch.nn.Linear(2, 2)
    tiny_cfg.SOLVER.OPTIMIZER = "ADAM"
    with pytest.raises(ValueError, match=r"SOLVER\.OPTIMIZER.*ADAMW.*'ADAM'"):
        build_optimizer(tiny_cfg, model)
    tiny_cfg.SOLVER.OPTIMIZER = "ADAMW"
    tiny_cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "all"
    with pytest.raises(ValueError, match=r"CLIP_TYPE.*full_model"):
        build_optimizer(tiny_cfg, model)


@pytest.mark.parametrize("kind", ["full_model", "value", "norm"])
def test_a_pickled_optimizer_goes_on_clipping(tiny_cfg, kind):
    tiny_cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = kind
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.LayerNorm(4))
    optimizer = build_optimizer(tiny_cfg, model)
    (model(torch.randn(8, 5)) * torch.arange(4.0)).sum().backward()
    other_model, other = pickle.loads(pickle.dumps((model, optimizer)))
    for copied, parameter in zip(other_model.parameters(), model.parameters(), strict=True):
        copied.grad = parameter.grad.clone()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    other.step()
    for p, q, old in zip(model.parameters(), other_model.parameters(), before, strict=True):
        assert torch.equal(p, q)
        assert torch.equal(p.grad, q.grad)
        assert not torch.equal(p, old)
    gradients = [p.grad for p in model.parameters()]
    norms = [g.norm().item() for g in gradients]
    measured = {
        "full_model": torch.stack([g.norm() for g in gradients]).norm().item(),
        "value": max(g.abs().max().item() for g in gradients),
        "norm": max(norms),
    }
    assert measured[kind] == pytest.approx(tiny_cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE, rel=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["full_model", "norm", "value", None])
def test_a_gradient_that_is_not_finite_does_not_reach_the_weights(kind, value):
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = ClippedSGD([parameter], lr=1.0)
    optimizer.clipping = Clipping(kind, 0.5) if kind else None
    parameter.grad = torch.tensor([1.0, value])
    if kind == "value" and value == float("inf"):
        optimizer.step()
        assert parameter.tolist() == [-0.5, -0.5]
        return
    with pytest.raises(FloatingPointError, match="the norm of the gradient is"):
        optimizer.step()
    assert parameter.tolist() == [0, 0]


def test_rates_decay_with_the_depth_of_the_layer(tiny_cfg):
    tiny_cfg.SOLVER.LAYER_DECAY = 0.5
    model = torch.nn.Module()
    options = {"depth": 2, "embed_dim": 48, "num_heads": 3}
    model.backbone = TimmBackbone("vit_small_patch14_reg4_dinov2", options=options)
    model.head = torch.nn.Linear(2, 2)
    got = settings(build_optimizer(tiny_cfg, model))
    scale = tiny_cfg.SOLVER.BASE_LR * tiny_cfg.SOLVER.BACKBONE_MULTIPLIER
    backbone = dict(model.backbone.named_parameters())
    # stem, block, block and last norm, pyramid
    for name, layers_behind in {
        "net.patch_embed.proj.weight": 3,
        "net.blocks.0.attn.qkv.weight": 2,
        "net.blocks.1.attn.qkv.weight": 1,
        "net.norm.weight": 1,
        "pyramid.simfp_2.0.weight": 0,
    }.items():
        assert got[backbone[name]][0] == pytest.approx(scale * 0.5**layers_behind), name
    assert got[model.head.weight][0] == pytest.approx(tiny_cfg.SOLVER.BASE_LR)
    for name in ("net.cls_token", "net.reg_token", "net.pos_embed", "net.blocks.0.ls1.gamma"):
        assert got[backbone[name]][1] == 0, name


def test_layer_decay_needs_a_backbone_that_numbers_its_layers(tiny_cfg):
    tiny_cfg.SOLVER.LAYER_DECAY = 0.5
    with pytest.raises(ValueError, match=r"LAYER_DECAY 0.5 needs MODEL.BACKBONE.NAME TimmBackbone"):
        build_optimizer(tiny_cfg, build_model(tiny_cfg))
