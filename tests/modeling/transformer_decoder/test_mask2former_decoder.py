import math

import pytest
import torch
from small_decoders import HEADS, LAYERS, C, Q, build, inputs
from torch import nn
from torch.nn import functional as F

from mask2former.modeling.position_encoding import sine_position_encoding
from mask2former.modeling.transformer_decoder.base import mask_product
from mask2former.modeling.transformer_decoder.layers import MultiheadAttention
from mask2former.modeling.transformer_decoder.mask2former_decoder import attention_mask


def literal_attention(layer, query, key, value, mask):
    """Softmax attention of every head and query on its own; mask is True where forbidden."""
    wq, wk, wv = layer.in_proj_weight.chunk(3)
    bq, bk, bv = layer.in_proj_bias.chunk(3)
    q, k, v = query @ wq.T + bq, key @ wk.T + bk, value @ wv.T + bv
    d = C // HEADS
    out = torch.zeros_like(q)
    for head in range(HEADS):
        part = slice(head * d, (head + 1) * d)
        for i in range(len(q)):
            scores = [
                float(q[i, part] @ k[j, part]) / math.sqrt(d)
                for j in range(len(k))
                if mask is None or not mask[i, j]
            ]
            values = [v[j, part] for j in range(len(k)) if mask is None or not mask[i, j]]
            top = max(scores)
            exps = [math.exp(s - top) for s in scores]
            out[i, part] = sum(e / sum(exps) * x for e, x in zip(exps, values, strict=True))
    return out @ layer.out_proj.weight.T + layer.out_proj.bias


def literal_decoder(decoder, maps, mask_features):
    """Section 3.2 of the paper for one image, with no step merged or skipped."""
    sources, positions = [], []
    for level, m in enumerate(maps):
        sources.append(m.flatten(1).T + decoder.level_embed.weight[level])
        encoding = sine_position_encoding(*m.shape[1:], C).double()
        positions.append(encoding.flatten(1).T)
    x, query_pos = decoder.query_feat.weight, decoder.query_embed.weight
    predictions = []
    for i in range(LAYERS + 1):
        normed = decoder.decoder_norm(x)
        masks = torch.einsum("qc,chw->qhw", decoder.mask_embed(normed), mask_features)
        predictions.append((decoder.class_embed(normed), masks))
        if i == LAYERS:
            return predictions
        level = i % 3
        size = maps[level].shape[-2:]
        small = F.interpolate(masks[None], size=size, mode="bilinear", align_corners=False)[0]
        forbidden = small.sigmoid().flatten(1) < 0.5
        for q in range(Q):
            if forbidden[q].all():
                forbidden[q] = False
        cross = decoder.transformer_cross_attention_layers[i]
        x = cross.norm(
            x
            + literal_attention(
                cross.multihead_attn,
                x + query_pos,
                sources[level] + positions[level],
                sources[level],
                forbidden,
            )
        )
        own = decoder.transformer_self_attention_layers[i]
        x = own.norm(x + literal_attention(own.self_attn, x + query_pos, x + query_pos, x, None))
        ffn = decoder.transformer_ffn_layers[i]
        x = ffn.norm(x + ffn.linear2(ffn.linear1(x).relu()))
    raise AssertionError


@torch.no_grad()
def test_equals_the_literal_decoder_after_every_layer():
    decoder = build().train()
    maps, mask_features = inputs()
    out = decoder(maps, mask_features)
    predictions = [*out["aux_outputs"], out]
    assert len(predictions) == LAYERS + 1
    for b in range(2):
        wanted = literal_decoder(decoder, [m[b] for m in maps], mask_features[b])
        for got, (logits, masks) in zip(predictions, wanted, strict=True):
            torch.testing.assert_close(got["pred_logits"][b], logits)
            torch.testing.assert_close(got["pred_masks"][b], masks)


@torch.no_grad()
def test_the_masks_matter():
    """Guards the test above: attending everywhere must not give the same numbers."""
    decoder = build().train()
    maps, mask_features = inputs()
    masked = decoder(maps, mask_features)["pred_logits"]
    everywhere = decoder(maps, -mask_features.abs() * 0)["pred_logits"]
    assert (masked - everywhere).abs().max() > 1e-3


@torch.no_grad()
def test_evaluation_gives_the_same_last_prediction_and_no_others():
    decoder = build()
    training, evaluation = decoder.train()(*inputs()), decoder.eval()(*inputs())
    assert evaluation["aux_outputs"] == []
    for key in ("pred_logits", "pred_masks"):
        torch.testing.assert_close(training[key], evaluation[key])


def test_a_query_attends_inside_its_mask_or_everywhere():
    logits = torch.tensor([[[1.0, -1.0, 0.0], [-1.0, -2.0, -3.0]]])
    allowed = attention_mask(logits)
    # 0.5 itself is inside; an empty mask means everywhere
    assert allowed.tolist() == [[[True, False, True], [True, True, True]]]


@torch.no_grad()
def test_attention_equals_torch_multihead_attention():
    torch.manual_seed(0)
    ours, theirs = MultiheadAttention(C, HEADS), nn.MultiheadAttention(C, HEADS, batch_first=True)
    nn.init.normal_(ours.in_proj_bias)
    theirs.load_state_dict(ours.state_dict())
    q, k, v = torch.randn(2, 3, C), torch.randn(2, 7, C), torch.randn(2, 7, C)
    allowed = torch.rand(2, 3, 7) < 0.5
    allowed[..., 0] = True
    mask = ~allowed.repeat_interleave(HEADS, dim=0)
    torch.testing.assert_close(ours(q, k, v, allowed), theirs(q, k, v, attn_mask=mask)[0])


def test_every_parameter_gets_a_gradient_and_masks_do_not_pass_any_through_attention():
    decoder = build().train()
    maps, mask_features = inputs()
    mask_features.requires_grad_()
    out = decoder(maps, mask_features)
    # the class prediction depends on the mask features only through the attention masks
    grad = torch.autograd.grad(
        out["pred_logits"].sum(), mask_features, retain_graph=True, allow_unused=True
    )[0]
    assert grad is None
    (out["pred_masks"].square().sum() + out["pred_logits"].square().sum()).backward()
    missing = [name for name, p in decoder.named_parameters() if p.grad is None]
    assert missing == []


def test_dec_layers_counts_predictions():
    with pytest.raises(ValueError, match="DEC_LAYERS"):
        build(dec_layers=-1)


def test_position_encoding_equals_the_formula():
    channels, height, width = 8, 3, 5
    encoding = sine_position_encoding(height, width, channels)
    for c in range(channels):
        along_y, i = c < channels // 2, c % (channels // 2)
        for y in range(height):
            for x in range(width):
                position = (y + 1) / height if along_y else (x + 1) / width
                angle = position * 2 * math.pi / 10000 ** (2 * (i // 2) / (channels // 2))
                wanted = math.cos(angle) if i % 2 else math.sin(angle)
                assert encoding[c, y, x].item() == pytest.approx(wanted, abs=2e-5)


@pytest.mark.parametrize("layers", range(LAYERS + 1))
@torch.no_grad()
def test_fewer_layers_at_inference_give_the_prediction_of_training(layers):
    decoder = build(test_layers=layers)
    expected = decoder.train()(*inputs())
    expected = [*expected["aux_outputs"], expected][layers]
    found = decoder.eval()(*inputs())
    for key in ("pred_logits", "pred_masks"):
        assert torch.equal(found[key], expected[key])
    assert found["aux_outputs"] == []


def test_more_layers_at_inference_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"TEST\.DEC_LAYERS is 6, but .*DEC_LAYERS is 5"):
        build(test_layers=5)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_mask_product_is_the_sum_over_channels(memory, autocast):
    torch.manual_seed(0)
    embed, features = torch.randn(2, 5, 16), torch.randn(2, 16, 7, 9)
    wanted = (embed.bfloat16().float() @ features.bfloat16().float().flatten(2)).view(2, 5, 7, 9)
    if not autocast:
        embed, features = embed.bfloat16(), features.bfloat16()
    features = features.contiguous(memory_format=memory)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        got = mask_product(embed, features)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), wanted, rtol=1e-2, atol=2e-2)
