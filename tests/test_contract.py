"""Published checkpoints load: names, shapes and dtypes are those of the published models."""

import gzip
import json
import re

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY, build_model
from detectron2.modeling.backbone import BACKBONE_REGISTRY
from support import REPOSITORY
from torch import nn

from mask2former import load_config
from mask2former.model_zoo import get_config_file, model_names
from mask2former.modeling.transformer_decoder import TRANSFORMER_DECODER_REGISTRY

COCO = "coco/instance-segmentation/"
# Millions of parameters in the paper's tables.
PARAMETERS = {
    "maskformer2_R50_bs16_50ep": 44,
    "maskformer2_R101_bs16_50ep": 63,
    "swin/maskformer2_swin_tiny_bs16_50ep": 47,
    "swin/maskformer2_swin_small_bs16_50ep": 69,
    "swin/maskformer2_swin_base_384_bs16_50ep": 107,
    "swin/maskformer2_swin_base_IN21k_384_bs16_50ep": 107,
    "swin/maskformer2_swin_large_IN21k_384_bs16_100ep": 216,
}
STATE_DICTS = REPOSITORY / "tests/fixtures/state_dicts"
# Where the parameters of a model with this backbone, and of its SyncBN variant, are recorded.
RECORDS = {
    "R50": "maskformer2_R50_bs16_50ep",
    "R101": "maskformer2_R101_bs16_50ep",
    "swin_tiny": "maskformer2_swin_tiny_bs16_50ep",
    "swin_small": "maskformer2_swin_small_bs16_50ep",
    "swin_base": "maskformer2_swin_base_384_bs16_50ep",  # the same for both pre-trainings
    "swin_large": "maskformer2_swin_large_IN21k_384_bs16_100ep",
}
SYNC_BN_RECORDS = {
    "R50": "cityscapes__semantic-segmentation__maskformer2_R50_bs16_90k",
    "R101": "ade20k__semantic-segmentation__maskformer2_R101_bs16_90k",
}
RECORDED = {
    *(COCO + name for name in PARAMETERS),
    *(file.name.removesuffix(".json.gz").replace("__", "/") for file in STATE_DICTS.glob("*__*")),
}


def build(name: str) -> tuple[CfgNode, nn.Module]:
    cfg = load_config(get_config_file(name), ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        return cfg, build_model(cfg)


def tensors_of(model: nn.Module) -> dict:
    return {
        name: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]
        for name, tensor in model.state_dict().items()
    }


def record(name: str, cfg: CfgNode) -> dict:
    file = name.replace("/", "__")
    if not (STATE_DICTS / f"{file}.json.gz").exists():
        backbone = re.search(r"R50|R101|swin_[a-z]+", name)[0]
        sync_bn = backbone in SYNC_BN_RECORDS and cfg.MODEL.RESNETS.NORM == "SyncBN"
        file = (SYNC_BN_RECORDS if sync_bn else RECORDS)[backbone]
    return json.loads(gzip.decompress((STATE_DICTS / f"{file}.json.gz").read_bytes()))


def test_every_coco_instance_model_is_in_the_papers_tables():
    names = {name.removeprefix(COCO) for name in model_names() if name.startswith(COCO)}
    assert names == set(PARAMETERS)


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_model_has_the_published_parameters(name):
    cfg, model = build(name)
    published = record(name, cfg)
    assert tensors_of(model) == published["tensors"]
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == published["parameters"]
    if name.startswith(COCO):
        assert round(count / 1e6) == PARAMETERS[name.removeprefix(COCO)]


@pytest.mark.parametrize("name", sorted(set(model_names()) - RECORDED))
def test_model_differs_from_a_published_one_only_in_classes_and_queries(name):
    cfg, model = build(name)
    tensors = record(name, cfg)["tensors"]
    classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES + 1  # and "no object"
    queries = cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES
    predictor = "sem_seg_head.predictor"
    for tensor, size in {
        "criterion.empty_weight": classes,
        f"{predictor}.class_embed.weight": classes,
        f"{predictor}.class_embed.bias": classes,
        f"{predictor}.query_feat.weight": queries,
        f"{predictor}.query_embed.weight": queries,
    }.items():
        tensors[tensor][0][0] = size
    assert tensors_of(model) == tensors


@pytest.mark.parametrize(
    ("registry", "names"),
    [
        (META_ARCH_REGISTRY, ["MaskFormer"]),
        (BACKBONE_REGISTRY, ["D2SwinTransformer"]),
        (
            SEM_SEG_HEADS_REGISTRY,
            [
                "MaskFormerHead",
                "PerPixelBaselineHead",
                "PerPixelBaselinePlusHead",
                "BasePixelDecoder",
                "TransformerEncoderPixelDecoder",
                "MSDeformAttnPixelDecoder",
            ],
        ),
        (
            TRANSFORMER_DECODER_REGISTRY,
            ["MultiScaleMaskedTransformerDecoder", "StandardTransformerDecoder"],
        ),
    ],
    ids=lambda value: value._name if hasattr(value, "_name") else "",
)
def test_registered_names(registry, names):
    assert [name for name in names if name not in registry] == []
