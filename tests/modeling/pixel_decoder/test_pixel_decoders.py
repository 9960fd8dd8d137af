"""What holds for every pixel decoder."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from pixel_decoders import (
    CHANNELS,
    DIM,
    MASK_DIM,
    OWN_ARGUMENTS,
    SHAPES,
    build,
    features,
    randomize,
)

EVERY = sorted(OWN_ARGUMENTS)
OTHERS = sorted(set(EVERY) - {"MSDeformAttnPixelDecoder"})


@torch.no_grad()
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("size", [(64, 96), (61, 75), (33, 130)])
def test_outputs_have_the_sizes_of_the_inputs(name, size):
    x = features(*size)
    mask_features, _, maps = build(name).forward_features(x)
    assert mask_features.shape == (2, MASK_DIM, *x["res2"].shape[-2:])
    assert [m.shape for m in maps] == [(2, DIM, *x[k].shape[-2:]) for k in ("res5", "res4", "res3")]


@pytest.mark.parametrize("name", EVERY)
def test_transformer_feature_is_that_of_a_transformer(name):
    encoded = build(name).forward_features(features(64, 96))[1]
    if name in ("TransformerEncoderPixelDecoder", "MSDeformAttnPixelDecoder"):
        assert encoded.shape == (2, DIM, 2, 3)
    else:
        assert encoded is None


@torch.no_grad()
@pytest.mark.parametrize("name", EVERY)
def test_a_batch_equals_its_images_one_by_one(name):
    decoder, x = randomize(build(name)), features(61, 75)
    mask_features, _, maps = decoder.forward_features(x)
    for i in range(2):
        alone = decoder.forward_features({k: v[i : i + 1] for k, v in x.items()})
        for got, want in zip([mask_features, *maps], [alone[0], *alone[2]], strict=True):
            torch.testing.assert_close(got[i : i + 1], want, rtol=1e-3, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", EVERY)
def test_bfloat16_stays_close_to_float32(name):
    decoder, x = build(name), features(64, 96)
    full = decoder.forward_features(x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        half = decoder.forward_features(x)[0]
    assert half.dtype == torch.bfloat16
    assert (half.float() - full).norm() < 0.03 * full.norm()


@pytest.mark.parametrize("name", EVERY)
def test_gradients_reach_every_parameter(name):
    decoder = build(name).train()
    if name == "MSDeformAttnPixelDecoder":
        randomize(decoder)  # at the start, its attention does not look at the queries
    mask_features, _, maps = decoder.forward_features(features(64, 96))
    # squares: sums of normalised maps are constant
    sum(x.square().sum() for x in (mask_features, *maps)).backward()
    without = [n for n, p in decoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("name", OTHERS)
def test_works_without_normalisation(name):
    decoder = build(name, norm="")
    assert decoder.forward_features(features(64, 96))[0].isfinite().all()
    assert not any("norm." in n for n in decoder.state_dict() if "transformer" not in n)


@pytest.mark.parametrize("name", OTHERS)
def test_a_stride_that_is_not_that_of_the_finest_feature_is_named(name):
    with pytest.raises(ValueError, match=r"COMMON_STRIDE is 8.*IN_FEATURES"):
        build(name, common_stride=8)


@torch.no_grad()
def test_deformable_attention_leaves_features_out_that_are_too_fine():
    decoder = build("MSDeformAttnPixelDecoder", common_stride=8)
    assert decoder.forward_features(features(64, 96))[0].shape == (2, MASK_DIM, 8, 12)
    assert not any(name.startswith(("adapter", "layer_")) for name in decoder.state_dict())


@pytest.mark.parametrize("name", EVERY)
def test_wrong_settings_are_named(name):
    with pytest.raises(ValueError, match=r"CONVS_DIM must be a multiple of 32.*got 40"):
        build(name, conv_dim=40)
    with pytest.raises(ValueError, match="IN_FEATURES names no feature"):
        build(name, shapes={})
    with pytest.raises(ValueError, match="gives no stride"):
        build(name, shapes={"res2": ShapeSpec(channels=8)})


@torch.no_grad()
@pytest.mark.parametrize("name", OTHERS)
def test_order_of_the_features_does_not_matter(name):
    x = features(64, 96)
    backwards = build(name, shapes=dict(reversed(SHAPES.items())))
    got, want = backwards.forward_features(x)[0], build(name).forward_features(x)[0]
    assert torch.equal(got, want)


@torch.no_grad()
@pytest.mark.parametrize("name", OTHERS)
def test_fewer_levels(name):
    shapes = {k: SHAPES[k] for k in ("res3", "res4")}
    decoder = build(name, shapes=shapes, common_stride=8)
    mask_features, _, maps = decoder.forward_features(features(64, 96))
    assert mask_features.shape == (2, MASK_DIM, 8, 12)
    assert [m.shape[-2:] for m in maps] == [(4, 6), (8, 12)]


@torch.no_grad()
def test_a_projection_leaves_maps_of_its_channels_alone():
    shapes = {**SHAPES, "res4": ShapeSpec(channels=DIM, stride=16)}
    decoder = randomize(build("ProjectionPixelDecoder", shapes=shapes))
    x = features(64, 96) | {"res4": torch.randn(2, DIM, 4, 6)}
    mask_features, _, maps = decoder.forward_features(x)
    assert maps[1] is x["res4"]
    one = decoder.mask_features
    wanted = torch.einsum("oi,bihw->bohw", one.weight[..., 0, 0], x["res2"])
    torch.testing.assert_close(mask_features, wanted + one.bias[:, None, None])
    names = {name.rpartition(".")[0] for name in decoder.state_dict()}
    parts = {f"projections.{i}{norm}" for i in (0, 2) for norm in ("", ".norm")}
    assert names == {"mask_features", *parts}


def test_bifpn_needs_strides_that_double():
    dilated = {**SHAPES, "res5": ShapeSpec(channels=CHANNELS["res5"], stride=16)}
    with pytest.raises(ValueError, match=r"twice the stride.*\[4, 8, 16, 16\]"):
        build("BiFPNPixelDecoder", shapes=dilated)
    with pytest.raises(ValueError, match="BIFPN_LAYERS"):
        build("BiFPNPixelDecoder", num_layers=0)


def test_groups_of_offsets_divide_the_channels():
    with pytest.raises(ValueError, match="64 channels cannot be divided among 5 groups"):
        build("FaPNPixelDecoder", offset_groups=5)
