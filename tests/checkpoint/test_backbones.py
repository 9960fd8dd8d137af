"""Every library's weights compute the same features under our names as in the library."""

import gzip
import json
import subprocess
import sys

import pytest
import torch
import torchvision
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from support import REPOSITORY
from torch import nn
from torchvision.models import swin_transformer as torchvision_swin

from mask2former import add_maskformer2_config
from mask2former.checkpoint import WeightsError, read_checkpoint, write_checkpoint
from mask2former.checkpoint.backbones import (
    convert_backbone,
    d2_resnet_to_d2,
    swin_to_d2,
    timm_swin_to_d2,
    torchvision_resnet_to_d2,
    torchvision_swin_to_d2,
)
from mask2former.modeling.backbone import D2SwinTransformer

STATE_DICTS = REPOSITORY / "tests/fixtures/state_dicts"
# More than one window in each stage: where one covers the map, the libraries do not shift it.
SWIN = {"embed_dim": 16, "depths": (2, 2, 3, 2), "num_heads": (1, 2, 4, 8), "window_size": 4}
IMAGE_SIZE = 256
ORIGINAL_BLOCK = {
    "norm1.weight": (1, 0),
    "norm1.bias": (1, 0),
    "attn.qkv.weight": (3, 1),
    "attn.qkv.bias": (3, 0),
    "attn.proj.weight": (1, 1),
    "attn.proj.bias": (1, 0),
    "norm2.weight": (1, 0),
    "norm2.bias": (1, 0),
    "mlp.fc1.weight": (4, 1),
    "mlp.fc1.bias": (4, 0),
    "mlp.fc2.weight": (1, 4),
    "mlp.fc2.bias": (1, 0),
}


@torch.no_grad()
def randomise(model: nn.Module) -> nn.Module:
    """Fill all parameters, and the statistics of batch norms, with values that show mistakes."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            module.weight.uniform_(0.5, 1.0)
            module.bias.normal_(std=0.3)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2.0)
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.normal_(std=0.3)
    for name, parameter in model.named_parameters():
        if name.endswith("relative_position_bias_table"):
            parameter.normal_()
    return model.eval()


def d2_resnet(depth=50, **options):
    cfg = get_cfg()
    add_maskformer2_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    if depth < 50:
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    for key, value in options.items():
        cfg.MODEL.RESNETS[key] = value
    return build_backbone(cfg)


def fill(model: nn.Module, converted: dict, missing=()) -> nn.Module:
    """Load what `convert_backbone` returned; only `missing` may be left out, nothing left over."""
    assert all(name.startswith("backbone.") for name in converted)
    state = {name.removeprefix("backbone."): value for name, value in converted.items()}
    keys = model.load_state_dict(state, strict=False)
    assert not keys.unexpected_keys
    assert set(keys.missing_keys) == set(missing)
    return model.eval()


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


def image(height=IMAGE_SIZE, width=IMAGE_SIZE):
    torch.manual_seed(1)
    return torch.randn(1, 3, height, width)


def published(name: str) -> dict[str, list]:
    """Names, shapes and types of the backbone in a published checkpoint."""
    with gzip.open(STATE_DICTS / f"{name}.json.gz") as file:
        tensors = json.load(file)["tensors"]
    return {name: value for name, value in tensors.items() if name.startswith("backbone.")}


def described(state: dict) -> dict[str, list]:
    return {k: [list(v.shape), str(v.dtype).removeprefix("torch.")] for k, v in state.items()}


# --- ResNet ---


RESNETS = {
    "resnet18": {"depth": 18},
    "resnet50": {},
    "resnext50_32x4d": {"NUM_GROUPS": 32, "WIDTH_PER_GROUP": 4},
}


@torch.no_grad()
def assert_resnet_equals(theirs: nn.Module, ours: nn.Module) -> None:
    x = image(64, 96)
    actual = ours(x)
    x = theirs.maxpool(theirs.bn1(theirs.conv1(x)).relu())
    for i in range(1, 5):
        x = getattr(theirs, f"layer{i}")(x)
        torch.testing.assert_close(actual[f"res{i + 1}"], x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", RESNETS)
def test_torchvision_resnet(name):
    theirs = randomise(torchvision.models.get_model(name))
    converted = convert_backbone(theirs.state_dict())
    assert_resnet_equals(theirs, fill(d2_resnet(**RESNETS[name]), converted))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_timm_resnet(name):
    timm = pytest.importorskip("timm")
    theirs = randomise(timm.create_model(name))
    converted = convert_backbone(theirs.state_dict())
    assert_resnet_equals(theirs, fill(d2_resnet(**RESNETS[name]), converted))


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_torchvision_resnet_fills_all_of_ours(depth):
    with torch.device("meta"):
        theirs = torchvision.models.get_model(f"resnet{depth}").state_dict()
        ours = d2_resnet(depth).state_dict()
    converted = torchvision_resnet_to_d2(theirs)
    expected = {f"backbone.{name}": value for name, value in ours.items()}
    assert described(converted) == described(expected)
    if depth in (50, 101):
        assert described(converted) == published(f"maskformer2_R{depth}_bs16_50ep")


@pytest.mark.parametrize("stem", ["BasicStem", "DeepLabStem"])
def test_detectron2_resnet(stem):
    ours = d2_resnet(18).state_dict()
    if stem == "DeepLabStem":
        ours = {k.replace("stem.conv1.", "stem.conv1_1."): v for k, v in ours.items()}
    release = ours | {
        "stem.fc.weight": torch.ones(1000, 512),
        "stem.fc.bias": torch.ones(1000),
        "linear.weight": torch.ones(1000, 512),
        "linear.bias": torch.ones(1000),
        "res3.1.conv2.norm.num_batches_tracked": torch.tensor(3),
    }
    converted = convert_backbone(release)
    assert converted == {f"backbone.{name}": value for name, value in ours.items()}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("resnet18d", r"has no conv1\.0\.weight"),  # deep stem
        ("seresnet18", r"layer1\.0\.se\.fc1\.weight, .* and \d+ more"),
        ("resnetv2_50", None),  # names of its own
    ],
)
def test_timm_variants_of_resnet_are_refused(name, part):
    timm = pytest.importorskip("timm")
    state = timm.create_model(name).state_dict()
    if part is None:
        assert convert_backbone(state) is None
    else:
        with pytest.raises(WeightsError, match=f"a plain torchvision ResNet.*{part}"):
            convert_backbone(state)


def test_pooled_shortcut_is_refused():
    state = torchvision.models.resnet18().state_dict()
    for name in list(state):  # as with timm's avg_down, where 0 is the pooling
        if "downsample.1." in name:
            state[name.replace("downsample.1.", "downsample.2.")] = state.pop(name)
    with pytest.raises(WeightsError, match=r"has no layer2\.0\.downsample\.2\.weight"):
        convert_backbone(state)


# --- Swin ---


def original_release(
    embed_dim=16, depths=(2, 2, 3, 2), num_heads=(1, 2, 4, 8), window_size=4
) -> dict[str, torch.Tensor]:
    """Random weights under the names of Microsoft's releases."""
    torch.manual_seed(2)
    window_area, rows = window_size**2, (2 * window_size - 1) ** 2
    state = {
        "patch_embed.proj.weight": torch.randn(embed_dim, 3, 4, 4) / 7,
        "patch_embed.proj.bias": torch.randn(embed_dim),
        "patch_embed.norm.weight": torch.rand(embed_dim) + 0.5,
        "patch_embed.norm.bias": torch.randn(embed_dim),
    }
    for i, depth in enumerate(depths):
        channels = embed_dim * 2**i
        for j in range(depth):
            block = f"layers.{i}.blocks.{j}"
            for name, (rows_out, columns) in ORIGINAL_BLOCK.items():
                shape = (rows_out * channels, columns * channels)[: 2 if columns else 1]
                scale = (shape[1] if columns else 1) ** -0.5
                state[f"{block}.{name}"] = torch.randn(shape) * scale
            state[f"{block}.attn.relative_position_bias_table"] = torch.randn(rows, num_heads[i])
            state[f"{block}.attn.relative_position_index"] = torch.zeros(
                window_area, window_area, dtype=torch.long
            )
            if j % 2:
                state[f"{block}.attn_mask"] = torch.zeros(4, window_area, window_area)
        if i < len(depths) - 1:
            merging = f"layers.{i}.downsample"
            state[f"{merging}.reduction.weight"] = (
                torch.randn(2 * channels, 4 * channels) * (4 * channels) ** -0.5
            )
            state[f"{merging}.norm.weight"] = torch.rand(4 * channels) + 0.5
            state[f"{merging}.norm.bias"] = torch.randn(4 * channels)
    state["norm.weight"], state["norm.bias"] = torch.ones(channels), torch.zeros(channels)
    state["head.weight"], state["head.bias"] = torch.randn(10, channels), torch.randn(10)
    return state


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


def test_swin_without_classifier_is_told_apart_too():
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
def test_swin_fills_all_of_the_published_but_the_norms_of_outputs(
    timm_name, torchvision_name, ours
):
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


# --- What is refused ---


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


def test_functions_refuse_the_weights_of_other_families():
    resnet = {"layer1.0.conv1.weight": torch.ones(1)}
    original = original_release()
    timm_named = {k.replace("layers.0.down", "layers.3.down"): v for k, v in original.items()}
    families = [
        (torchvision_resnet_to_d2, [original, {}], "plain torchvision ResNet"),
        (d2_resnet_to_d2, [resnet, {}], "Detectron2 ResNet"),
        (swin_to_d2, [resnet, {}], "original Swin"),
        (swin_to_d2, [timm_named], "use timm_swin_to_d2"),
        (timm_swin_to_d2, [resnet, original], "use swin_to_d2"),
        (torchvision_swin_to_d2, [resnet, original], "torchvision's Swin"),
    ]
    for convert, states, message in families:
        for state in states:
            with pytest.raises(WeightsError, match=message):
                convert(state)


def test_impossible_bias_table():
    release = original_release()
    release["layers.2.blocks.1.attn.relative_position_bias_table"] = torch.ones(48, 4)
    with pytest.raises(WeightsError, match=r"layers\.2\.blocks\.1\S+ has 48 rows"):
        swin_to_d2(release)


@pytest.mark.parametrize(
    "name",
    [
        "backbone.res2.0.conv1.weight",
        "backbone.layers.0.blocks.0.attn.relative_position_bias_table",
        "sem_seg_head.predictor.query_feat.weight",
        "model.pixel_level_module.encoder.embeddings.norm.weight",
        "res2_0_branch2a_w",
    ],
)
def test_other_weights_are_left_alone(name):
    assert convert_backbone({name: torch.ones(1)}) is None
    assert convert_backbone({}) is None


# --- The tool ---


def convert(*arguments):
    command = [sys.executable, str(REPOSITORY / "tools/convert_backbone.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")


def test_tool(tmp_path):
    release = original_release()
    torch.save({"model": release, "epoch": 300}, tmp_path / "release.pth")
    done = convert(tmp_path / "release.pth", tmp_path / "ours.safetensors")
    assert done.returncode == 0, done.stderr
    written = read_checkpoint(tmp_path / "ours.safetensors")["model"]
    expected = swin_to_d2(release)
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)
    assert f"{len(expected)} tensors" in done.stdout


def test_tool_says_what_is_wrong(tmp_path):
    write_checkpoint({"model": {"a.b": torch.ones(1)}}, tmp_path / "other.pth")
    for source, message in {
        tmp_path / "other.pth": "other.pth holds no ImageNet backbone of a known kind",
        "torchvision://resnet51": "Did you mean torchvision://resnet50",
    }.items():
        done = convert(source, tmp_path / "out.pkl")
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.pkl").exists()
