"""The transformer decoder of MaskFormer (arXiv 2107.06278, section 3.3), which is DETR's.

Shapes:
    B: batch, Q: queries, C: channels, K: classes, H, W: mask features' size.
"""

from __future__ import annotations

from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d
from torch import Tensor, nn

from .detr import EncoderDecoder
from .layers import MLP
from .registry import TRANSFORMER_DECODER_REGISTRY


@TRANSFORMER_DECODER_REGISTRY.register()
class StandardTransformerDecoder(nn.Module):
    """Queries that attend to the whole of one map in every layer.

    A prediction is made after every layer, by heads that all of them share.

    Args:
        in_channels: channels of the map.
        num_classes: K; the class head has one output more, for "no object".
        hidden_dim: C.
        num_queries: Q.
        nheads: heads of the attentions.
        dim_feedforward: hidden channels of the feed-forward networks.
        enc_layers: layers of self-attention over the map, ahead of the decoder.
        dec_layers: layers of the decoder, at least 1, which is also the number of predictions.
        dropout: after every branch and of the attentions' weights.
        pre_norm: normalise before instead of after each branch.
        mask_dim: channels of the mask features.
        enforce_input_project: project the map by a 1x1 convolution even if it has C channels.
        mask_classification: whether the queries predict classes; if not, each stands for one.
    """

    multi_scale = False

    @configurable
    def __init__(
        self,
        in_channels: int,
        *,
        num_classes: int,
        hidden_dim: int,
        num_queries: int,
        nheads: int,
        dim_feedforward: int,
        enc_layers: int,
        dec_layers: int,
        mask_dim: int,
        dropout: float = 0.0,
        pre_norm: bool = False,
        enforce_input_project: bool = False,
        mask_classification: bool = True,
    ):
        super().__init__()
        if dec_layers < 1:
            raise ValueError(
                f"StandardTransformerDecoder needs MODEL.MASK_FORMER.DEC_LAYERS of at least 1, "
                f"got {dec_layers}"
            )
        self.transformer = EncoderDecoder(
            num_encoder_layers=enc_layers,
            num_decoder_layers=dec_layers,
            dim=hidden_dim,
            num_heads=nheads,
            dim_feedforward=dim_feedforward,
            dropout=dropout,
            pre_norm=pre_norm,
        )
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.input_proj: nn.Module = nn.Identity()
        if in_channels != hidden_dim or enforce_input_project:
            self.input_proj = Conv2d(in_channels, hidden_dim, kernel_size=1)
            weight_init.c2_xavier_fill(self.input_proj)
        self.mask_classification = mask_classification
        if mask_classification:
            self.class_embed = nn.Linear(hidden_dim, num_classes + 1)
        self.mask_embed = MLP(hidden_dim, hidden_dim, mask_dim, 3)

    @classmethod
    def from_config(
        cls, cfg: CfgNode, in_channels: int, mask_classification: bool = True
    ) -> dict[str, Any]:
        """Constructor arguments from a config."""
        mask_former = cfg.MODEL.MASK_FORMER
        return {
            "in_channels": in_channels,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "hidden_dim": mask_former.HIDDEN_DIM,
            "num_queries": mask_former.NUM_OBJECT_QUERIES,
            "nheads": mask_former.NHEADS,
            "dim_feedforward": mask_former.DIM_FEEDFORWARD,
            "enc_layers": mask_former.ENC_LAYERS,
            "dec_layers": mask_former.DEC_LAYERS,
            "dropout": mask_former.DROPOUT,
            "pre_norm": mask_former.PRE_NORM,
            "enforce_input_project": mask_former.ENFORCE_INPUT_PROJ,
            "mask_dim": cfg.MODEL.SEM_SEG_HEAD.MASK_DIM,
            "mask_classification": mask_classification,
        }

    def forward(self, x: Tensor, mask_features: Tensor) -> dict[str, Any]:
        """Predict classes and masks of all queries.

        Args:
            x: the map that the queries attend to, (B, in_channels, ., .).
            mask_features: (B, mask_dim, H, W).

        Returns:
            ``pred_logits`` (B, Q, K + 1), which is missing without ``mask_classification``,
            ``pred_masks`` (B, Q, H, W) logits, and ``aux_outputs``, a list of such dicts, one for
            each earlier layer. That list is filled in training mode only.
        """
        outputs = self.transformer(self.input_proj(x), self.query_embed.weight)
        if not self.training:
            outputs = outputs[-1:]
        predictions = [self._predict(queries, mask_features) for queries in outputs]
        return {**predictions[-1], "aux_outputs": predictions[:-1]}

    def _predict(self, queries: Tensor, mask_features: Tensor) -> dict[str, Tensor]:
        masks = torch.einsum("bqc,bchw->bqhw", self.mask_embed(queries), mask_features)
        if not self.mask_classification:
            return {"pred_masks": masks}
        return {"pred_logits": self.class_embed(queries), "pred_masks": masks}
