import math

import pytest
import timm
import torch
from detectron2.layers import ShapeSpec
from support import REPOSITORY
from torch.nn import functional as F

from mask2former import load_config
from mask2former.modeling import TimmBackbone
from mask2former.modeling.draws import draws_per_image

VIT = {"depth": 2, "embed_dim": 48, "num_heads": 3}
SMALL = {
    "efficientnet_lite0": {},
    "convnextv2_atto": {},
    "mobilenetv4_conv_small": {},
    "swinv2_tiny_window8_256": {"embed_dim": 24, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8)},
    "hieradet_small": {"embed_dim": 24, "stages": (1, 1, 2, 1), "global_att_blocks": (3,)},
    "vit_small_patch14_dinov2": VIT,
    "vit_small_patch14_reg4_dinov2": VIT,
    "vit_small_patch16_dinov3": VIT,
    "eva02_small_patch14_224": VIT,
    "vit_base_patch16_siglip_224": VIT,
}
PLAIN = [name for name in SMALL if SMALL[name] is VIT]


def small(name, **arguments):
    torch.manual_seed(0)
    return TimmBackbone(name, options=SMALL[name], **arguments)


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_maps_equal_those_of_timm(name):
    ours = small(name).eval()
    options = dict(SMALL[name])
    image = torch.randn(2, 3, 96, 160)
    if name in PLAIN:
        if "patch14" in name:
            options |= {"patch_size": 16, "img_size": 16 * (37 if "dinov2" in name else 16)}
        theirs = timm.create_model(name, dynamic_img_size=True, **options).eval()
        theirs.load_state_dict(ours.net.state_dict(), strict=False)
        tokens = theirs.forward_features(image)  # those of class and register come first
        last = tokens[:, -60:].transpose(1, 2).unflatten(2, (6, 10))
        expected = list(ours.pyramid(last).values())
    else:
        options |= {"strict_img_size": False} if "swin" in name else {}
        theirs = timm.create_model(name, features_only=True, feature_cls="getter", **options)
        theirs.model.load_state_dict(ours.net.state_dict(), strict=False)
        expected = theirs.eval()(image)[-4:]
    for found, wanted in zip(ours(image).values(), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(33, 65), (64, 64), (1, 200)])
@pytest.mark.parametrize("name", SMALL)
def test_any_size_gives_the_promised_shapes(name, size):
    model = small(name).eval()
    with torch.no_grad():
        maps = model(torch.randn(1, 3, *size))
    assert list(maps) == ["res2", "res3", "res4", "res5"]
    for feature, shape in model.output_shape().items():
        rows, columns = (math.ceil(n / shape.stride) for n in size)
        assert maps[feature].shape == (1, shape.channels, rows, columns)


@pytest.mark.parametrize("name", SMALL)
def test_training_reaches_every_parameter(name):
    """Otherwise training in several processes fails."""
    model = small(name)
    loss = sum(x.square().mean() for x in model(torch.randn(2, 3, 64, 96)).values())
    loss.backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize("name", ["efficientnet_lite0", "vit_small_patch14_reg4_dinov2"])
def test_a_frozen_encoder_keeps_nothing_for_the_backward_pass(name):
    model = small(name, frozen_stages=-1).train()
    before = {n: x.clone() for n, x in model.net.state_dict().items()}
    saved = []

    def keep(x):
        saved.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        maps = model._maps(torch.randn(2, 3, 64, 64))
    assert not saved
    assert not any(x.requires_grad for x in maps)
    assert not any(p.requires_grad for p in model.net.parameters())
    assert all(torch.equal(x, before[n]) for n, x in model.net.state_dict().items())


def test_frozen_stages_count_from_the_image():
    model = small(
        "vit_small_patch14_dinov2", frozen_stages=2
    ).train()  # the stem, one of two blocks
    model(torch.randn(1, 3, 64, 64))["res2"].sum().backward()
    trained = {n for n, p in model.net.named_parameters() if p.grad is not None}
    assert trained == {n for n in dict(model.net.named_parameters()) if "blocks.1." in n} | {
        "norm.weight",
        "norm.bias",
    }


def test_more_frozen_stages_than_there_are_are_refused():
    small("vit_small_patch14_dinov2", frozen_stages=3)
    with pytest.raises(ValueError, match=r"FROZEN_STAGES is 4, but .* has 3 groups"):
        small("vit_small_patch14_dinov2", frozen_stages=4)


def test_frozen_norms_use_and_keep_their_statistics():
    model = small("efficientnet_lite0", freeze_norm=True).train()
    image = torch.randn(2, 3, 64, 64)
    trained = model(image)["res5"]
    torch.testing.assert_close(trained, model.eval()(image)["res5"])
    free = small("efficientnet_lite0").train()
    free.net.load_state_dict(model.net.state_dict(), strict=False)
    assert not torch.allclose(trained, free(image)["res5"])


def test_building_does_not_change_the_statistics_of_norms():
    statistics = [b for n, b in small("efficientnet_lite0").named_buffers() if "running_mean" in n]
    assert statistics
    assert not any(x.any() for x in statistics)


def test_stochastic_depth_draws_per_image():
    model = small("convnextv2_atto", drop_path_rate=0.5).train()
    images = torch.randn(3, 3, 64, 64)
    device = torch.device("cpu")

    def run(x, seeds):
        with draws_per_image([{"seed": seed} for seed in seeds], device):
            return model(x)["res5"]

    together = run(images, [1, 2, 3])
    alone = torch.cat([run(x[None], [seed]) for x, seed in zip(images, [1, 2, 3], strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together, run(images, [4, 5, 6]), rtol=1e-2)


@pytest.mark.parametrize("name", ["convnextv2_atto", "vit_small_patch16_dinov3"])
def test_recomputing_blocks_changes_no_gradient(name):
    image = torch.randn(2, 3, 64, 64)
    gradients = []
    for use_checkpoint in (False, True):
        model = small(name, use_checkpoint=use_checkpoint)
        sum(x.square().mean() for x in model(image).values()).backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_depths_grow_from_the_image_on():
    depths = small("vit_small_patch16_dinov3").depths()
    assert {d for n, d in depths.items() if n.startswith(("net.patch_embed", "net.cls_token"))} == {
        0
    }
    assert {d for n, d in depths.items() if "blocks.0." in n} == {1}
    assert {d for n, d in depths.items() if "blocks.1." in n} == {2}
    assert all(d > 2 for n, d in depths.items() if n.startswith("pyramid"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("convnextv3_tiny", "Did you mean convnextv2_tiny"),
        ("hiera_tiny_224", "images of one size only"),
        ("mixer_s32_224", "maps of the strides|images of one size only"),
        ("resnet18.fake_tag", "'resnet18.fake_tag': .*fake_tag"),
        ("vit_tiny_r_s16_p8_224", "'vit_tiny_r_s16_p8_224': "),
    ],
)
def test_encoders_that_cannot_be_used_are_named(name, message):
    with pytest.raises(ValueError, match=message):
        TimmBackbone(name)


def test_stochastic_depth_that_an_encoder_lacks_is_refused():
    with pytest.raises(ValueError, match="DROP_PATH_RATE: vgg11 does not have stochastic depth"):
        TimmBackbone("vgg11", drop_path_rate=0.1)


def test_the_config_builds_it():
    keys = ["MODEL.BACKBONE.NAME", "TimmBackbone", "MODEL.TIMM.NAME", "convnextv2_atto"]
    cfg = load_config(str(REPOSITORY / "configs/quickstart/instance.yaml"), keys)
    model = TimmBackbone(cfg, ShapeSpec(channels=3))
    assert model.output_shape()["res5"].channels == 320
    assert F.relu(model(torch.zeros(1, 3, 32, 32))["res5"]).shape == (1, 320, 1, 1)
