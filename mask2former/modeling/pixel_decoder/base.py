"""What the pixel decoders have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fvcore.nn.weight_init as weight_init
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

DecodedFeatures = tuple[Tensor, Tensor | None, list[Tensor]]


class LastUse(dict[str, Tensor]):
    """Maps by name that their giver does not need any more.

    A pixel decoder may take them out, so that their memory serves for what it computes.
    """


def take(features: dict[str, Tensor], name: str) -> Tensor:
    """Return a map, and take it out if it is of a `LastUse`."""
    return features.pop(name) if isinstance(features, LastUse) else features[name]


class PixelDecoder(nn.Module):
    """Makes mask features, and maps for the transformer decoder, of a backbone's maps.

    Subclasses build their layers from ``in_channels`` and implement `forward_features`.

    Args:
        input_shape: the backbone's feature names and their channels and strides.
        conv_dim: channels inside and of the multi-scale outputs.
        mask_dim: channels of the mask features.
        norm: Detectron2's name of the convolutions' normalisation ("" for none).
        common_stride: stride of the mask features.

    Raises:
        ValueError: no features, or a ``conv_dim`` that the normalisation cannot group.
    """

    num_output_levels = 3

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        conv_dim: int,
        mask_dim: int,
        norm: str,
        common_stride: int,
    ):
        super().__init__()
        if not input_shape:
            raise ValueError(
                "MODEL.SEM_SEG_HEAD.IN_FEATURES names no feature for the pixel decoder"
            )
        by_stride = sorted(input_shape.items(), key=lambda item: stride_of(item[1]))
        self.in_features = [name for name, _ in by_stride]  # fine to coarse
        self.in_strides = [stride_of(shape) for _, shape in by_stride]
        self.in_channels = [channels_of(shape) for _, shape in by_stride]
        if norm == "GN" and conv_dim % 32:
            raise ValueError(
                "MODEL.SEM_SEG_HEAD.CONVS_DIM must be a multiple of 32, the groups of NORM 'GN', "
                f"got {conv_dim}"
            )
        self.conv_dim, self.mask_dim, self.norm = conv_dim, mask_dim, norm
        self.common_stride = common_stride

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Return constructor arguments from a config."""
        head = cfg.MODEL.SEM_SEG_HEAD
        return {
            "input_shape": {k: v for k, v in input_shape.items() if k in head.IN_FEATURES},
            "conv_dim": head.CONVS_DIM,
            "mask_dim": head.MASK_DIM,
            "norm": head.NORM,
            "common_stride": head.COMMON_STRIDE,
        }

    def check_finest_stride(self) -> None:
        """Raise `ValueError` unless the finest feature has the stride of the mask features."""
        if self.in_strides[0] != self.common_stride:
            raise ValueError(
                f"{type(self).__name__} gives mask features at the stride of its finest feature, "
                f"{self.in_strides[0]} of {self.in_features[0]!r}, but "
                f"MODEL.SEM_SEG_HEAD.COMMON_STRIDE is {self.common_stride}: change it or "
                "IN_FEATURES"
            )

    def inputs(self, features: dict[str, Tensor]) -> list[Tensor]:
        """Return the decoder's input maps, fine to coarse."""
        return [features[name] for name in self.in_features]

    def multi_scale(self, pyramid: list[Tensor]) -> list[Tensor]:
        """Return the coarsest maps, coarse to fine, of a pyramid that is ordered fine to coarse."""
        return pyramid[::-1][: self.num_output_levels]

    def forward_features(self, features: dict[str, Tensor]) -> DecodedFeatures:
        """Compute mask features and the maps that the transformer decoder attends to.

        Args:
            features: the backbone's maps by name, (B, C_l, H / stride_l, W / stride_l). Those of
                a `LastUse` may be missing there afterwards.

        Returns:
            Mask features (B, mask_dim, H / common_stride, W / common_stride), the output of the
            transformer encoder on the coarsest map (None where there is no such encoder), and the
            three coarsest maps from coarse to fine, (B, conv_dim, ., .) each.
        """
        raise NotImplementedError


def build_pixel_decoder(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """Build ``MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME``.

    Args:
        cfg: the whole config.
        input_shape: the backbone's feature names and their channels and strides.

    Raises:
        ValueError: ``IN_FEATURES`` names something that the backbone does not give.
    """
    head = cfg.MODEL.SEM_SEG_HEAD
    missing = [name for name in head.IN_FEATURES if name not in input_shape]
    if missing:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.IN_FEATURES names {missing}; "
            f"the backbone gives {list(input_shape)}"
        )
    return SEM_SEG_HEADS_REGISTRY.get(head.PIXEL_DECODER_NAME)(cfg, input_shape)


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    norm: str = "",
    activation: Callable[[Tensor], Tensor] | None = None,
    groups: int = 1,
) -> Conv2d:
    """Build a convolution that keeps the map's size, then normalisation and activation.

    Its parameters are ``weight``, and ``bias`` or else those of ``norm``.
    """
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        padding=kernel_size // 2,
        bias=norm == "",
        norm=get_norm(norm, out_channels),
        activation=activation,
        groups=groups,
    )
    weight_init.c2_xavier_fill(conv)
    return conv


def stride_of(shape: ShapeSpec) -> int:
    """Return the stride, which Detectron2 declares optional."""
    if shape.stride is None:
        raise ValueError(f"the backbone's output_shape() gives no stride: {shape}")
    return shape.stride


def channels_of(shape: ShapeSpec) -> int:
    """Return the channels, which Detectron2 declares optional."""
    if shape.channels is None:
        raise ValueError(f"the backbone's output_shape() gives no channels: {shape}")
    return shape.channels
