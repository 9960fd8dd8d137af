"""Pixel decoders against other libraries, and against their papers' equations taken literally."""

import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from pixel_decoders import CHANNELS, DIM, MASK_DIM, SHAPES, STRIDES, build, features, randomize
from torch import nn
from torch.nn import functional as F

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 96), (61, 75)])
def test_fpn_equals_transformers(size):
    maskformer = pytest.importorskip("transformers.models.maskformer.modeling_maskformer")
    ours = randomize(build("BasePixelDecoder"))
    theirs = maskformer.MaskFormerPixelDecoder(
        CHANNELS["res5"],
        lateral_widths=[CHANNELS[k] for k in ("res2", "res3", "res4")],
        feature_size=DIM,
        mask_feature_size=MASK_DIM,
    ).eval()
    renamed = {"layer_4": "fpn.stem", "mask_features": "mask_projection"}
    for number in (1, 2, 3):  # theirs are numbered from the coarsest, ours from the finest
        renamed[f"adapter_{number}"] = f"fpn.layers.{3 - number}.proj"
        renamed[f"layer_{number}"] = f"fpn.layers.{3 - number}.block"
    state = {}
    for name, value in ours.state_dict().items():
        module, _, part = name.partition(".")
        if module != "mask_features":
            part = part.replace("norm", "1") if "norm" in part else f"0.{part}"
        state[f"{renamed[module]}.{part}"] = value
    theirs.load_state_dict(state)

    x = features(*size)
    mask_features, _, maps = ours.forward_features(x)
    wanted = theirs(list(x.values()), output_hidden_states=True)
    torch.testing.assert_close(mask_features, wanted.last_hidden_state, **CLOSE)
    hidden = wanted.hidden_states[:2]  # without the coarsest level, and the finest is last
    for got, want in zip(maps[1:], hidden, strict=True):
        torch.testing.assert_close(got, want, **CLOSE)


def torch_attention(ours):
    theirs = nn.MultiheadAttention(DIM, ours.num_heads, batch_first=True).eval()
    theirs.load_state_dict(ours.state_dict())
    return lambda q, k, v: theirs(q, k, v)[0]


@torch.no_grad()
@pytest.mark.parametrize("pre_norm", [False, True])
def test_transformer_encoder_equals_torch_attention(pre_norm):
    decoder = build("TransformerEncoderPixelDecoder", transformer_pre_norm=pre_norm)
    randomize(decoder)
    x = features(64, 96)
    mask_features, encoded, maps = decoder.forward_features(x)

    y = decoder.input_proj(x["res5"]).flatten(2).transpose(1, 2)  # (B, S, C)
    pos = literal_position_encoding(2, 3)
    for layer in decoder.transformer.encoder.layers:
        attention = torch_attention(layer.self_attn)
        if pre_norm:
            z = layer.norm1(y)
            y = y + attention(z + pos, z + pos, z)
            y = y + layer.linear2(layer.linear1(layer.norm2(y)).relu())
        else:
            y = layer.norm1(y + attention(y + pos, y + pos, y))
            y = layer.norm2(y + layer.linear2(layer.linear1(y).relu()))
    if pre_norm:
        y = decoder.transformer.encoder.norm(y)
    torch.testing.assert_close(encoded, y.transpose(1, 2).unflatten(2, (2, 3)), **CLOSE)

    # what follows is the FPN, on the encoder's output in place of the backbone's
    shapes = {**SHAPES, "res5": ShapeSpec(channels=DIM, stride=32)}
    fpn = build("BasePixelDecoder", shapes=shapes)
    state = decoder.state_dict()
    fpn.load_state_dict({k: state[k] for k in fpn.state_dict()})
    rest = set(state) - set(fpn.state_dict())
    assert {name.partition(".")[0] for name in rest} == {"input_proj", "transformer"}
    wanted = fpn.forward_features({**x, "res5": encoded})
    for got, want in zip([mask_features, *maps], [wanted[0], *wanted[2]], strict=True):
        torch.testing.assert_close(got, want, **CLOSE)


def literal_position_encoding(height, width):
    encoding = torch.zeros(height * width, DIM)
    for s in range(height * width):
        for c in range(DIM):
            along_y, i = c < DIM // 2, c % (DIM // 2)
            position = (s // width + 1) / height if along_y else (s % width + 1) / width
            angle = position * 2 * math.pi / 10000 ** (2 * (i // 2) / (DIM // 2))
            encoding[s, c] = math.cos(angle) if i % 2 else math.sin(angle)
    return encoding


@torch.no_grad()
def test_semantic_fpn_equals_detectron2():
    ours = randomize(build("SemanticFPNPixelDecoder"))
    levels = {f"p{i}": ShapeSpec(channels=DIM, stride=s) for i, s in enumerate(STRIDES.values())}
    theirs = SemSegFPNHead(
        levels, num_classes=MASK_DIM, conv_dims=DIM, common_stride=4, norm="GN"
    ).eval()
    for level in range(4):
        for stage, conv in enumerate(ours.branches[level].convs):
            # their upsamplings have numbers too
            getattr(theirs, f"p{level}")[2 * stage].load_state_dict(conv.state_dict())
    theirs.predictor.load_state_dict(ours.mask_features.state_dict())

    x = features(64, 96)
    mask_features, _, maps = ours.forward_features(x)
    fpn = build("BasePixelDecoder")
    state = {k: v for k, v in ours.state_dict().items() if not k.startswith("branches")}
    fpn.load_state_dict({**state, "mask_features.weight": fpn.mask_features.weight})
    pyramid = fpn.pyramid(list(x.values()))
    torch.testing.assert_close(maps, pyramid[:0:-1])
    wanted = theirs.layers({f"p{i}": level for i, level in enumerate(pyramid)})
    torch.testing.assert_close(mask_features, wanted, **CLOSE)


def literal_fusion(fusion, *maps):
    """O = sum of w_i I_i over sum of w_j and epsilon, in depthwise separable convolution."""
    weights = [max(float(w), 0.0) for w in fusion.weights]
    x = sum(w * m for w, m in zip(weights, maps, strict=True)) / (1e-4 + sum(weights))
    depthwise = torch.zeros_like(x)
    padded = F.pad(x, (1, 1, 1, 1))
    H, W = x.shape[-2:]
    for i in range(3):
        for j in range(3):
            kernel = fusion.depthwise.weight[:, 0, i, j].view(-1, 1, 1)
            depthwise += kernel * padded[..., i : i + H, j : j + W]
    x = torch.einsum("oc,bchw->bohw", fusion.pointwise.weight[:, :, 0, 0], depthwise)
    x = fusion.pointwise.norm(x)
    return x * x.sigmoid()


def literal_enlarge(x, size):
    """Nearest neighbour: row i of H comes from row floor(i h / H)."""
    rows = [i * x.shape[-2] // size[0] for i in range(size[0])]
    columns = [j * x.shape[-1] // size[1] for j in range(size[1])]
    return x[..., rows, :][..., columns]


def literal_reduce(x):
    """Maximum of the 3x3 pixels around every other pixel, as far as they are there."""
    H, W = x.shape[-2:]
    return torch.stack(
        [
            torch.stack(
                [
                    x[..., max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].amax((-1, -2))
                    for j in range(0, W, 2)
                ],
                dim=-1,
            )
            for i in range(0, H, 2)
        ],
        dim=-2,
    )


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 96), (61, 75)])
def test_bifpn_equals_the_equations(size):
    decoder = randomize(build("BiFPNPixelDecoder"))
    assert any((f.weights < 0).any() for layer in decoder.layers for f in layer.up)
    x = features(*size)
    p2, p3, p4, p5 = (
        F.group_norm(
            torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], m),
            32,
            conv.norm.weight,
            conv.norm.bias,
        )
        for conv, m in zip(decoder.input_proj, x.values(), strict=True)
    )
    # Section 3.3 writes out level 6 of levels 3 to 7; these are levels 2 to 5.
    for layer in decoder.layers:
        middle_4 = literal_fusion(layer.down[2], p4, literal_enlarge(p5, p4.shape[-2:]))
        middle_3 = literal_fusion(layer.down[1], p3, literal_enlarge(middle_4, p3.shape[-2:]))
        out_2 = literal_fusion(layer.down[0], p2, literal_enlarge(middle_3, p2.shape[-2:]))
        out_3 = literal_fusion(layer.up[0], p3, middle_3, literal_reduce(out_2))
        out_4 = literal_fusion(layer.up[1], p4, middle_4, literal_reduce(out_3))
        out_5 = literal_fusion(layer.up[2], p5, literal_reduce(out_4))
        p2, p3, p4, p5 = out_2, out_3, out_4, out_5
    mask_features, _, maps = decoder.forward_features(x)
    for got, want in zip(maps, (p5, p4, p3), strict=True):
        torch.testing.assert_close(got, want, **CLOSE)
    torch.testing.assert_close(mask_features, decoder.mask_features(p2), **CLOSE)


def literal_sample(x, i, j):
    """Bilinear interpolation of a (C, H, W) map at row i and column j; 0 outside of it."""
    value = torch.zeros(len(x))
    for row in (math.floor(i), math.floor(i) + 1):
        for column in (math.floor(j), math.floor(j) + 1):
            if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                weight = (1 - abs(i - row)) * (1 - abs(j - column))
                value += weight * x[:, row, column]
    return value


def literal_deform_conv(x, offset, weight, groups):
    """Sum of w_n x(p + p_n + d_n) for x (C, H, W) and offset (groups * 9 * 2, H, W), rows first."""
    out = torch.zeros(len(weight), *x.shape[1:])
    channels = len(x) // groups
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            for group in range(groups):
                part = slice(group * channels, (group + 1) * channels)
                for n in range(9):
                    di, dj = offset[2 * (9 * group + n) : 2 * (9 * group + n) + 2, i, j].tolist()
                    row, column = i + n // 3 - 1 + di, j + n % 3 - 1 + dj
                    sampled = literal_sample(x[part], row, column)
                    out[:, i, j] += weight[:, part, n // 3, n % 3] @ sampled
    return out


@torch.no_grad()
@pytest.mark.parametrize("groups", [1, 8])
def test_fapn_equals_the_equations(groups):
    shapes = {k: SHAPES[k] for k in ("res4", "res5")}
    decoder = randomize(
        build("FaPNPixelDecoder", shapes=shapes, common_stride=16, offset_groups=groups)
    )
    x = features(64, 90, batch=1)
    mask_features, _, maps = decoder.forward_features(x)

    top = decoder.layer_2(x["res5"])
    c = x["res4"][0]
    z = torch.stack([channel.mean() for channel in c])
    importance, select = decoder.adapter_1.importance, decoder.adapter_1.select
    u = (importance.weight[:, :, 0, 0] @ z + importance.bias).sigmoid()
    weighted = c + u[:, None, None] * c
    fine = select.norm(torch.einsum("oc,chw->ohw", select.weight[:, :, 0, 0], weighted)[None])

    align = decoder.align_1
    upsampled = F.interpolate(top, size=c.shape[-2:], mode="bilinear", align_corners=False)
    offset = F.conv2d(
        torch.cat((fine, upsampled), 1), align.offset.weight, align.offset.bias, padding=1
    )[0]
    assert offset.abs().max() > 2  # also to outside of the map
    aligned = literal_deform_conv(upsampled[0], offset, align.align.weight, groups)
    merged = decoder.layer_1(fine + align.norm(aligned[None]))
    torch.testing.assert_close(maps[0], top, **CLOSE)
    torch.testing.assert_close(maps[1], merged, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(mask_features, decoder.mask_features(merged), rtol=1e-3, atol=1e-3)


def test_fapn_starts_without_offsets():
    decoder = build("FaPNPixelDecoder")
    fine, upsampled = torch.randn(2, DIM, 6, 7), torch.randn(2, DIM, 6, 7)
    align = decoder.align_2
    plain = F.conv2d(upsampled, align.align.weight, padding=1)
    torch.testing.assert_close(align(fine, upsampled), align.norm(plain), **CLOSE)
