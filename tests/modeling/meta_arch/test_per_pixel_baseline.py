import pytest
import torch
from detectron2.modeling import build_model, build_sem_seg_head
from pixel_decoders import SHAPES, features
from support import REPOSITORY, TINY
from torch.nn import functional as F

from mask2former import load_config
from mask2former.engine import Trainer

K = 5
SETTINGS = {
    "PerPixelBaselineHead": [],
    "PerPixelBaselinePlusHead": [
        *("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "StandardTransformerDecoder"),
        *("MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", "res5"),
        *("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", K),
    ],
}


def config(cfg, name, *overrides):
    cfg = cfg.clone()
    cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", "SemanticSegmentor", "MODEL.SEM_SEG_HEAD.NAME", name),
            *("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "BasePixelDecoder"),
            *("MODEL.SEM_SEG_HEAD.IGNORE_VALUE", 255),
            *SETTINGS[name],
            *overrides,
        ]
    )
    return cfg


def build(cfg, name, *overrides):
    torch.manual_seed(0)
    return build_sem_seg_head(config(cfg, name, *overrides), SHAPES)


def labels(height, width):
    torch.manual_seed(2)
    targets = torch.randint(K, (2, height, width))
    targets[:, :5] = 255
    return targets


def literal_loss(logits, targets):
    """The mean over labelled pixels of -log of the softmax of the enlarged logits."""
    enlarged = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
    total, count = 0.0, 0
    for b, i, j in (targets != 255).nonzero().tolist():
        scores = enlarged[b, :, i, j]
        total += float(torch.logsumexp(scores, 0) - scores[targets[b, i, j]])
        count += 1
    return total / count


# the second size is divided neither by the common stride nor by the features' other strides
@pytest.mark.parametrize("size", [(32, 64), (37, 29)])
@pytest.mark.parametrize("name", SETTINGS)
def test_losses_equal_the_literal_cross_entropy(tiny_cfg, name, size):
    head = build(tiny_cfg, name, "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT", 3.0).train()
    x, targets = features(*size), labels(*size)
    none, losses = head(x, targets)
    assert none is None
    with torch.no_grad():
        wanted = [3 * literal_loss(logits, targets) for logits in head.predict(x)]
    assert len(wanted) == (3 if name == "PerPixelBaselinePlusHead" else 1)
    names = ["loss_sem_seg", "loss_sem_seg_0", "loss_sem_seg_1"][: len(wanted)]
    assert {k: v.item() for k, v in losses.items()} == pytest.approx(
        dict(zip(names, wanted, strict=True)), rel=1e-4
    )


@torch.no_grad()
@pytest.mark.parametrize("name", SETTINGS)
def test_results_are_the_logits_at_the_images_size(tiny_cfg, name):
    head = build(tiny_cfg, name).eval()
    x = features(64, 96)
    results, losses = head(x)
    assert results.shape == (2, K, 64, 96) and losses == {}
    (logits,) = head.predict(x)
    wanted = F.interpolate(logits, size=(64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(results, wanted)


def test_baseline_is_linear_in_the_mask_features(tiny_cfg):
    head = build(tiny_cfg, "PerPixelBaselineHead")
    x = features(64, 96)
    mask_features = head.pixel_decoder.forward_features(x)[0]
    wanted = torch.einsum("kc,bchw->bkhw", head.predictor.weight[:, :, 0, 0], mask_features)
    (logits,) = head.predict(x)
    torch.testing.assert_close(logits, wanted + head.predictor.bias[:, None, None])


def test_deep_supervision_can_be_off(tiny_cfg):
    off = ["MODEL.MASK_FORMER.DEEP_SUPERVISION", False]
    head = build(tiny_cfg, "PerPixelBaselinePlusHead", *off).train()
    assert set(head(features(32, 64), labels(32, 64))[1]) == {"loss_sem_seg"}


@pytest.mark.parametrize("name", SETTINGS)
def test_images_without_labels_train(tiny_cfg, name):
    head = build(tiny_cfg, name).train()
    losses = head(features(32, 64), torch.full((2, 32, 64), 255))[1]
    assert all(loss == 0 for loss in losses.values())
    sum(losses.values()).backward()


@pytest.mark.parametrize("name", SETTINGS)
def test_wrong_targets_are_named(tiny_cfg, name):
    head = build(tiny_cfg, name).train()
    with pytest.raises(ValueError, match=r"'sem_seg'.*mask_former_semantic"):
        head(features(32, 64))
    with pytest.raises(ValueError, match=r"classes 0 to 9.*NUM_CLASSES is 5.*IGNORE_VALUE 255"):
        head(features(32, 64), torch.arange(10).repeat_interleave(205)[: 32 * 64].view(1, 32, 64))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (["MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 7], r"NUM_OBJECT_QUERIES is 7.*NUM_CLASSES 5"),
        (
            [
                "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME",
                "MultiScaleMaskedTransformerDecoder",
            ],
            r"to StandardTransformerDecoder",
        ),
    ],
)
def test_wrong_settings_are_named(tiny_cfg, override, message):
    with pytest.raises(ValueError, match=message):
        build(tiny_cfg, "PerPixelBaselinePlusHead", *override)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_first_checkpoints_load(tiny_cfg, name):
    head = build(tiny_cfg, name)
    names = head.state_dict()
    assert {n.partition(".")[0] for n in names} == {"pixel_decoder", "predictor"}
    old = {k.replace("pixel_decoder.", ""): v for k, v in names.items()}
    build(tiny_cfg, name).load_state_dict(old)


@pytest.mark.parametrize("name", SETTINGS)
def test_segmentor_learns_an_image_and_predicts_at_the_wanted_size(tiny_cfg, name):
    torch.manual_seed(0)
    model = build_model(config(tiny_cfg, name)).train()
    # what to see: bright squares of different colours
    image = torch.zeros(3, 61, 83, dtype=torch.uint8)
    sem_seg = torch.zeros(61, 83, dtype=torch.long)
    for c in range(3):
        image[c, 10:50, 25 * c + 5 : 25 * c + 25] = 250
        sem_seg[10:50, 25 * c + 5 : 25 * c + 25] = c + 1
    sem_seg[:, -4:] = 255
    batch = [{"image": image, "sem_seg": sem_seg}, {"image": image[..., :70]}]
    batch[1]["sem_seg"] = sem_seg[..., :70]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    history = []
    for _ in range(30):
        losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append(losses["loss_sem_seg"].item())
    assert history[-1] < 0.5 * history[0]

    model.eval()
    with torch.no_grad():
        results = model([{"image": image, "height": 122, "width": 166}, batch[1]])
    assert [r["sem_seg"].shape for r in results] == [(K, 122, 166), (K, 61, 70)]


@pytest.mark.parametrize("name", SETTINGS)
def test_trainer_trains_and_evaluates(shapes, name, tmp_path):
    cfg = load_config(
        str(REPOSITORY / "configs/quickstart/semantic.yaml"),
        [
            *(*TINY, "OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", 2),
            *("INPUT.CROP.SIZE", [64, 64], "INPUT.SIZE_DIVISIBILITY", 64),
        ],
    )
    classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    cfg = config(cfg, name, "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", classes)
    trainer = Trainer(cfg)
    trainer.train()
    assert 0 <= trainer.test(cfg, trainer.model)["sem_seg"]["mIoU"] <= 100
