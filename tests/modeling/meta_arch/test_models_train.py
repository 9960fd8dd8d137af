"""Tiny models of every kind of decoder, from pixels to losses and results."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances

STANDARD = [
    *("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "StandardTransformerDecoder"),
    *("MODEL.MASK_FORMER.DROPOUT", 0.1),
    "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE",
]
NAMES = (
    "BasePixelDecoder",
    "SemanticFPNPixelDecoder",
    "BiFPNPixelDecoder",
    "FaPNPixelDecoder",
    "ProjectionPixelDecoder",
)
MODELS = {name: ["MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", name] for name in NAMES}
MODELS["MaskFormer"] = [*MODELS["BasePixelDecoder"], *STANDARD, "res5"]
MODELS["MaskFormer with encoder"] = [
    *("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "TransformerEncoderPixelDecoder"),
    *(*STANDARD, "transformer_encoder"),
]
MODELS["EoMT"] = [
    *("MODEL.BACKBONE.NAME", "EncoderOnlyBackbone", "MODEL.TIMM.NAME", "vit_tiny_patch16_224"),
    *("MODEL.SEM_SEG_HEAD.NAME", "EncoderOnlyHead"),
]


def squares(width: int) -> dict:
    """An image of up to three squares, each a class, whose sizes no stride divides."""
    image = torch.zeros(3, 61, width, dtype=torch.uint8)
    masks = torch.zeros(3, 61, width, dtype=torch.bool)
    for c in range(3):
        image[c, 10:50, 25 * c + 5 : 25 * c + 25] = 250
        masks[c, 10:50, 25 * c + 5 : 25 * c + 25] = True
    seen = masks.flatten(1).any(1)
    instances = Instances((61, width), gt_classes=torch.arange(3)[seen])
    instances.gt_masks = masks[seen]
    return {"image": image, "instances": instances}


@pytest.mark.parametrize("name", MODELS)
def test_learns_two_images_and_predicts(tiny_cfg, name):
    tiny_cfg.merge_from_list([*MODELS[name], "MODEL.SEM_SEG_HEAD.BIFPN_LAYERS", 2])
    torch.manual_seed(0)
    model = build_model(tiny_cfg).train()
    batch = [squares(83), squares(50)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history = []
    for _ in range(30):
        losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append(sum(losses.values()).item())
    assert set(losses) == {f"loss_{k}{s}" for k in ("ce", "mask", "dice") for s in ("", "_0", "_1")}
    assert sum(history[-3:]) < 0.75 * sum(history[:3])

    model.eval()
    with torch.no_grad():
        results = model([{**x, "height": 122} for x in batch])
    for result, width in zip(results, (83, 50), strict=True):
        assert result["instances"].pred_masks.shape[1:] == (122, width)
        assert result["instances"].scores.isfinite().all()
