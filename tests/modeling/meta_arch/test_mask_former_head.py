import pytest
import torch
from detectron2.modeling import build_sem_seg_head
from pixel_decoders import SHAPES, features

from mask2former.modeling.pixel_decoder.base import LastUse

STANDARD = ["MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "StandardTransformerDecoder"]
ENCODER = ["MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "TransformerEncoderPixelDecoder"]
FPN = ["MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "BasePixelDecoder"]


def attends_to(feature):
    return ["MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", feature]


def build(cfg, *overrides):
    cfg = cfg.clone()
    cfg.merge_from_list(["MODEL.SEM_SEG_HEAD.MASK_DIM", 16, *overrides])
    torch.manual_seed(0)
    return build_sem_seg_head(cfg, SHAPES).train()


def modules_that_logits_depend_on(head):
    """Of the pixel decoder; and the backbone's features."""
    x = {name: feature.requires_grad_() for name, feature in features(64, 96).items()}
    logits = head(x)["pred_logits"]
    named = {**x, **dict(head.pixel_decoder.named_parameters())}
    grads = torch.autograd.grad(logits.square().sum(), list(named.values()), allow_unused=True)
    return {n.partition(".")[0] for n, g in zip(named, grads, strict=True) if g is not None}


LEVELS = {"res2", "res3", "res4", "res5", *(f"layer_{i}" for i in (1, 2, 3, 4))}
LEVELS |= {f"adapter_{i}" for i in (1, 2, 3)}


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ([*STANDARD, *ENCODER, *attends_to("res5")], {"res5"}),
        ([*STANDARD, *ENCODER, *attends_to("res3")], {"res3"}),
        (
            [*STANDARD, *ENCODER, *attends_to("transformer_encoder")],
            {"res5", "input_proj", "transformer"},
        ),
        ([*STANDARD, *FPN, *attends_to("pixel_embedding")], LEVELS | {"mask_features"}),
        (
            # after three layers, one for each map
            [*FPN, *attends_to("multi_scale_pixel_decoder"), "MODEL.MASK_FORMER.DEC_LAYERS", 4],
            LEVELS - {"res2", "layer_1", "adapter_1"},
        ),
    ],
    ids=["res5", "res3", "transformer_encoder", "pixel_embedding", "multi_scale"],
)
def test_the_decoder_attends_to_what_the_config_says(tiny_cfg, settings, wanted):
    assert modules_that_logits_depend_on(build(tiny_cfg, *settings)) == wanted


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ([], set()),
        ([*STANDARD, *attends_to("res4")], set()),
        ([*FPN], {"res2", "res3", "res4", "res5"}),
    ],
    ids=["deformable", "deformable and res4", "another pixel decoder"],
)
@torch.no_grad()
def test_maps_are_taken_only_from_those_who_do_not_need_them(tiny_cfg, settings, left):
    head, x = build(tiny_cfg, *settings).eval(), features(64, 96)
    wanted = head(x)["pred_masks"]
    assert set(x) == {"res2", "res3", "res4", "res5"}
    given = LastUse(x)
    assert torch.equal(head(given)["pred_masks"], wanted)
    assert set(given) == left


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            [*STANDARD, *FPN, *attends_to("multi_scale_pixel_decoder")],
            r"is StandardTransformerDecoder.*must not be 'multi_scale_pixel_decoder'",
        ),
        (
            [*FPN, *attends_to("res5")],
            r"is MultiScaleMaskedTransformerDecoder.*must be 'multi_scale_pixel_decoder'.*'res5'",
        ),
        ([*STANDARD, *attends_to("res6")], r"TRANSFORMER_IN_FEATURE is 'res6'; known are.*'res5'"),
        (["MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES", []], r"and is \[\]"),
        (["MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res5", "p6"]], r"IN_FEATURES names \['p6'\]"),
    ],
)
def test_wrong_settings_are_named(tiny_cfg, settings, message):
    with pytest.raises(ValueError, match=message):
        build(tiny_cfg, *settings)


def test_a_missing_transformer_encoder_is_named(tiny_cfg):
    head = build(tiny_cfg, *STANDARD, *FPN, *attends_to("transformer_encoder"))
    with pytest.raises(ValueError, match=r"BasePixelDecoder has no transformer encoder: set"):
        head(features(64, 96))


def test_too_few_maps_are_named(tiny_cfg):
    head = build(tiny_cfg, *FPN, "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2", "res3"])
    with pytest.raises(ValueError, match=r"expected 3 maps, got 2.*IN_FEATURES"):
        head(features(64, 96))


@pytest.mark.parametrize("settings", [[*FPN], [*ENCODER, *STANDARD, *attends_to("res5")]])
def test_the_first_checkpoints_load(tiny_cfg, settings):
    head = build(tiny_cfg, *settings)
    state = {k.replace("pixel_decoder.", ""): v for k, v in head.state_dict().items()}
    assert set(state) != set(head.state_dict())
    other = build(tiny_cfg, *settings)
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    other.load_state_dict(state)
    pairs = zip(head.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
