"""EoMT: against `transformers`, with its weights, and what our own parts add."""

import copy

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from support import QUICKSTART, REPOSITORY, TINY
from torch import nn

from mask2former import load_config
from mask2former.checkpoint import Checkpointer, WeightsError
from mask2former.checkpoint.huggingface.eomt_names import eomt_to_d2
from mask2former.modeling import EncoderOnlyBackbone, EncoderOnlyHead
from mask2former.modeling.transformer_decoder.encoder_only import EncoderOnlyDecoder

DIM, HEADS, DEPTH, BLOCKS, Q, K, SIZE = 48, 3, 4, 2, 5, 6, 64
NAMES = {"eomt": "vit_small_patch14_reg4_dinov2", "eomt_dinov3": "vit_small_patch16_dinov3_qkvb"}
ANNEALING = {"start": 0.0, "end": 0.0, "power": 0.9, "max_iter": 10}


class Model(nn.Module):
    """What a checkpoint holds of `MaskFormer`."""

    def __init__(self, kind: str, size: int = SIZE, query_blocks: int = BLOCKS):
        super().__init__()
        torch.manual_seed(1)
        options = {"embed_dim": DIM, "num_heads": HEADS, "depth": DEPTH}
        more = {"pretrain_img_size": size} if kind == "eomt" else {}
        self.backbone = EncoderOnlyBackbone(
            NAMES[kind], query_blocks=query_blocks, options=options, **more
        )
        self.sem_seg_head = EncoderOnlyHead(
            num_classes=K,
            predictor=EncoderOnlyDecoder(
                DIM, num_classes=K, num_queries=Q, num_blocks=BLOCKS, annealing=ANNEALING
            ),
        )

    def forward(self, image):
        return self.sem_seg_head(self.backbone(image))


def theirs(kind, masked=1.0):
    models = pytest.importorskip(f"transformers.models.{kind}")
    name = {"eomt": "Eomt", "eomt_dinov3": "EomtDinov3"}[kind]
    if not hasattr(models, f"{name}Config"):
        pytest.skip(f"this version of transformers does not have {name}")
    # As in DINOv3, whose epsilon transformers' default is not
    others = {"intermediate_size": 4 * DIM, "layer_norm_eps": 1e-5} if "v3" in kind else {}
    config = getattr(models, f"{name}Config")(
        hidden_size=DIM,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        num_blocks=BLOCKS,
        num_queries=Q,
        num_labels=K,
        image_size=SIZE,
        **others,
    )
    torch.manual_seed(0)
    model = getattr(models, f"{name}ForUniversalSegmentation")(config).eval()
    for name, parameter in model.named_parameters():  # zeros and ones would hide mistakes
        is_scale = parameter.ndim == 1 and not name.endswith("bias")
        nn.init.normal_(parameter, mean=float(is_scale), std=0.2)
    model.attn_mask_probs.fill_(masked)
    return model


@pytest.mark.parametrize("masked", [0.0, 1.0])
@pytest.mark.parametrize("kind", NAMES)
@torch.no_grad()
def test_equals_transformers_with_its_weights(kind, masked, tmp_path):
    expected = theirs(kind, masked)
    expected.save_pretrained(tmp_path)
    ours = Model(kind)
    Checkpointer(ours).load(str(tmp_path), checkpointables=[])
    assert ours.sem_seg_head.predictor.annealing.masked.tolist() == [masked > 0] * BLOCKS
    image = torch.randn(2, 3, SIZE, SIZE)
    found, wanted = ours.eval()(image), expected(image)
    scale = wanted.masks_queries_logits.std()
    for got, logits in (
        (found["pred_masks"], wanted.masks_queries_logits),
        (found["pred_logits"], wanted.class_queries_logits),
    ):
        assert got.shape == logits.shape
        torch.testing.assert_close(got, logits, rtol=1e-5, atol=1e-5 * max(1.0, scale.item()))
    assert found["aux_outputs"] == []
    other = copy.deepcopy(ours)  # the masks, and so the comparison, matter
    other.sem_seg_head.predictor.annealing._masked = [masked == 0] * BLOCKS
    assert (other(image)["pred_logits"] - found["pred_logits"]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", NAMES)
def test_files_that_are_not_eomt_on_a_plain_dino_are_refused(kind):
    state = theirs(kind).state_dict()
    with pytest.raises(WeightsError, match=r"does not have: .*weights_in"):
        eomt_to_d2({**state, "layers.0.mlp.weights_in.weight": torch.zeros(1)})
    del state["layers.1.attention.k_proj.weight"]
    with pytest.raises(WeightsError, match="lacks queries, keys"):
        eomt_to_d2(state)


@pytest.mark.parametrize("size", [(64, 64), (49, 100), (16, 16)])
@torch.no_grad()
def test_masks_cover_images_of_any_size(size):
    found = Model("eomt").eval()(torch.randn(1, 3, *size))
    rows, columns = (-(-n // 4) for n in size)
    assert found["pred_masks"].shape == (1, Q, rows, columns)


@pytest.mark.parametrize("kind", NAMES)
def test_training_predicts_before_every_block_and_reaches_every_parameter(kind):
    model = Model(kind).train()
    with EventStorage(0):
        found = model(torch.randn(2, 3, SIZE, SIZE))
    outputs = [found, *found["aux_outputs"]]
    assert len(outputs) == BLOCKS + 1
    assert {out["pred_masks"].shape for out in outputs} == {(2, Q, 16, 16)}
    sum(
        o["pred_masks"].square().sum() + o["pred_logits"].square().sum() for o in outputs
    ).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    depths = model.backbone.depths()
    assert set(depths) == {name for name, _ in model.backbone.named_parameters()}


def test_a_frozen_encoder_still_trains_the_queries():
    backbone = Model("eomt").backbone
    backbone._freeze(-1, False)
    decoder = Model("eomt").sem_seg_head.predictor.train()
    decoder.annealing = None
    decoder(backbone.train()(torch.randn(1, 3, SIZE, SIZE))["tokens"])[
        "pred_logits"
    ].sum().backward()
    assert decoder.query_feat.weight.grad.any()
    assert not any(p.requires_grad for p in backbone.parameters())


def test_the_config_is_that_of_the_published_model():
    file = REPOSITORY / "configs/coco/encoder-only/panoptic_dinov2_large.yaml"
    with torch.device("meta"):
        model = build_model(load_config(str(file), ["MODEL.DEVICE", "meta"]))
    assert model.backbone.query_blocks == model.sem_seg_head.predictor.num_blocks == 4
    assert model.backbone.net.pos_embed.shape == (1, 1600, 1024)  # of 640 x 640 pixels
    theirs = pytest.importorskip("transformers.models.eomt")
    with torch.device("meta"):
        wanted = theirs.EomtForUniversalSegmentation(theirs.EomtConfig(num_labels=133))
    counts = [sum(p.numel() for p in m.parameters()) for m in (model, wanted)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["MODEL.BACKBONE.NAME", "TimmBackbone"], "needs MODEL.BACKBONE.NAME EncoderOnlyBackbone"),
        (["MODEL.TIMM.NAME", "convnextv2_atto"], "needs a plain ViT"),
        (["MODEL.MASK_FORMER.DEC_LAYERS", 13], "is 12, but vit_small_patch14_reg4_dinov2 has 12"),
        (["MODEL.MASK_FORMER.PILOTED.GROUPS", 2], "PILOTED.GROUPS is not for EncoderOnlyHead"),
        (["MODEL.MASK_FORMER.TEST.DEC_LAYERS", 2], "TEST.DEC_LAYERS is not for EncoderOnlyHead"),
    ],
)
def test_settings_that_do_not_fit_are_named(changes, message):
    keys = ["MODEL.BACKBONE.NAME", "EncoderOnlyBackbone", "MODEL.TIMM.NAME", NAMES["eomt"]]
    keys += ["MODEL.SEM_SEG_HEAD.NAME", "EncoderOnlyHead", "MODEL.MASK_FORMER.DEC_LAYERS", 5]
    cfg = load_config(str(QUICKSTART), [*TINY, *keys, *changes, "MODEL.DEVICE", "meta"])
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        build_model(cfg)


def test_the_backbone_says_what_it_gives():
    shape = Model("eomt").backbone.output_shape()
    assert shape == {"tokens": ShapeSpec(channels=DIM, stride=16)}
