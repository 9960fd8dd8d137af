"""Pixel decoder of Mask2Former: deformable attention over 1/32, 1/16, 1/8, then FPN to 1/4.

Shapes:
    B: batch, C: channels, S: positions of all levels together, H: heads, L: levels, P: points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from ...utils.tensor_cache import cached_tensors, tensor_of
from ..fused import linear, linear_of, residual_norm, row_parts
from ..ops import ms_deform_attn_projected, reference_points
from ..ops.cpu_kernels import cpu_kernel
from ..position_encoding import sine_position_encoding
from .base import DecodedFeatures, PixelDecoder, conv_norm, take

Shapes = tuple[tuple[int, int], ...]  # (height, width) of each level


class MSDeformAttn(nn.Module):
    """Multi-scale deformable self-attention with its four projections.

    Args:
        dim: channels C of queries and values; a multiple of ``num_heads``.
        num_levels: L.
        num_heads: H.
        num_points: P, sampling points per head and level.
    """

    def __init__(self, *, dim: int, num_levels: int, num_heads: int, num_points: int):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"{dim} channels cannot be divided among {num_heads} heads")
        self.num_levels, self.num_heads, self.num_points = num_levels, num_heads, num_points
        self.sampling_offsets = nn.Linear(dim, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(dim, num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Let head i look in direction 2 pi i / H, point p at distance p + 1, all weights equal."""
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=-1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        distance = torch.arange(1, self.num_points + 1)
        offsets = direction[:, None, None] * distance[None, None, :, None]  # (H, 1, P, 2)
        offsets = offsets.expand(-1, self.num_levels, -1, -1)
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self, query: Tensor, value: Tensor, points: Tensor, spatial_shapes: Shapes
    ) -> Tensor:
        """Attend from each query to its surroundings on every level.

        Args:
            query: (B, S, C), features with positions added.
            value: (B, S, C), features.
            points: (S, 2), reference points (x, y) in (0, 1).
            spatial_shapes: (height, width) of each level.

        Returns:
            (B, S, C).
        """
        B, S, _ = query.shape
        H, L, P = self.num_heads, self.num_levels, self.num_points
        value = linear(self.value_proj, value).view(B, S, H, -1)
        # One projection for both. Offsets become parts of a level's size instead of pixels.
        scale = _pixels(spatial_shapes, points.device, like=points)  # (L, 2)
        scale = scale[None, :, None].expand(H, L, P, 2).reshape(-1, 1)
        projected = linear_of(
            query,
            torch.cat((self.sampling_offsets.weight * scale, self.attention_weights.weight)),
            torch.cat((self.sampling_offsets.bias * scale[:, 0], self.attention_weights.bias)),
        )
        attended = ms_deform_attn_projected(value, spatial_shapes, points, projected)
        return linear(self.output_proj, attended)


class MSDeformAttnEncoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward network, each with residual and post-norm."""

    def __init__(
        self,
        *,
        dim: int,
        dim_feedforward: int,
        dropout: float,
        num_levels: int,
        num_heads: int,
        num_points: int,
    ):
        super().__init__()
        self.self_attn = MSDeformAttn(
            dim=dim, num_levels=num_levels, num_heads=num_heads, num_points=num_points
        )
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: Tensor, pos: Tensor, points: Tensor, spatial_shapes: Shapes) -> Tensor:
        """Update x (B, S, C), whose position encoding is pos (S, C)."""
        attended = self.dropout(self.self_attn(x + pos, x, points, spatial_shapes))
        x = residual_norm(self.norm1, x, attended)
        parts = row_parts(x, self.linear1.out_features)
        if parts is None:
            return residual_norm(self.norm2, x, self._fed_forward(x))
        for part in parts:
            rows = x[:, part]
            residual_norm(self.norm2, rows, self._fed_forward(rows), out=rows)
        return x

    def _fed_forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(linear(self.linear1, x, "relu"))
        return self.dropout(linear(self.linear2, hidden))


class MSDeformAttnEncoder(nn.Module):
    """A stack of encoder layers; its parameter names start with ``layers``."""

    def __init__(self, *, num_layers: int, **layer: Any):
        super().__init__()
        self.layers = nn.ModuleList(MSDeformAttnEncoderLayer(**layer) for _ in range(num_layers))

    def forward(self, x: Tensor, pos: Tensor, points: Tensor, spatial_shapes: Shapes) -> Tensor:
        """Update x (B, S, C) in every layer."""
        for layer in self.layers:
            x = layer(x, pos, points, spatial_shapes)
        return x


class MSDeformAttnTransformer(nn.Module):
    """The encoder over several maps at once; adds a learned embedding per level to positions."""

    def __init__(self, *, num_levels: int, dim: int, **encoder: Any):
        super().__init__()
        self.encoder = MSDeformAttnEncoder(dim=dim, num_levels=num_levels, **encoder)
        self.level_embed = nn.Parameter(torch.empty(num_levels, dim))
        nn.init.normal_(self.level_embed)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Encode maps (B, C, H_l, W_l) to maps of the same shapes."""
        shapes = tuple((m.shape[-2], m.shape[-1]) for m in maps)
        if torch.jit.is_tracing():  # which makes tensors of them
            shapes = tuple((int(h), int(w)) for h, w in shapes)
        C, device = maps[0].shape[1], maps[0].device
        x = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)  # (B, S, C)
        pos = torch.cat(
            [
                sine_position_encoding(h, w, C, device).flatten(1).T + embed
                for (h, w), embed in zip(shapes, self.level_embed, strict=True)
            ]
        )  # (S, C)
        points = _reference_points(shapes, device, like=x)
        x = self.encoder(x, pos, points, shapes)
        parts = x.split([h * w for h, w in shapes], dim=1)
        return [
            part.transpose(1, 2).unflatten(2, shape)
            for part, shape in zip(parts, shapes, strict=True)
        ]


def upsampled_and_added(lateral: Tensor, above: Tensor) -> Tensor:
    """Resize `above` to `lateral` (B, C, H, W) and add it, which may overwrite `lateral`."""
    kernel = cpu_kernel("upsample_add_", lateral, above)
    dense = lateral.is_contiguous() or lateral.is_contiguous(memory_format=torch.channels_last)
    if kernel is not None and dense and lateral.dtype == above.dtype != torch.float64:
        return kernel(lateral, above)
    return lateral + F.interpolate(
        above, size=lateral.shape[-2:], mode="bilinear", align_corners=False
    )


@cached_tensors
def _pixels(shapes: Shapes, device: torch.device) -> Tensor:
    """Return the size (L, 2) of a pixel as (x, y), as a part of the size of its level."""
    sizes = [size for h, w in shapes for size in (w, h)]
    return 1 / tensor_of(sizes, torch.float32, device).view(-1, 2)


_reference_points = cached_tensors(reference_points)


@SEM_SEG_HEADS_REGISTRY.register()
class MSDeformAttnPixelDecoder(PixelDecoder):
    """Deformable-attention encoder over the coarse maps and an FPN from there to ``common_stride``.

    Args:
        input_shape: see `PixelDecoder`; features finer than ``common_stride`` are not used.
        transformer_in_features: names of the maps that the encoder works on.
        transformer_dropout: dropout in the encoder.
        transformer_nheads: heads of the encoder's attention.
        transformer_npoints: sampling points per head and level.
        transformer_dim_feedforward: hidden channels of the encoder's feed-forward networks.
        transformer_enc_layers: number of encoder layers.
        kwargs: see `PixelDecoder`; ``norm`` is that of the FPN.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        transformer_in_features: Sequence[str],
        transformer_dropout: float,
        transformer_nheads: int,
        transformer_npoints: int,
        transformer_dim_feedforward: int,
        transformer_enc_layers: int,
        **kwargs: Any,
    ):
        super().__init__(input_shape, **kwargs)
        missing = set(transformer_in_features) - set(input_shape)
        if missing or not transformer_in_features:
            raise ValueError(
                "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES must be of "
                f"IN_FEATURES, {sorted(input_shape)}, and is {list(transformer_in_features)}"
            )
        levels = list(zip(self.in_features, self.in_strides, self.in_channels, strict=True))
        # coarse to fine, which is the order of the published parameters
        encoded = [level for level in reversed(levels) if level[0] in transformer_in_features]
        self.transformer_in_features = [name for name, _, _ in encoded]
        self.input_proj = nn.ModuleList()
        for _, _, channels in encoded:
            proj = nn.Conv2d(channels, self.conv_dim, kernel_size=1)
            nn.init.xavier_uniform_(proj.weight)
            nn.init.zeros_(proj.bias)  # type: ignore[arg-type]
            self.input_proj.append(nn.Sequential(proj, nn.GroupNorm(32, self.conv_dim)))
        self.transformer = MSDeformAttnTransformer(
            dim=self.conv_dim,
            dropout=transformer_dropout,
            num_heads=transformer_nheads,
            num_points=transformer_npoints,
            dim_feedforward=transformer_dim_feedforward,
            num_layers=transformer_enc_layers,
            num_levels=len(encoded),
        )
        self.mask_features = conv_norm(self.conv_dim, self.mask_dim, 1)

        finest = encoded[-1][1]
        fpn = [level for level in levels if self.common_stride <= level[1] < finest]
        self.fpn_in_features = [name for name, _, _ in reversed(fpn)]
        # adapter_1 / layer_1 belong to the finest map, as the published parameters are numbered
        for number, (_, _, channels) in enumerate(fpn, start=1):
            adapter = conv_norm(channels, self.conv_dim, 1, self.norm)
            layer = conv_norm(self.conv_dim, self.conv_dim, 3, self.norm, F.relu_)
            self.add_module(f"adapter_{number}", adapter)
            self.add_module(f"layer_{number}", layer)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Return constructor arguments from a config."""
        head = cfg.MODEL.SEM_SEG_HEAD
        return {
            **super().from_config(cfg, input_shape),
            "transformer_in_features": head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES,
            "transformer_dropout": cfg.MODEL.MASK_FORMER.DROPOUT,
            "transformer_nheads": head.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS,
            "transformer_npoints": head.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS,
            "transformer_dim_feedforward": head.DEFORMABLE_TRANSFORMER_ENCODER_DIM_FEEDFORWARD,
            "transformer_enc_layers": head.TRANSFORMER_ENC_LAYERS,
        }

    def forward_features(self, features: dict[str, Tensor]) -> DecodedFeatures:
        """See `PixelDecoder.forward_features`; the encoder's output is the coarsest map."""
        maps = self.transformer(
            [
                proj(take(features, name))
                for name, proj in zip(self.transformer_in_features, self.input_proj, strict=True)
            ]
        )
        for number, name in zip(
            range(len(self.fpn_in_features), 0, -1), self.fpn_in_features, strict=True
        ):
            lateral = getattr(self, f"adapter_{number}")(take(features, name))
            maps.append(getattr(self, f"layer_{number}")(upsampled_and_added(lateral, maps[-1])))
            del lateral  # the mask features can have its memory
        return self.mask_features(maps[-1]), maps[0], maps[: self.num_output_levels]
