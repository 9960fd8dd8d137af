"""ResNets of other libraries compute the same features here as in their library."""

import pytest
import torch
import torchvision
from backbones import described, fill, image, published, randomise
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from torch import nn

from mask2former import add_maskformer2_config
from mask2former.checkpoint import WeightsError
from mask2former.checkpoint.backbones import convert_backbone, torchvision_resnet_to_d2

RESNETS = {
    "resnet18": {"depth": 18},
    "resnet50": {},
    "resnext50_32x4d": {"NUM_GROUPS": 32, "WIDTH_PER_GROUP": 4},
}


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
