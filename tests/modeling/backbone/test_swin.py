import gzip
import json
import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from support import REPOSITORY
from torch.nn import functional as F
from torchvision.models.swin_transformer import SwinTransformer

from mask2former import add_maskformer2_config
from mask2former.modeling.backbone import D2SwinTransformer
from mask2former.modeling.backbone.swin_blocks import SwinBlock, split_windows

STATE_DICTS = REPOSITORY / "tests/fixtures/state_dicts"
BASE = {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32), "window_size": 12}
PUBLISHED = {
    "tiny_bs16_50ep": {},
    "small_bs16_50ep": {"depths": (2, 2, 18, 2)},
    "base_384_bs16_50ep": BASE,
    "large_IN21k_384_bs16_100ep": BASE | {"embed_dim": 192, "num_heads": (6, 12, 24, 48)},
}


def small_swin(**changes) -> D2SwinTransformer:
    torch.manual_seed(0)
    arguments = {"embed_dim": 16, "depths": (2, 2, 3, 1), "num_heads": (1, 2, 4, 8)}
    model = D2SwinTransformer(**(arguments | {"drop_path_rate": 0.0} | changes))
    for parameter in model.parameters():  # biases and norms too, so that mistakes there show
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def torchvision_twin(ours: D2SwinTransformer, window: int) -> SwinTransformer:
    """Build torchvision's classifier with the same backbone weights, under its own names."""
    theirs = SwinTransformer([4, 4], 16, [2, 2, 3, 1], [1, 2, 4, 8], [window, window])
    state = {}
    for name, value in ours.state_dict().items():
        if name.startswith("norm"):
            continue  # of our outputs; the classifier has none
        name = name.replace("patch_embed.proj", "features.0.0")
        name = name.replace("patch_embed.norm", "features.0.2")
        if name.startswith("layers"):
            _, stage, part, rest = name.split(".", 3)
            name = f"features.{2 * int(stage) + (1 if part == 'blocks' else 2)}.{rest}"
        name = name.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.3")
        if name.endswith("relative_position_index"):
            assert torch.equal(theirs.state_dict()[name], value.flatten())
            continue
        state[name] = value
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(n.startswith(("norm", "head")) or n.endswith("_index") for n in missing)
    return theirs.eval()


@torch.no_grad()
def torchvision_features(theirs: SwinTransformer, ours: D2SwinTransformer, image) -> dict:
    height, width = image.shape[-2:]  # torchvision crops to whole patches where we pad
    x = F.pad(image, (0, -width % 4, 0, -height % 4))
    features = {}
    for i, module in enumerate(theirs.features):
        x = module(x)
        if i % 2:  # patch embedding, blocks, merging, blocks, ...
            norm = getattr(ours, f"norm{i // 2}")
            features[f"res{i // 2 + 2}"] = norm(x).permute(0, 3, 1, 2)
    return features


# torchvision does not shift where one window covers the map, the published models do: sizes here
# keep more than one window in every stage (the last has no shifted block).
@pytest.mark.parametrize(
    ("window", "size"), [(7, (224, 224)), (7, (233, 301)), (4, (130, 255)), (5, (201, 161))]
)
def test_equals_torchvision(window, size):
    ours = small_swin(window_size=window)
    theirs = torchvision_twin(ours, window)
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        actual = ours(image)
    expected = torchvision_features(theirs, ours, image)
    assert actual.keys() == expected.keys()
    for name in actual:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-5, atol=1e-5)


def test_shifted_block_equals_attention_written_as_loops():
    """One window covers the map, and padding shares it: where torchvision does otherwise."""
    torch.manual_seed(0)
    S, H, W, C, A = 4, 3, 4, 8, 2
    block = SwinBlock(C, S, A, shift=2, qk_scale=0.7).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(1, H, W, C, dtype=torch.double)
    with torch.no_grad():
        split = split_windows(1, S, S, S, 2, x.device)
        actual = block(x, split)

        padded = torch.zeros(S, S, C, dtype=torch.double)
        padded[:H, :W] = block.norm1(x)[0]
        q, k, v = block.attn.qkv(padded).view(S, S, 3, A, C // A).unbind(2)
        attended = torch.zeros(S, S, A, C // A, dtype=torch.double)
        table = block.attn.relative_position_bias_table
        for y in range(S):
            for z in range(S):
                # The shift by 2 moves rows 2, 3 ahead of 0, 1: only patches of the same half,
                # in both directions, are neighbours; their distance is as in the map.
                same = [
                    (i, j)
                    for i in range(S)
                    for j in range(S)
                    if i // 2 == y // 2 and j // 2 == z // 2
                ]
                for a in range(A):
                    logits = torch.stack(
                        [
                            0.7 * q[y, z, a] @ k[i, j, a]
                            + table[(y - i + S - 1) * (2 * S - 1) + z - j + S - 1, a]
                            for i, j in same
                        ]
                    )
                    values = torch.stack([v[i, j, a] for i, j in same])
                    attended[y, z, a] = logits.softmax(0) @ values
        expected = x + block.attn.proj(attended.flatten(2))[:H, :W]
        expected = expected + block.mlp(block.norm2(expected))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", PUBLISHED)
def test_state_dict_is_the_published_one(name):
    with gzip.open(STATE_DICTS / f"maskformer2_swin_{name}.json.gz") as file:
        tensors = json.load(file)["tensors"]
    prefix = "backbone."
    expected = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    with torch.device("meta"):
        model = D2SwinTransformer(**PUBLISHED[name])
    actual = {
        k: [list(v.shape), str(v.dtype).removeprefix("torch.")]
        for k, v in model.state_dict().items()
    }
    assert actual == expected


@pytest.mark.parametrize("size", [(1, 1), (31, 33), (57, 96), (128, 64)])
def test_any_image_size_gives_the_promised_shapes(size):
    model = small_swin(window_size=4)
    assert model.size_divisibility == 32
    features = model(torch.randn(1, 3, *size))
    assert features.keys() == model.output_shape().keys()
    for name, shape in model.output_shape().items():
        sides = [math.ceil(side / shape.stride) for side in size]
        assert features[name].shape == (1, shape.channels, *sides)
        assert features[name].isfinite().all()


def test_output_shape():
    shapes = {k: (v.channels, v.stride) for k, v in D2SwinTransformer().output_shape().items()}
    assert shapes == {"res2": (96, 4), "res3": (192, 8), "res4": (384, 16), "res5": (768, 32)}


def test_out_features_choose_stages_and_leave_no_unused_parameters():
    everything, some = small_swin(), small_swin(out_features=["res4", "res3"])
    some.load_state_dict(
        {k: v for k, v in everything.state_dict().items() if k in some.state_dict()}
    )
    image = torch.randn(1, 3, 64, 64)
    features = some(image)
    assert list(features) == ["res3", "res4"]
    assert list(some.output_shape()) == ["res3", "res4"]
    for name in features:
        assert torch.equal(features[name], everything(image)[name])
    sum(f.square().sum() for f in features.values()).backward()
    assert all(p.grad is not None for p in some.parameters())


def test_build_from_config():
    cfg = get_cfg()
    add_maskformer2_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "D2SwinTransformer"
    cfg.MODEL.SWIN.EMBED_DIM = 24
    cfg.MODEL.SWIN.NUM_HEADS = [1, 2, 4, 8]
    cfg.MODEL.SWIN.OUT_FEATURES = ["res2", "res4"]
    cfg.MODEL.SWIN.QK_SCALE = 0.5
    model = build_backbone(cfg)
    assert isinstance(model, D2SwinTransformer)
    assert {k: v.channels for k, v in model.output_shape().items()} == {"res2": 24, "res4": 96}
    assert {m.scale for n, m in model.named_modules() if n.endswith(".attn")} == {0.5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": (5, 6, 12, 24)}, r"NUM_HEADS\[0\] = 5 does not divide the 96 channels"),
        ({"depths": (2, 2)}, r"one number for each stage, got \[2, 2\] and \[3, 6, 12, 24\]"),
        ({"out_features": ["res6"]}, r"OUT_FEATURES must name some of .*'res5'\], got \['res6'\]"),
        ({"out_features": []}, "OUT_FEATURES"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        D2SwinTransformer(**arguments)


def test_drop_path_rates_grow_linearly():
    model = D2SwinTransformer(depths=(1, 2, 1, 1), drop_path_rate=0.4)
    rates = [block.drop_path for stage in model.layers for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_drop_path_skips_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    block = SwinBlock(4, 2, 1, shift=0, drop_path=0.25)
    mask = torch.zeros(1, 4, 4)
    x = torch.randn(1, 2, 2, 4).expand(4000, -1, -1, -1)
    with torch.no_grad():
        torch.nn.init.zeros_(block.mlp.fc2.weight)  # leaves the attention branch only
        torch.nn.init.zeros_(block.mlp.fc2.bias)
        block.train()
        branch = (block(x, mask, block.draw_kept(x)) - x).flatten(1)
        expected = (block.eval()(x[:1], mask) - x[:1]).flatten()
    skipped = (branch == 0).all(1)
    assert skipped.float().mean().item() == pytest.approx(0.25, abs=0.03)
    kept = branch[~skipped]
    torch.testing.assert_close(kept, (expected / 0.75).expand_as(kept), rtol=1e-4, atol=1e-5)


def test_dropout_is_active_in_training_only():
    image = torch.randn(1, 3, 64, 64)
    for rate in ("drop_rate", "attn_drop_rate", "drop_path_rate"):
        model = small_swin(**{rate: 0.5})
        assert torch.equal(model(image)["res5"], model(image)["res5"])
        model.train()
        assert not torch.equal(model(image)["res5"], model(image)["res5"])


def test_checkpointing_gives_identical_gradients():
    image = torch.randn(8, 3, 96, 64)
    gradients = []
    for use_checkpoint in (False, True):
        model = small_swin(use_checkpoint=use_checkpoint, drop_path_rate=0.5).train()
        torch.manual_seed(1)
        sum(f.square().mean() for f in model(image).values()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert gradient.abs().sum() > 0, name
        assert torch.equal(gradient, gradients[1][name]), name


def test_absolute_position_embedding():
    plain = small_swin(window_size=4)
    model = small_swin(window_size=4, ape=True, pretrain_img_size=64)
    assert model.absolute_pos_embed.shape == (1, 16, 16, 16)
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert (missing, unexpected) == (["absolute_pos_embed"], [])

    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        # At the size of the pre-training it is added as it is: a bias of each patch.
        ramp = torch.arange(16.0).view(1, 1, 1, 16).expand(1, 16, 16, 16)
        model.absolute_pos_embed.copy_(ramp)
        seen = []
        model.layers[0].register_forward_pre_hook(lambda _, x: seen.append(x[0]))
        plain.layers[0].register_forward_pre_hook(lambda _, x: seen.append(x[0]))
        model(image), plain(image)
        torch.testing.assert_close(seen[0] - seen[1], ramp.permute(0, 2, 3, 1))

        # For another size it is resized: the ramp stays a ramp, up to what cubics make of it.
        seen.clear()
        image = torch.randn(1, 3, 40, 128)
        model(image), plain(image)
        added = seen[0] - seen[1]
        assert added.shape == (1, 10, 32, 16)
        inner = (torch.arange(32.0) + 0.5) / 2 - 0.5
        torch.testing.assert_close(added[0, 5, 4:-4, 3], inner[4:-4], rtol=0, atol=0.05)


def test_bfloat16_autocast_stays_close():
    model = small_swin()
    image = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        exact = model(image)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(image)
    for name in exact:
        error = (rounded[name].float() - exact[name]).abs().mean() / exact[name].abs().mean()
        assert error < 0.05


def test_image_without_batch_is_refused():
    with pytest.raises(ValueError, match=r"\(B, C, H, W\), got \(3, 32, 32\)"):
        small_swin()(torch.randn(3, 32, 32))
