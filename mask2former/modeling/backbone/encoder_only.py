"""A vision transformer of timm that leaves its last blocks to the queries (EoMT, arXiv 2503.19108).

Shapes:
    B: batch, H, W: size of the image in pixels, h, w: of the grid of patches, P: class and register
    tokens, N: P + h * w tokens, Q: queries, C: channels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ...utils.size import Size
from .timm_backbone import PATCH, TimmBackbone

TOKENS = "tokens"


@dataclass
class OpenEncoding:
    """Tokens of which the last blocks are still to be run, together with queries."""

    tokens: Tensor
    """(B, N, C): class and register tokens, then patches."""
    num_prefix: int
    """P. Queries belong behind these tokens."""
    grid: Size
    """(h, w)."""
    image_size: Size
    """(H, W), without what was padded to whole patches."""
    blocks: Sequence[Callable[[Tensor, Tensor | None], Tensor]]
    """From tokens with queries (B, N + Q, C) to such tokens. The second argument, if it is given,
    says which may attend to which: bool (B, 1, N + Q, N + Q)."""
    norm: nn.Module
    """To be applied before predictions."""


@BACKBONE_REGISTRY.register()
class EncoderOnlyBackbone(TimmBackbone):
    """A plain vision transformer without a pyramid, whose last blocks `EncoderOnlyDecoder` runs.

    Args:
        name: see `TimmBackbone`, as are ``kwargs``.
        query_blocks: how many blocks are left to the queries, at least 1.

    Raises:
        ValueError: the encoder is not a plain vision transformer, or has no more blocks.
    """

    @configurable
    def __init__(
        self, name: str, *, query_blocks: int, use_checkpoint: bool = False, **kwargs: Any
    ):
        super().__init__(name, use_checkpoint=use_checkpoint, **kwargs)
        if self.pyramid is None or not hasattr(self.net, "_pos_embed"):
            raise ValueError(f"MODEL.TIMM.NAME {name!r}: EncoderOnlyBackbone needs a plain ViT")
        if not 0 < query_blocks < len(self.net.blocks):
            raise ValueError(
                f"MODEL.MASK_FORMER.DEC_LAYERS - 1 is {query_blocks}, but {name} has "
                f"{len(self.net.blocks)} blocks, of which at least one comes before the queries"
            )
        self.pyramid = None
        self.query_blocks, self.use_checkpoint = query_blocks, use_checkpoint
        self._out_features = [TOKENS]
        self._out_feature_strides = {TOKENS: PATCH}
        self._out_feature_channels = {TOKENS: self.net.embed_dim}

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Return constructor arguments from a config."""
        arguments = super().from_config(cfg, input_shape)
        del arguments["pyramid_channels"]
        return {**arguments, "query_blocks": cfg.MODEL.MASK_FORMER.DEC_LAYERS - 1}

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Encode normalised images (B, in_channels, H, W) to ``{"tokens": OpenEncoding}``."""
        H, W = image.shape[-2:]
        net = self.net
        with torch.no_grad() if self._frozen else contextlib.nullcontext():
            x = net.patch_embed(F.pad(image, (0, -W % PATCH, 0, -H % PATCH)))
            x = net._pos_embed(x)
            x, rope = x if isinstance(x, tuple) else (x, None)
            x = net.norm_pre(x)
            steps = [partial(self._run, block, rope) for block in net.blocks]
            for step in steps[: -self.query_blocks]:
                x = step(x, None)
        grid = (-(-H // PATCH), -(-W // PATCH))
        encoding = OpenEncoding(
            x, net.num_prefix_tokens, grid, (H, W), steps[-self.query_blocks :], net.norm
        )
        return {TOKENS: encoding}

    def _run(
        self, block: nn.Module, rope: Tensor | None, x: Tensor, allowed: Tensor | None
    ) -> Tensor:
        arguments: dict[str, Any] = {"attn_mask": allowed}
        if rope is not None:  # which patches are rotated by; queries are not
            missing = x.shape[1] - self.net.num_prefix_tokens - rope.shape[-2]
            sine, cosine = rope.chunk(2, -1)
            sine = F.pad(sine, (0, 0, missing, 0))
            cosine = F.pad(cosine, (0, 0, missing, 0), value=1.0)
            arguments["rope"] = torch.cat((sine, cosine), -1)
        if self.use_checkpoint and self.training:
            return checkpoint(block, x, use_reentrant=False, **arguments)
        return block(x, **arguments)
