"""FLOPs, activations and parameters against fvcore, closed forms and the published numbers."""

import warnings
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis
from PIL import Image
from support import QUICKSTART, REPOSITORY, TINY
from torch import nn
from torchvision.ops import DeformConv2d

from mask2former import load_config
from mask2former.analysis import (
    build_on_meta,
    count_operators,
    padded_size,
    parameters_by_part,
)
from mask2former.cli.analyze_model import main

CONFIGS = REPOSITORY / "configs"
SWIN = [
    *("MODEL.BACKBONE.NAME", "D2SwinTransformer", "MODEL.SWIN.EMBED_DIM", 16),
    *("MODEL.SWIN.DEPTHS", [1, 2, 1, 1], "MODEL.SWIN.NUM_HEADS", [1, 2, 2, 4]),
    *("MODEL.SWIN.WINDOW_SIZE", 4),
]


class Network(nn.Module):
    """Backbone and head, with outputs that can be traced."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.backbone, self.sem_seg_head = model.backbone, model.sem_seg_head

    def forward(self, x):
        outputs = self.sem_seg_head(self.backbone(x))
        return outputs["pred_logits"], outputs["pred_masks"]


def by_fvcore(analysis, cfg, height: int, width: int) -> Counter:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = Network(build_model(cfg)).eval()
        counted = analysis(network, torch.zeros(1, 3, height, width))
        counted.unsupported_ops_warnings(False)
        return counted.by_operator()


def summed(counts: Counter) -> Counter:
    """Sum over the parts, by operator."""
    sums = Counter()
    for (_, name), value in counts.items():
        sums[name] += value
    return sums


@pytest.mark.parametrize("backbone", [(), SWIN], ids=["resnet", "swin"])
def test_counts_are_fvcores_plus_the_attention_that_it_does_not_know(backbone):
    height, width = 64, 96
    # with fewer layers, some levels would go unused, which tracing leaves out
    cfg = load_config(str(QUICKSTART), [*TINY, *backbone, "MODEL.MASK_FORMER.DEC_LAYERS", 4])
    ours = count_operators(build_on_meta(cfg), height, width)
    flops, theirs = summed(ours.flops), by_fvcore(FlopCountAnalysis, cfg, height, width)
    assert flops["convolution"] == theirs["conv"]
    assert flops["linear"] == theirs["linear"]
    assert flops["group norm"] == theirs["group_norm"]
    assert flops["layer norm"] == theirs["layer_norm"]
    assert flops["resizing"] == theirs["upsample_bilinear2d"]
    # queries by keys by channels, twice; a layer on each level
    Q, C = 10, 32
    pairs = sum(Q * (height // s) * (width // s) + Q * Q for s in (32, 16, 8))
    attention = 2 * C * pairs
    if backbone:
        windows = [(16, 24, 16, 1), (8, 12, 32, 2), (4, 6, 64, 1), (2, 3, 128, 1)]
        for h, w, channels, depth in windows:
            rows, columns = -(-h // 4), -(-w // 4)  # padded to whole windows of 4x4
            # Every second block attends twice in the windows that its shift splits.
            count = depth * rows * columns + depth // 2 * (rows + columns - 1)
            attention += 2 * count * 16 * 16 * channels
    products = theirs["matmul"] + theirs["einsum"]
    assert flops["matmul, attention"] == pytest.approx(products + attention, rel=1e-3)
    # one layer, 3 levels, 4 points, each of 5 multiplications in all channels
    positions = sum((height // s) * (width // s) for s in (8, 16, 32))
    assert flops["deformable attention"] == 5 * positions * C * 3 * 4
    assert not ours.unknown

    values = summed(ours.activations)
    theirs = by_fvcore(ActivationCountAnalysis, cfg, height, width)
    assert values["convolution"] == theirs["conv"]
    assert values["linear"] == theirs["linear"]


def test_deformable_convolution():
    """It costs a convolution, plus four values and a mask per input of each output."""
    model = nn.Module()
    model.backbone = DeformConv2d(3, 8, 3, padding=1).to("meta")
    model.backbone.forward = partial(
        model.backbone.forward, offset=torch.zeros(1, 18, 5, 7, device="meta")
    )
    model.sem_seg_head = nn.Identity()
    counts = count_operators(model, 5, 7)
    assert sum(counts.flops.values()) == 5 * 7 * (8 * 3 * 9 + 5 * 3 * 9)
    assert sum(counts.activations.values()) == 8 * 5 * 7


def test_counts_belong_to_the_part_that_runs():
    model = build_on_meta(load_config(str(QUICKSTART), TINY))
    parts = {}
    for (part, name), value in count_operators(model, 64, 64).flops.items():
        parts.setdefault(part, {})[name] = value
    assert parts.keys() == {"backbone", "pixel decoder", "transformer decoder"}
    assert parts["backbone"].keys() == {"convolution"}
    assert "deformable attention" in parts["pixel decoder"]
    assert "deformable attention" not in parts["transformer decoder"]
    assert parts["transformer decoder"]["matmul, attention"] > 0
    # the model is as before
    assert "forward" not in vars(model.backbone)
    assert "forward_features" not in vars(model.sem_seg_head.pixel_decoder)


def test_unknown_operators_are_named():
    class Backbone(nn.Module):
        size_divisibility = 0

        def forward(self, x):
            return torch.fft.fft(x) + torch.relu(x)

    model = nn.Module()
    model.backbone, model.sem_seg_head = Backbone(), nn.Identity()
    counts = count_operators(model, 4, 5)
    assert not counts.flops
    assert [name for name in counts.unknown if "fft" in name]
    assert not [name for name in counts.unknown if "relu" in name or "add" in name]


@pytest.mark.parametrize(
    "config",
    [
        "coco/instance-segmentation/maskformer2_R50_bs16_50ep.yaml",
        "coco/panoptic-segmentation/swin/maskformer2_swin_tiny_bs16_50ep.yaml",
        "ade20k/baselines/maskformer_R50_bs16_160k.yaml",
        "ade20k/baselines/per_pixel_baseline_R50_bs16_160k.yaml",
        "ade20k/baselines/per_pixel_baseline_plus_R50_bs16_160k.yaml",
        "coco/pixel-decoders/maskformer2_R50_FaPN_bs16_50ep.yaml",
        "coco/pixel-decoders/maskformer2_R50_BiFPN_bs16_50ep.yaml",
    ],
)
def test_all_kinds_of_models_have_known_operators(config):
    model = build_on_meta(load_config(str(CONFIGS / config)))
    counts = count_operators(model, *padded_size(model, 100, 130))
    assert not counts.unknown
    assert sum(counts.flops.values()) > 1e9


@pytest.mark.parametrize(
    ("config", "millions", "gigaflops"),
    [
        ("maskformer2_R50_bs16_50ep.yaml", 44, 226),
        ("swin/maskformer2_swin_small_bs16_50ep.yaml", 69, 313),
    ],
)
def test_published_numbers(config, millions, gigaflops):
    """They are means over photographs, for which 800x1088 is a usual size."""
    model = build_on_meta(load_config(str(CONFIGS / "coco/instance-segmentation" / config)))
    assert round(sum(parameters_by_part(model).values()) / 1e6) == millions
    flops = sum(count_operators(model, 800, 1088).flops.values()) / 1e9
    assert flops == pytest.approx(gigaflops, rel=0.1)


def test_parameters_are_those_of_the_model(tiny_cfg):
    model = build_model(tiny_cfg)
    counts = parameters_by_part(build_on_meta(tiny_cfg))
    head = model.sem_seg_head
    for part, module in (
        ("backbone", model.backbone),
        ("pixel decoder", head.pixel_decoder),
        ("transformer decoder", head.predictor),
    ):
        assert counts[part] == sum(p.numel() for p in module.parameters())
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (1, 33)])
def test_padded_size_is_what_the_model_pads_to(tiny_cfg, size):
    model = build_on_meta(tiny_cfg)
    batch = ImageList.from_tensors([torch.zeros(3, *size)], model.size_divisibility)
    assert padded_size(model, *size) == batch.tensor.shape[-2:]


@pytest.fixture
def command(shapes, tmp_path, capsys):
    """Return a function that runs the tool and returns exit status, stdout and stderr."""
    config = tmp_path / "tiny.yaml"
    config.write_text(load_config(str(QUICKSTART), [*TINY, "INPUT.MAX_SIZE_TEST", 1000]).dump())

    def run(*arguments, options=()):
        options = ("--opts", *options) if options else ()
        try:
            status = main([*map(str, arguments), "--config-file", str(config), *options])
        except SystemExit as exit_:
            status = exit_.code
        return status, *capsys.readouterr()

    return run


def test_means_over_images_of_a_folder(command, tmp_path):
    """The images are turned as their EXIF data say, and resized as in evaluation."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (100, 300)).save(folder / "a.jpg", exif=exif)  # 300x100
    Image.new("RGB", (50, 50)).save(folder / "sub/b.png")
    (folder / "text.txt").write_text("no image")
    model = build_on_meta(load_config(str(QUICKSTART), TINY))
    flops = [sum(count_operators(model, 64, w).flops.values()) / 1e9 for w in (192, 64)]
    status, out, err = command("flop", "activation", "--input", folder)
    assert status == 0, err
    assert f"Means over 2 images of {folder}; network inputs of 64x128" in out
    mean, deviation = sum(flops) / 2, abs(flops[0] - flops[1]) / 2
    assert f"GFLOPs: {mean:.1f} ± {deviation:.1f}" in out
    assert "M activations: " in out
    assert "All operators are known" in out
    status, out, _ = command("flop", "--input", folder, "--num-inputs", 1)
    assert f"GFLOPs: {flops[0]:.1f} ± 0.0" in out


def test_data_set_of_the_config_or_a_fixed_size(command):
    _, out, _ = command("flop")
    assert "4 images of synthetic_shapes_instance_val; network inputs of 64x64" in out
    _, out, _ = command("flop", options=["DATASETS.TEST", ("no_such_data_set",)])
    assert "one input of a fixed size, as no_such_data_set is not there" in out
    assert "800x1216" in out
    _, out, _ = command("flop", "--size", 100, 130)
    assert "one input of the given size; network inputs of 128x160" in out


def test_parameters_and_structure(command):
    status, out, _ = command("parameter", "structure")
    assert status == 0
    model = build_on_meta(load_config(str(QUICKSTART), TINY))
    assert f"{sum(p.numel() for p in model.parameters()):,}" in out
    assert "(pixel_decoder): MSDeformAttnPixelDecoder(" in out
    assert "FLOP" not in out


def test_wrong_commands_say_what_is_wrong(command, tmp_path):
    for arguments, message in [
        (["flops"], "invalid choice: 'flops'"),
        (["flop", "--input", tmp_path / "none"], "no such folder of images"),
        (["flop", "--input", tmp_path], "there is no image in this folder"),
        (["flop", "--size", 0, 5], "no such size"),
        (["flop", "--num-inputs", 0], "at least one is needed"),
    ]:
        status, _, err = command(*arguments)
        assert status == (1 if message == "no such folder of images" else 2)
        assert message in err
    status, _, err = command("flop", options=["MODEL.META_ARCHITECTURE", "GeneralizedRCNN"])
    assert status == 2
    assert "a GeneralizedRCNN cannot be analysed" in err
    assert Path(tmp_path / "tiny.yaml").is_file()
