"""`torch.export` of the network with open sizes: no size of the example may be baked in."""

import pytest
import torch
from detectron2.modeling import build_model
from support import QUICKSTART, TINY
from torch import nn

from mask2former import load_config


class Network(nn.Module):
    """From normalised images, padded to a multiple of 32, to the predictions of the queries."""

    def __init__(self, model):
        super().__init__()
        self.backbone, self.head = model.backbone, model.sem_seg_head

    def forward(self, images):
        outputs = self.head(self.backbone(images))
        return outputs["pred_logits"], outputs["pred_masks"]


@pytest.fixture(scope="module")
def tiny_network():
    cfg = load_config(str(QUICKSTART), [*TINY, "DATASETS.TRAIN", (), "DATASETS.TEST", ()])
    torch.manual_seed(0)
    network = Network(build_model(cfg)).eval()
    h, w = torch.export.Dim("h", min=2, max=64), torch.export.Dim("w", min=2, max=64)
    sizes = {0: torch.export.Dim("batch", max=64), 2: 32 * h, 3: 32 * w}
    with torch.no_grad():
        example = torch.randn(2, 3, 96, 160)
        program = torch.export.export(network, (example,), dynamic_shapes=(sizes,))
    return network, program.module()


@pytest.mark.parametrize("size", [(1, 64, 64), (3, 96, 224)], ids=str)
def test_exported_at_one_size_it_computes_others(tiny_network, size):
    network, exported = tiny_network
    batch, height, width = size
    images = torch.randn(batch, 3, height, width)
    with torch.no_grad():
        for found, expected in zip(exported(images), network(images), strict=True):
            # kernels for the CPU, which are not exported, round otherwise
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
