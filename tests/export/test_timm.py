"""Encoders of timm as programs of open sizes."""

import pytest
import torch
from torch import nn

from mask2former.export.program import ALL_OPEN, trace
from mask2former.modeling.backbone.timm_backbone import TimmBackbone

pytest.importorskip("timm")


class Maps(nn.Module):
    """The maps of a backbone, fine to coarse."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, images):
        return tuple(self.backbone(images).values())


VIT = {"depth": 2, "embed_dim": 48, "num_heads": 3}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("efficientnet_lite0", {}),
        ("convnextv2_atto", {}),
        ("vit_small_patch14_reg4_dinov2", VIT),
        ("vit_small_patch16_dinov3", VIT),
    ],
)
def test_other_sizes_give_the_maps_of_the_encoder(name, options):
    """Tracing one that computes its padding from open sizes takes longer than anyone waits."""
    torch.manual_seed(0)
    maps = Maps(TimmBackbone(name, options=options)).eval()
    program = trace(maps, size_divisibility=32, fixed=ALL_OPEN, operator="gather").module()
    for batch, height, width in ((1, 64, 96), (3, 160, 64)):
        images = torch.randn(batch, 3, height, width)
        with torch.inference_mode():
            for found, expected in zip(program(images), maps(images), strict=True):
                torch.testing.assert_close(found, expected)
