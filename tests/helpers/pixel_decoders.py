"""Small pixel decoders and features for them."""

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

CHANNELS = {"res2": 16, "res3": 24, "res4": 32, "res5": 40}
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
SHAPES = {k: ShapeSpec(channels=CHANNELS[k], stride=STRIDES[k]) for k in CHANNELS}
DIM, MASK_DIM = 64, 48
ENCODER = {
    "transformer_dropout": 0.0,
    "transformer_nheads": 4,
    "transformer_dim_feedforward": 96,
    "transformer_enc_layers": 2,
}
OWN_ARGUMENTS = {
    "BasePixelDecoder": {},
    "TransformerEncoderPixelDecoder": {**ENCODER, "transformer_pre_norm": False},
    "SemanticFPNPixelDecoder": {},
    "BiFPNPixelDecoder": {"num_layers": 2},
    "FaPNPixelDecoder": {},
    "ProjectionPixelDecoder": {},
    "MSDeformAttnPixelDecoder": {
        **ENCODER,
        "transformer_in_features": ["res3", "res4", "res5"],
        "transformer_npoints": 4,
    },
}


def build(name: str, shapes=SHAPES, **changes) -> nn.Module:
    torch.manual_seed(0)
    arguments = {"conv_dim": DIM, "mask_dim": MASK_DIM, "norm": "GN", "common_stride": 4}
    arguments |= OWN_ARGUMENTS[name] | changes
    return SEM_SEG_HEADS_REGISTRY.get(name)(shapes, **arguments).eval()


def randomize(module: nn.Module) -> nn.Module:
    """Zeros and ones, which initial biases and norms are, would hide mistakes."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    return module


def features(height: int, width: int, batch: int = 2) -> dict[str, Tensor]:
    """Of an image of this size; as in ResNet and Swin, maps are rounded up."""
    torch.manual_seed(1)
    return {
        k: torch.randn(batch, CHANNELS[k], -(-height // s), -(-width // s))
        for k, s in STRIDES.items()
    }
