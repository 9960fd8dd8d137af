"""Queries that a vision transformer itself refines (EoMT, arXiv 2503.19108): no decoder at all.

Shapes:
    B: batch, Q: queries, P: class and register tokens, T: all tokens and queries, C: channels,
    K: classes, h, w: grid of patches, H, W: size of the image in pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from ..backbone.encoder_only import TOKENS, OpenEncoding
from .annealing import MaskAnnealing, drop_masks

_STRIDE = 4  # of the masks; that of the patches is 16
_UPSCALINGS = 2


class EncoderOnlyDecoder(nn.Module):
    """Puts queries among the tokens of the last blocks of an encoder, and predicts from them.

    In each of these blocks a query attends to all other queries, to class and register tokens, and
    to the patches inside its own previous mask. Predictions come before each and after the last.

    Args:
        dim: C.
        num_classes: K; the class head has one more output, for "no object".
        num_queries: Q.
        num_blocks: blocks of the encoder that have queries.
        annealing: arguments of `MaskAnnealing`, as EoMT is trained; None is without.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_classes: int,
        num_queries: int,
        num_blocks: int,
        annealing: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.num_queries, self.num_blocks = num_queries, num_blocks
        self.query_feat = nn.Embedding(num_queries, dim)
        self.class_embed = nn.Linear(dim, num_classes + 1)
        mlp = itertools.chain.from_iterable((nn.Linear(dim, dim), nn.GELU()) for _ in range(3))
        self.mask_embed = nn.Sequential(*list(mlp)[:-1])
        self.upscale = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(dim, dim, kernel_size=2, stride=2),
                nn.GELU(),
                nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim, bias=False),
                get_norm("LN", dim),
            )
            for _ in range(_UPSCALINGS)
        )
        self.annealing = None if annealing is None else MaskAnnealing(num_blocks, **annealing)

    def forward(self, encoding: OpenEncoding) -> dict[str, Any]:
        """Run the last blocks.

        Returns:
            ``pred_logits`` (B, Q, K + 1), ``pred_masks`` (B, Q, H / 4, W / 4) logits, and
            ``aux_outputs``, such dicts of the earlier predictions, in training mode only.
        """
        P, Q = encoding.num_prefix, self.num_queries
        B, N, _ = encoding.tokens.shape
        before, patches = encoding.tokens.split((P, N - P), dim=1)
        queries = self.query_feat.weight.expand(B, -1, -1)
        x = torch.cat((before, queries, patches), dim=1)  # (B, T, C)
        masked = [1.0] * self.num_blocks if self.annealing is None else self.annealing()
        predictions = []
        for block, probability in zip(encoding.blocks, masked, strict=True):
            allowed = None
            if self.training or probability > 0:
                prediction = self._predict(x, encoding)
                if self.training:
                    predictions.append(prediction)
            if probability > 0:
                masks = prediction["pred_masks"].detach()
                inside = F.interpolate(masks, encoding.grid, mode="bilinear").flatten(2) > 0
                drop_masks(inside, probability)
                allowed = x.new_ones((B, 1, x.shape[1], x.shape[1]), dtype=torch.bool)
                allowed[:, 0, P : P + Q, P + Q :] = inside
            x = block(x, allowed)
        height, width = (-(-size // _STRIDE) for size in encoding.image_size)
        *auxiliary, last = (
            {**p, "pred_masks": p["pred_masks"][..., :height, :width]}
            for p in (*predictions, self._predict(x, encoding))
        )
        return {**last, "aux_outputs": auxiliary}

    def _predict(self, x: Tensor, encoding: OpenEncoding) -> dict[str, Tensor]:
        P, Q = encoding.num_prefix, self.num_queries
        _, queries, patches = encoding.norm(x).split((P, Q, x.shape[1] - P - Q), dim=1)
        features = patches.transpose(1, 2).unflatten(2, encoding.grid)  # (B, C, h, w)
        for upscale in self.upscale:
            features = upscale(features)
        masks = torch.einsum("bqc,bchw->bqhw", self.mask_embed(queries), features)
        return {"pred_logits": self.class_embed(queries), "pred_masks": masks}


@SEM_SEG_HEADS_REGISTRY.register()
class EncoderOnlyHead(nn.Module):
    """Hands an encoding of `EncoderOnlyBackbone` to an `EncoderOnlyDecoder`.

    Args:
        num_classes: classes without "no object".
        predictor: turns an `OpenEncoding` into predictions.
    """

    @configurable
    def __init__(self, *, num_classes: int, predictor: nn.Module):
        super().__init__()
        self.num_classes, self.predictor = num_classes, predictor

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Return constructor arguments from a config."""
        mask_former, num_classes = cfg.MODEL.MASK_FORMER, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        if TOKENS not in input_shape:
            raise ValueError(
                "MODEL.SEM_SEG_HEAD.NAME EncoderOnlyHead needs MODEL.BACKBONE.NAME "
                f"EncoderOnlyBackbone, got {cfg.MODEL.BACKBONE.NAME}"
            )
        others = {"PILOTED.GROUPS": mask_former.PILOTED.GROUPS}
        others["TEST.DEC_LAYERS"] = mask_former.TEST.DEC_LAYERS
        for key, is_on in others.items():
            if is_on:
                raise ValueError(f"MODEL.MASK_FORMER.{key} is not for EncoderOnlyHead: set it to 0")
        predictor = EncoderOnlyDecoder(
            input_shape[TOKENS].channels or 0,
            num_classes=num_classes,
            num_queries=mask_former.NUM_OBJECT_QUERIES,
            num_blocks=mask_former.DEC_LAYERS - 1,
            annealing=MaskAnnealing.arguments(cfg),
        )
        return {"num_classes": num_classes, "predictor": predictor}

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """See `EncoderOnlyDecoder.forward`."""
        return self.predictor(features[TOKENS])
