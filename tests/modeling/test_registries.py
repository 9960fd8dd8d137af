import pytest
from detectron2.modeling import build_backbone
from support import QUICKSTART

from mask2former import load_config
from mask2former.modeling.registries import check_names


@pytest.mark.parametrize(
    ("key", "name", "hint"),
    [
        ("MODEL.META_ARCHITECTURE", "Maskformer", "MaskFormer"),
        ("MODEL.BACKBONE.NAME", "D2SwinTransfomer", "D2SwinTransformer"),
        ("MODEL.SEM_SEG_HEAD.NAME", "MaskFormrHead", "MaskFormerHead"),
        ("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "BasePixelDecodr", "BasePixelDecoder"),
        ("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "StandardDecoder", "StandardTransformer"),
    ],
)
def test_a_name_that_is_not_registered_is_named(key, name, hint):
    check_names(load_config(str(QUICKSTART)))
    with pytest.raises(ValueError, match=rf"^{key} is '{name}'.* did you mean {hint}"):
        check_names(load_config(str(QUICKSTART), [key, name]))


@pytest.mark.parametrize(
    ("architecture", "head", "needed"),
    [
        ("MaskFormer", "SemSegFPNHead", "SemanticSegmentor"),
        ("MaskFormer", "PerPixelBaselineHead", "SemanticSegmentor"),
        ("SemanticSegmentor", "MaskFormerHead", "MaskFormer"),
        ("SemanticSegmentor", "EncoderOnlyHead", "MaskFormer"),
    ],
)
def test_a_head_of_another_architecture_is_named(architecture, head, needed):
    keys = ["MODEL.META_ARCHITECTURE", architecture, "MODEL.SEM_SEG_HEAD.NAME", head]
    message = f"NAME {head} needs MODEL.META_ARCHITECTURE {needed}, not {architecture}"
    with pytest.raises(ValueError, match=message):
        check_names(load_config(str(QUICKSTART), keys))


def test_a_pixel_decoder_is_no_head():
    keys = ["MODEL.SEM_SEG_HEAD.NAME", "MSDeformAttnPixelDecoder"]
    with pytest.raises(ValueError, match=r"a pixel decoder: set it to MaskFormerHead, and"):
        check_names(load_config(str(QUICKSTART), keys))


@pytest.mark.parametrize(
    "name", ["build_resnet_fpn_backbone", "build_retinanet_resnet_fpn_backbone"]
)
@pytest.mark.parametrize("features", [[], ["res2", "res9"], ["res2", "res5"], ["res3", "res2"]])
def test_a_pyramid_without_its_features_is_named(name, features):
    keys = ["MODEL.BACKBONE.NAME", name, "MODEL.FPN.IN_FEATURES"]
    with pytest.raises(ValueError, match=r"^MODEL\.FPN\.IN_FEATURES is .*\['res2', .* 'res5'\]"):
        check_names(load_config(str(QUICKSTART), [*keys, features]))


@pytest.mark.parametrize(
    ("features", "given", "dilation"),
    [
        (["res3", "res4", "res5"], ["res2", "res3", "res4", "res5"], 1),
        (["res2", "res3", "res4", "res5"], ["res5", "res4", "res3", "res2"], 1),
        (["res3", "res4"], ["res2", "res3", "res4", "res5"], 2),
        (["res2", "res4", "res5"], ["res2", "res4", "res5"], 1),
        (["res3", "res4", "res5"], ["res2", "res3", "res4", "res5"], 2),
        (["res2", "res3"], ["res2"], 1),
    ],
)
def test_a_pyramid_is_refused_where_detectron2_does(features, given, dilation):
    cfg = load_config(
        str(QUICKSTART),
        [
            *(
                "MODEL.BACKBONE.NAME",
                "build_resnet_fpn_backbone",
                "MODEL.FPN.IN_FEATURES",
                features,
            ),
            *("MODEL.RESNETS.OUT_FEATURES", given, "MODEL.RESNETS.RES5_DILATION", dilation),
        ],
    )
    try:
        shapes = build_backbone(cfg).output_shape()
    except (AssertionError, KeyError):
        with pytest.raises(ValueError, match=r"^MODEL\.FPN\.IN_FEATURES is "):
            check_names(cfg)
    else:
        check_names(cfg)
        assert shapes[f"p{features[0][-1]}"].stride == 2 ** int(features[0][-1])
