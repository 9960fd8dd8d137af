import pytest
import torch
from torch import nn

from mask2former.modeling import StandardTransformerDecoder
from mask2former.modeling.position_encoding import sine_position_encoding
from mask2former.modeling.transformer_decoder.layers import MultiheadAttention

C, IN, MASK_DIM, HEADS, Q, K, LAYERS = 32, 24, 16, 4, 5, 3, 3


def build(**changes) -> StandardTransformerDecoder:
    torch.manual_seed(0)
    arguments = {
        "in_channels": IN,
        "num_classes": K,
        "hidden_dim": C,
        "num_queries": Q,
        "nheads": HEADS,
        "dim_feedforward": 48,
        "enc_layers": 0,
        "dec_layers": LAYERS,
        "mask_dim": MASK_DIM,
    }
    decoder = StandardTransformerDecoder(**{**arguments, **changes})
    for parameter in decoder.parameters():  # biases and norms too: zeros and ones hide mistakes
        nn.init.normal_(parameter, std=0.3)
    return decoder.double()


def inputs(batch=2):
    torch.manual_seed(1)
    features = torch.randn(batch, IN, 4, 6, dtype=torch.float64)
    return features, torch.randn(batch, MASK_DIM, 16, 24, dtype=torch.float64)


def published_names(layers=LAYERS, encoder=0) -> set[str]:
    """Of the published MaskFormer models, as far as the settings above go."""
    attention = ["in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"]
    linear = ["weight", "bias"]
    names = {"query_embed.weight", "transformer.decoder.norm.weight"}
    names |= {"transformer.decoder.norm.bias"}
    for kind, count, norms in (("decoder", layers, 3), ("encoder", encoder, 2)):
        for i in range(count):
            prefix = f"transformer.{kind}.layers.{i}"
            attentions = ["self_attn", "multihead_attn"] if kind == "decoder" else ["self_attn"]
            names |= {f"{prefix}.{a}.{part}" for a in attentions for part in attention}
            modules = ["linear1", "linear2", *(f"norm{n + 1}" for n in range(norms))]
            names |= {f"{prefix}.{m}.{part}" for m in modules for part in linear}
    heads = ["input_proj", "class_embed", *(f"mask_embed.layers.{i}" for i in range(3))]
    return names | {f"{m}.{part}" for m in heads for part in linear}


@pytest.mark.parametrize("encoder", [0, 2])
def test_has_the_published_parameter_names(encoder):
    assert set(build(enc_layers=encoder).state_dict()) == published_names(encoder=encoder)
    pre_norm = set(build(enc_layers=encoder, pre_norm=True).state_dict())
    extra = {"transformer.encoder.norm.weight", "transformer.encoder.norm.bias"}
    assert pre_norm == published_names(encoder=encoder) | extra


def transformers_name(name: str) -> str:
    for ours, theirs in {
        "query_embed.": "queries_embedder.",
        "input_proj.": "input_projection.",
        "transformer.decoder.norm.": "decoder.layernorm.",
        "transformer.decoder.": "decoder.",
        ".multihead_attn.": ".encoder_attn.",
        ".out_proj.": ".o_proj.",
        ".linear1.": ".mlp.fc1.",
        ".linear2.": ".mlp.fc2.",
        ".norm1.": ".self_attn_layer_norm.",
        ".norm2.": ".encoder_attn_layer_norm.",
        ".norm3.": ".final_layer_norm.",
    }.items():
        name = name.replace(ours, theirs)
    return name


def transformers_state(decoder: StandardTransformerDecoder) -> dict[str, torch.Tensor]:
    state = {}
    for name, value in decoder.state_dict().items():
        if name.startswith(("class_embed", "mask_embed")):
            continue
        name = transformers_name(name)
        if "in_proj_" in name:
            for part, chunk in zip("qkv", value.chunk(3), strict=True):
                state[name.replace("in_proj_", f"{part}_proj.")] = chunk
        else:
            state[name] = value
    return state


@torch.no_grad()
def test_equals_transformers_after_every_layer():
    maskformer = pytest.importorskip("transformers.models.maskformer.modeling_maskformer")
    from transformers import DetrConfig, MaskFormerConfig

    features, mask_features = inputs()
    for layers in range(1, LAYERS + 1):
        decoder = build(dec_layers=layers).eval()
        detr = DetrConfig(
            d_model=C,
            decoder_layers=layers,
            decoder_ffn_dim=48,
            decoder_attention_heads=HEADS,
            num_queries=Q,
        )
        config = MaskFormerConfig(decoder_config=detr)
        theirs = maskformer.MaskFormerTransformerModule(IN, config).double().eval()
        theirs.load_state_dict(transformers_state(decoder))
        queries = theirs(features).last_hidden_state
        out = decoder(features, mask_features)
        torch.testing.assert_close(
            out["pred_logits"], decoder.class_embed(queries), rtol=1e-5, atol=1e-5
        )
        masks = torch.einsum("bqc,bchw->bqhw", decoder.mask_embed(queries), mask_features)
        torch.testing.assert_close(out["pred_masks"], masks, rtol=1e-5, atol=1e-5)


def torch_attention(ours):
    theirs = nn.MultiheadAttention(C, HEADS, batch_first=True).double().eval()
    theirs.load_state_dict(ours.state_dict())
    return lambda q, k, v: theirs(q, k, v)[0]


def literal_queries(decoder, features, pre_norm):
    """The queries after each layer, step by step with torch's attention."""
    memory = decoder.input_proj(features).flatten(2).transpose(1, 2)
    pos = sine_position_encoding(*features.shape[-2:], C).double().flatten(1).T
    query_pos = decoder.query_embed.weight

    def step(x, norm, branch):
        return x + branch(norm(x)) if pre_norm else norm(x + branch(x))

    def attend_to_itself(layer, pos):
        attention = torch_attention(layer.self_attn)
        return lambda y: attention(y + pos, y + pos, y)

    def feed_forward(layer):
        return lambda y: layer.linear2(layer.linear1(y).relu())

    for layer in decoder.transformer.encoder.layers:
        memory = step(memory, layer.norm1, attend_to_itself(layer, pos))
        memory = step(memory, layer.norm2, feed_forward(layer))
    if pre_norm:
        memory = decoder.transformer.encoder.norm(memory)
    x = torch.zeros(len(memory), Q, C, dtype=torch.float64)
    for layer in decoder.transformer.decoder.layers:
        cross = torch_attention(layer.multihead_attn)
        x = step(x, layer.norm1, attend_to_itself(layer, query_pos))
        x = step(
            x,
            layer.norm2,
            lambda y, cross=cross, m=memory: cross(y + query_pos, m + pos, m),
        )
        x = step(x, layer.norm3, feed_forward(layer))
        yield decoder.transformer.decoder.norm(x)


@torch.no_grad()
@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("enc_layers", [0, 2])
def test_every_prediction_equals_the_literal_one(pre_norm, enc_layers):
    decoder = build(pre_norm=pre_norm, enc_layers=enc_layers).train()
    features, mask_features = inputs()
    out = decoder(features, mask_features)
    predictions = [*out["aux_outputs"], out]
    assert len(predictions) == LAYERS
    wanted = literal_queries(decoder, features, pre_norm)
    for got, queries in zip(predictions, wanted, strict=True):
        torch.testing.assert_close(got["pred_logits"], decoder.class_embed(queries))
        masks = torch.einsum("bqc,bchw->bqhw", decoder.mask_embed(queries), mask_features)
        torch.testing.assert_close(got["pred_masks"], masks)


@torch.no_grad()
def test_evaluation_gives_the_last_prediction_only():
    decoder = build()
    training, evaluation = decoder.train()(*inputs()), decoder.eval()(*inputs())
    assert evaluation["aux_outputs"] == []
    for key in ("pred_logits", "pred_masks"):
        torch.testing.assert_close(training[key], evaluation[key])


@torch.no_grad()
def test_a_batch_equals_its_images_one_by_one():
    decoder = build(enc_layers=1).eval()
    features, mask_features = inputs()
    together = decoder(features, mask_features)["pred_masks"]
    for i in range(2):
        alone = decoder(features[i : i + 1], mask_features[i : i + 1])["pred_masks"]
        torch.testing.assert_close(together[i : i + 1], alone)


@torch.no_grad()
def test_bfloat16_stays_close_to_float32():
    decoder, x = build(enc_layers=1).eval().float(), [t.float() for t in inputs()]
    full = decoder(*x)["pred_masks"]
    with torch.autocast("cpu", torch.bfloat16):
        half = decoder(*x)["pred_masks"]
    assert half.dtype == torch.bfloat16
    assert (half.float() - full).norm() < 0.03 * full.norm()


def test_without_classes_there_are_masks_only():
    decoder = build(mask_classification=False).train()
    out = decoder(*inputs())
    assert not hasattr(decoder, "class_embed")
    assert set(out) == {"pred_masks", "aux_outputs"}
    assert set(out["aux_outputs"][0]) == {"pred_masks"}


def test_input_is_projected_where_it_must_be():
    assert isinstance(build(in_channels=C).input_proj, nn.Identity)
    assert "input_proj.weight" in build(in_channels=C, enforce_input_project=True).state_dict()


def test_every_parameter_gets_a_gradient():
    decoder = build(enc_layers=1, dropout=0.1).train()
    out = decoder(*inputs())
    (out["pred_masks"].square().sum() + out["pred_logits"].square().sum()).backward()
    assert [n for n, p in decoder.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_dropout_is_random_in_training_only():
    decoder, x = build(dropout=0.5), inputs()
    for mode, same in ((True, False), (False, True)):
        decoder.train(mode)
        a, b = (decoder(*x)["pred_masks"] for _ in range(2))
        assert torch.equal(a, b) == same


def test_attention_drops_weights_as_torch_does():
    """Dropped weights scale the others up, so that the mean over many draws is the output."""
    torch.manual_seed(0)
    attention = MultiheadAttention(8, 2, dropout=0.4)
    q, kv = torch.randn(1, 3, 8), torch.randn(1, 6, 8)
    with torch.no_grad():
        draws = attention(q.expand(20000, -1, -1), *[kv.expand(20000, -1, -1)] * 2)
        mean = attention.eval()(q, kv, kv)[0]
    assert draws.std(0).min() > 0.01
    torch.testing.assert_close(draws.mean(0), mean, rtol=0.05, atol=0.01)


def test_dec_layers_must_be_positive():
    with pytest.raises(ValueError, match="DEC_LAYERS of at least 1, got 0"):
        build(dec_layers=0)
