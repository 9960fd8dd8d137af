"""Which weights `convert_backbone` recognises, and which its functions refuse."""

import pytest
import torch
from backbones import original_release

from mask2former.checkpoint import WeightsError
from mask2former.checkpoint.backbones import (
    convert_backbone,
    d2_resnet_to_d2,
    swin_to_d2,
    timm_swin_to_d2,
    torchvision_resnet_to_d2,
    torchvision_swin_to_d2,
)


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
