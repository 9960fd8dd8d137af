"""Swin Transformers of other libraries compute the same features here as in their library."""

import pytest
import torch
import torchvision
from backbones import (
    IMAGE_SIZE,
    SWIN,
    described,
    fill,
    image,
    original_release,
    published,
    randomise,
)
from torchvision.models import swin_transformer as torchvision_swin

from mask2former.checkpoint import WeightsError
from mask2former.checkpoint.backbones import (
    convert_backbone,
    swin_to_d2,
    timm_swin_to_d2,
    torchvision_swin_to_d2,
)
from mask2former.modeling.backbone import D2SwinTransformer


def output_norms(count=4):
    return {f"norm{i}.{kind}" for i in range(count) for kind in ("weight", "bias")}


@torch.no_grad()
def assert_swin_equals(converted: dict, features) -> None:
    """Compare with a library's features before our norms, each (B, C, H, W)."""
    ours = fill(randomise(D2SwinTransformer(**SWIN)), converted, output_norms())
    actual = ours(image())
    for i, feature in enumerate(features):
        expected = getattr(ours, f"norm{i}")(feature.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        torch.testing.assert_close(actual[f"res{i + 2}"], expected, rtol=1e-4, atol=1e-4)


def timm_model(**changes):
    pytest.importorskip("timm")
    from timm.models.swin_transformer import SwinTransformer

    return SwinTransformer(img_size=IMAGE_SIZE, num_classes=10, **(SWIN | changes))


def timm_features(model):
    return model.forward_intermediates(image(), indices=4, intermediates_only=True)


def test_timm_swin():
    theirs = randomise(timm_model())
    converted = convert_backbone(theirs.state_dict())
    assert_swin_equals(converted, timm_features(theirs))


def test_original_swin_as_timm_reads_it():
    theirs = timm_model()
    from timm.models.swin_transformer import checkpoint_filter_fn

    release = original_release()
    as_timm = checkpoint_filter_fn(release, theirs)
    theirs.load_state_dict(as_timm)
    converted = convert_backbone(release)
    assert_swin_equals(converted, timm_features(theirs.eval()))

    again = convert_backbone(as_timm)
    assert again.keys() == converted.keys()
    assert all(torch.equal(again[name], converted[name]) for name in again)


def test_swin_without_classifier_is_recognised_too():
    release = {k: v for k, v in original_release().items() if not k.startswith(("norm", "head"))}
    expected = convert_backbone(original_release())
    assert described(convert_backbone(release)) == described(expected)
    theirs = {k: v for k, v in timm_model().state_dict().items() if "head" not in k}
    assert described(convert_backbone(theirs)) == described(expected)


def test_torchvision_swin():
    theirs = torchvision_swin.SwinTransformer(
        [4, 4], SWIN["embed_dim"], list(SWIN["depths"]), list(SWIN["num_heads"]), [4, 4]
    )
    randomise(theirs)
    features, x = [], image()
    with torch.no_grad():
        for i, module in enumerate(theirs.features):
            x = module(x)
            if i % 2:  # patch embedding, blocks, merging, blocks, ...
                features.append(x.permute(0, 3, 1, 2))
    assert_swin_equals(convert_backbone(theirs.state_dict()), features)


@pytest.mark.parametrize(
    ("timm_name", "torchvision_name", "ours"),
    [
        ("swin_tiny_patch4_window7_224", "swin_t", "swin_tiny_bs16_50ep"),
        ("swin_small_patch4_window7_224", "swin_s", "swin_small_bs16_50ep"),
        ("swin_base_patch4_window12_384", None, "swin_base_384_bs16_50ep"),
        ("swin_large_patch4_window12_384", None, "swin_large_IN21k_384_bs16_100ep"),
    ],
)
def test_swin_fills_all_of_the_published_except_output_norms(timm_name, torchvision_name, ours):
    expected = published(f"maskformer2_{ours}")
    for name in output_norms():
        del expected[f"backbone.{name}"]
    states = []
    if torchvision_name:
        with torch.device("meta"):
            states.append(torchvision.models.get_model(torchvision_name).state_dict())
    timm = pytest.importorskip("timm")
    states.append(timm.create_model(timm_name, device="meta").state_dict())
    for state in states:
        assert described(convert_backbone(state)) == expected


@pytest.mark.parametrize("window_size", [2, 7, 12])
def test_relative_position_index_is_the_one_of_our_model(window_size):
    release = original_release(depths=(1, 1), num_heads=(1, 1), window_size=window_size)
    model = D2SwinTransformer(
        embed_dim=16,
        depths=(1, 1),
        num_heads=(1, 1),
        window_size=window_size,
        out_features=("res2", "res3"),
    )
    expected = model.state_dict()["layers.1.blocks.0.attn.relative_position_index"]
    converted = swin_to_d2(release)
    actual = converted["backbone.layers.1.blocks.0.attn.relative_position_index"]
    assert torch.equal(actual, expected)
    fill(model, converted, output_norms(2))


def test_absolute_position_embedding_keeps_its_places():
    release = original_release() | {"absolute_pos_embed": torch.randn(1, 56 * 56, 16)}
    actual = swin_to_d2(release)["backbone.absolute_pos_embed"]
    assert actual.shape == D2SwinTransformer(**SWIN, ape=True).absolute_pos_embed.shape
    for y, x in ((0, 1), (3, 0), (55, 20)):
        assert torch.equal(actual[0, :, y, x], release["absolute_pos_embed"][0, y * 56 + x])


def test_our_own_backbone_saved_alone_keeps_its_norms():
    state = D2SwinTransformer(**SWIN).state_dict()
    converted = convert_backbone(state)
    assert converted.keys() == {f"backbone.{name}" for name in state}
    assert all(torch.equal(converted[f"backbone.{name}"], state[name]) for name in state)


def test_swin_v2_is_another_architecture():
    timm_v2 = pytest.importorskip("timm.models.swin_transformer_v2").SwinTransformerV2
    states = [timm_v2(img_size=64, **(SWIN | {"window_size": 2})).state_dict()]
    with torch.device("meta"):
        states.append(torchvision.models.swin_v2_t().state_dict())
    for state in states:
        for convert in (convert_backbone, swin_to_d2, timm_swin_to_d2, torchvision_swin_to_d2):
            with pytest.raises(WeightsError):
                convert(state)
        with pytest.raises(WeightsError, match="Swin Transformer V2, which is another arch"):
            convert_backbone(state)


def test_names_that_are_left_over_are_listed():
    state = original_release() | {"layers.0.blocks.1.attn.gate": torch.ones(1)}
    with pytest.raises(WeightsError, match=r"has no layers\.0\.blocks\.1\.attn\.gate: they"):
        convert_backbone(state)


def test_impossible_bias_table():
    release = original_release()
    release["layers.2.blocks.1.attn.relative_position_bias_table"] = torch.ones(48, 4)
    with pytest.raises(WeightsError, match=r"layers\.2\.blocks\.1\S+ has 48 rows"):
        swin_to_d2(release)
