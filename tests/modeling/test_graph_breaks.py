"""The network is one graph for PyTorch's compiler, which a break would cut into slow pieces."""

import pytest
import torch
from detectron2.modeling import build_model
from support import QUICKSTART, REPOSITORY, TINY

from mask2former import load_config

SWIN = REPOSITORY / ("configs/coco/instance-segmentation/swin/maskformer2_swin_tiny_bs16_50ep.yaml")
SMALL_SWIN = [
    *("MODEL.SWIN.EMBED_DIM", 12, "MODEL.SWIN.DEPTHS", (2, 2, 1, 1)),
    *("MODEL.SWIN.NUM_HEADS", (1, 2, 2, 2), "MODEL.DEVICE", "cpu", "DATASETS.TRAIN", ()),
]
# TINY without the keys of the quickstart's backbone.
SMALL_HEAD = TINY[TINY.index("MODEL.SEM_SEG_HEAD.CONVS_DIM") :]


@pytest.fixture(params=["quickstart", "swin"])
def model(request):
    swin = request.param == "swin"
    cfg = load_config(
        str(SWIN if swin else QUICKSTART), [*SMALL_SWIN, *SMALL_HEAD] if swin else TINY
    )
    torch.manual_seed(0)
    return build_model(cfg)


def network(model):
    return lambda images: model.sem_seg_head(model.backbone(images))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_there_are_none(model, training):
    torch._dynamo.reset()
    with torch.set_grad_enabled(training):
        found = torch._dynamo.explain(network(model.train(training)))(torch.randn(2, 3, 64, 96))
    assert found.graph_break_count == 0, found.break_reasons
    assert found.graph_count == 1


def test_a_break_is_found(model):
    """What the test above counts: an `int` of a tensor is one."""

    def cut(images):
        return int(images.sum()), network(model)(images)

    torch._dynamo.reset()
    assert torch._dynamo.explain(cut)(torch.randn(2, 3, 64, 96)).graph_break_count == 1
