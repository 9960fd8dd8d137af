import pytest
import torch
from detectron2.layers import ShapeSpec
from torch import nn

from mask2former.modeling import MSDeformAttnPixelDecoder

CHANNELS = {"res2": 16, "res3": 24, "res4": 32, "res5": 40}
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
DIM, MASK_DIM, LAYERS, HEADS, FFN = 32, 48, 2, 4, 64

# ours -> transformers', as parts of parameter names
RENAMED = {
    "input_proj.": "input_projections.",
    "transformer.level_embed": "level_embed",
    "transformer.encoder.": "encoder.",
    ".norm1.": ".self_attn_layer_norm.",
    ".norm2.": ".final_layer_norm.",
    ".linear1.": ".fc1.",
    ".linear2.": ".fc2.",
    "mask_features.": "mask_projection.",
    "adapter_1.norm.": "adapter_1.1.",
    "adapter_1.weight": "adapter_1.0.weight",
    "layer_1.norm.": "layer_1.1.",
    "layer_1.weight": "layer_1.0.weight",
}


def build(**changes) -> MSDeformAttnPixelDecoder:
    torch.manual_seed(0)
    arguments = {
        "transformer_in_features": ["res3", "res4", "res5"],
        "transformer_dropout": 0.0,
        "transformer_nheads": HEADS,
        "transformer_npoints": 4,
        "transformer_dim_feedforward": FFN,
        "transformer_enc_layers": LAYERS,
        "conv_dim": DIM,
        "mask_dim": MASK_DIM,
        "norm": "GN",
        "common_stride": 4,
    }
    shapes = {k: ShapeSpec(channels=CHANNELS[k], stride=STRIDES[k]) for k in CHANNELS}
    return MSDeformAttnPixelDecoder(shapes, **{**arguments, **changes}).eval()


def features(height, width, batch=2):
    torch.manual_seed(1)
    return {k: torch.randn(batch, CHANNELS[k], height // s, width // s) for k, s in STRIDES.items()}


@torch.no_grad()
def test_equals_transformers():
    mask2former = pytest.importorskip("transformers.models.mask2former.modeling_mask2former")
    from transformers import Mask2FormerConfig

    ours = build()
    for parameter in ours.parameters():  # zeros and ones would hide mistakes
        nn.init.normal_(parameter, std=0.2)
    config = Mask2FormerConfig(
        feature_size=DIM,
        mask_feature_size=MASK_DIM,
        hidden_dim=DIM,
        encoder_layers=LAYERS,
        encoder_feedforward_dim=FFN,
        num_attention_heads=HEADS,
        dropout=0.0,
    )
    theirs = mask2former.Mask2FormerPixelDecoder(config, list(CHANNELS.values())).eval()
    state = {}
    for name, value in ours.state_dict().items():
        for old, new in RENAMED.items():
            name = name.replace(old, new)
        state[name] = value
    theirs.load_state_dict(state)

    x = features(64, 96)
    mask_features, coarsest, maps = ours.forward_features(x)
    wanted = theirs(list(x.values()))
    torch.testing.assert_close(mask_features, wanted.mask_features, rtol=1e-4, atol=1e-4)
    assert coarsest is maps[0] and len(maps) == 3
    for got, want in zip(maps, wanted.multi_scale_features, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_batch_equals_its_images_one_by_one():
    decoder, x = build(), features(64, 96)
    together = decoder.forward_features(x)[0]
    for i in range(2):
        alone = decoder.forward_features({k: v[i : i + 1] for k, v in x.items()})[0]
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_bfloat16_stays_close_to_float32():
    decoder, x = build(), features(64, 96)
    full = decoder.forward_features(x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        half = decoder.forward_features(x)[0]
    assert half.dtype == torch.bfloat16
    assert (half.float() - full).norm() < 0.03 * full.norm()


@torch.no_grad()
def test_all_four_levels_can_be_encoded():
    """The mask features then come from the encoder, and the transformer decoder's maps stay."""
    decoder = build(transformer_in_features=["res2", "res3", "res4", "res5"])
    assert not any(name.startswith(("adapter", "layer")) for name, _ in decoder.named_children())
    x = features(64, 96)
    mask_features, _, maps = decoder.forward_features(x)
    assert [tuple(m.shape[-2:]) for m in maps] == [(2, 3), (4, 6), (8, 12)]
    projections = zip(("res5", "res4", "res3", "res2"), decoder.input_proj, strict=True)
    encoded = decoder.transformer([proj(x[name]) for name, proj in projections])
    torch.testing.assert_close(mask_features, decoder.mask_features(encoded[3]))
    before = maps[0].clone()
    x["res2"] = x["res2"] + 1.0 * torch.randn_like(x["res2"])
    assert (decoder.forward_features(x)[2][0] - before).abs().max() > 1e-3  # stride 4 reaches 32


def test_an_unknown_feature_is_named():
    with pytest.raises(ValueError, match="'res6'"):
        build(transformer_in_features=["res4", "res5", "res6"])
