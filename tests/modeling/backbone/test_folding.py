"""Detectron2's ResNet gives the same with folded norms, in values, gradients and state."""

import copy
import functools
import pickle
import re

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_backbone
from torch import nn
from torch.utils.checkpoint import checkpoint

from mask2former.modeling.backbone.folding import FoldingBottleneckBlock, fold_norms


def resnet(depth: int = 50, norm: str = "FrozenBN") -> nn.Module:
    """Build a narrow ResNet whose norms change what passes through them."""
    torch.manual_seed(0)
    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.NORM = depth, norm
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    if depth >= 50:
        cfg.MODEL.RESNETS.WIDTH_PER_GROUP = cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 32
    else:
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    model = build_backbone(cfg)
    stir(model)
    return model


def stir(model: nn.Module) -> None:
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "running_var"):
                module.running_var.uniform_(0.5, 2)
                module.running_mean.normal_(std=0.2)
                module.weight.uniform_(0.3, 0.8)
                module.bias.normal_(std=0.2)


def assert_same(found: dict, expected: dict, tolerance: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).abs().max() <= tolerance * value.abs().max(), name


@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "SyncBN"])
@pytest.mark.parametrize("depth", [18, 50])
@torch.inference_mode()
def test_inference(depth, norm):
    plain = resnet(depth, norm).eval()
    folding = copy.deepcopy(plain)
    fold_norms(folding)
    assert folding.state_dict().keys() == plain.state_dict().keys()
    image = torch.randn(2, 3, 70, 93)
    assert_same(folding(image), plain(image))
    layout = torch.channels_last
    assert_same(folding.to(memory_format=layout)(image), plain(image))
    # weights that change afterwards count
    stir(plain)
    folding.load_state_dict(plain.state_dict())
    assert_same(folding(image), plain(image))
    again = pickle.loads(pickle.dumps(folding))
    assert_same(again(image), plain(image))


@pytest.mark.parametrize("hook", ["register_forward_hook", "register_forward_pre_hook"])
@pytest.mark.parametrize("depth", [18, 50])
@torch.no_grad()
def test_maps_that_somebody_keeps_are_not_overwritten(depth, hook):
    plain = resnet(depth).eval().to(memory_format=torch.channels_last)
    plain._out_features = ["stem", "res2", "res3", "res4", "res5"]
    folding = copy.deepcopy(plain)
    fold_norms(folding)
    image = torch.randn(2, 3, 64, 96).to(memory_format=torch.channels_last)
    assert_same(folding(image), plain(image))
    found = []
    for model in (plain, folding):
        kept = {}
        for name, block in model.named_modules():
            if re.fullmatch(r"res\d\.\d", name):

                def keep(module, inputs, output=None, *, name=name, kept=kept):
                    kept[name] = inputs[0] if output is None else output

                getattr(block, hook)(keep)
        model(image)
        found.append(kept)
    assert len(found[0]) == {18: 8, 50: 16}[depth]
    assert_same(found[1], found[0])


@torch.no_grad()
def test_hooks_of_all_modules_see_maps_that_stay():
    plain = resnet().eval().to(memory_format=torch.channels_last)
    folding = copy.deepcopy(plain)
    fold_norms(folding)
    found = []
    for model in (plain, folding):
        kept = []
        hook = nn.modules.module.register_module_forward_hook(
            lambda module, inputs, output, kept=kept: kept.append(output)
        )
        try:
            model(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
        finally:
            hook.remove()
        found.append([output for output in kept if torch.is_tensor(output)])
    assert len(found[1]) == len(found[0]) > 100
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@torch.no_grad()
def test_a_stage_may_be_changed():
    plain = resnet(18).eval().to(memory_format=torch.channels_last)
    plain._out_features = ["stem", "res2", "res3", "res4", "res5"]
    folding = copy.deepcopy(plain)
    fold_norms(folding)
    for model in (plain, folding):
        model.res2.insert(0, nn.Identity())
        model.res3[1] = nn.ReLU()
        block = model.res4[1]
        block.forward = functools.partial(type(plain.res5[1]).forward, block)
        model.res5.append(nn.Tanh())
    image = torch.randn(1, 3, 64, 64)
    assert_same(folding(image), plain(image))


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_of_blocks_that_are_recomputed(reentrant):
    plain = resnet().eval().to(memory_format=torch.channels_last)
    folding = copy.deepcopy(plain)
    fold_norms(folding)
    for i, block in enumerate(folding.res2):
        folding.res2[i] = Recomputed(block, reentrant)
    gradients = []
    for model in (plain, folding):
        x = torch.randn(1, 8, 32, 32, generator=torch.Generator().manual_seed(0))
        x = x.to(memory_format=torch.channels_last).requires_grad_()
        model.res2(x).square().sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-3)


class Recomputed(nn.Module):
    def __init__(self, block, reentrant):
        super().__init__()
        self.block, self.reentrant = block, reentrant

    def forward(self, *arguments):
        return checkpoint(self.block, *arguments, use_reentrant=self.reentrant)


@pytest.mark.parametrize("trained", ["shortcut", "conv1", "conv3"])
def test_gradients_of_one_layer(trained):
    plain = resnet().eval().requires_grad_(False).to(memory_format=torch.channels_last)
    getattr(plain.res2[0], trained).requires_grad_(True)
    folding = copy.deepcopy(plain)
    fold_norms(folding)
    image = torch.randn(1, 3, 64, 64)
    for model in (plain, folding):
        model(image)["res2"].square().sum().backward()
    wanted = getattr(plain.res2[0], trained).weight.grad
    found = getattr(folding.res2[0], trained).weight.grad
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()


@torch.no_grad()
def test_sums_take_the_place_of_shortcuts():
    model = resnet().eval().to(memory_format=torch.channels_last)
    fold_norms(model)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        model(torch.randn(1, 3, 64, 64))
    counts = {event.key: event.count for event in profile.key_averages()}
    assert counts["mkldnn::_convolution_pointwise_"] == 3 + 4 + 6 + 3


def test_gradients():
    plain = resnet().double().train()
    folding = copy.deepcopy(plain)
    fold_norms(folding)
    image = torch.randn(2, 3, 64, 64).double()
    for model in (plain, folding):
        sum(value.square().mean() for value in model(image).values()).backward()
    expected = {name: p.grad for name, p in plain.named_parameters()}
    assert_same({name: p.grad for name, p in folding.named_parameters()}, expected, 1e-10)


def test_norms_that_follow_the_batch_stay():
    plain = resnet(18, "BN").train()
    folding = copy.deepcopy(plain)
    fold_norms(folding)
    image = torch.randn(2, 3, 64, 64)
    assert_same(folding(image), plain(image), 0)
    for name, value in plain.state_dict().items():
        assert torch.equal(folding.state_dict()[name], value), name


@torch.no_grad()
def test_hooks_see_what_they_did():
    model = resnet().eval()
    fold_norms(model)
    seen = []
    handle = model.res3[0].conv2.norm.register_forward_hook(lambda *a: seen.append(a[2].shape))
    model(torch.randn(1, 3, 64, 64))
    assert seen == [(1, 16, 8, 8)]
    handle.remove()
    model(torch.randn(1, 3, 64, 64))
    assert len(seen) == 1


@torch.no_grad()
def test_the_norm_is_not_run():
    block = resnet().res2[1].eval()
    holder = nn.Sequential(block)
    fold_norms(holder)
    assert type(holder[0]) is FoldingBottleneckBlock
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        holder(torch.randn(1, 32, 9, 9))
    names = {event.key for event in profile.key_averages()}
    assert "mkldnn::_convolution_pointwise" in names
    assert not any("batch_norm" in name for name in names)


@torch.no_grad()
def test_a_program_has_the_plain_operators():
    model = resnet().eval()
    fold_norms(model)
    image = torch.randn(1, 3, 64, 64)
    program = torch.export.export(model, (image,))
    assert "mkldnn" not in str(program.graph)
    assert_same(program.module()(image), model(image))
    assert any(isinstance(m, FrozenBatchNorm2d) for m in model.modules())
