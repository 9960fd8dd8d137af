"""The masked-attention transformer decoder (Mask2Former, arXiv 2112.01527, section 3.2).

Shapes:
    B: batch, Q: queries, C: channels, K: classes, S: positions of a map, H, W: mask features' size.
"""

from __future__ import annotations

from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d
from torch import Tensor, nn
from torch.nn import functional as F

from ..position_encoding import sine_position_encoding
from .layers import MLP, CrossAttentionLayer, FFNLayer, SelfAttentionLayer
from .registry import TRANSFORMER_DECODER_REGISTRY


@TRANSFORMER_DECODER_REGISTRY.register()
class MultiScaleMaskedTransformerDecoder(nn.Module):
    """Queries refined layer by layer, each attending within its own previous mask.

    Layer i attends to map i mod 3, from coarse to fine. A prediction is made from the initial
    queries and after every layer, by heads that all of them share.

    Args:
        in_channels: channels of the maps.
        num_classes: K; the class head has one output more, for "no object".
        hidden_dim: C.
        num_queries: Q.
        nheads: heads of the attentions.
        dim_feedforward: hidden channels of the feed-forward networks.
        dec_layers: number of layers, which is the number of predictions less one.
        dropout: after every branch; 0 in every published model.
        pre_norm: normalise before instead of after each branch.
        mask_dim: channels of the mask features.
        enforce_input_project: project the maps by a 1x1 convolution even if they have C channels.
    """

    multi_scale = True
    num_feature_levels = 3
    # Written into the metadata of every `state_dict`; the published code looks for it.
    _version = 2

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
        dec_layers: int,
        mask_dim: int,
        dropout: float = 0.0,
        pre_norm: bool = False,
        enforce_input_project: bool = False,
    ):
        super().__init__()
        if dec_layers < 0:
            raise ValueError(
                "MODEL.MASK_FORMER.DEC_LAYERS counts predictions, the one from the initial queries "
                f"included: it must be at least 1, got {dec_layers + 1}"
            )
        self.num_layers = dec_layers
        self.transformer_cross_attention_layers = nn.ModuleList(
            CrossAttentionLayer(hidden_dim, nheads, dropout, pre_norm) for _ in range(dec_layers)
        )
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttentionLayer(hidden_dim, nheads, dropout, pre_norm) for _ in range(dec_layers)
        )
        self.transformer_ffn_layers = nn.ModuleList(
            FFNLayer(hidden_dim, dim_feedforward, dropout, pre_norm) for _ in range(dec_layers)
        )
        self.decoder_norm = nn.LayerNorm(hidden_dim)
        self.query_feat = nn.Embedding(num_queries, hidden_dim)  # their content
        self.query_embed = nn.Embedding(num_queries, hidden_dim)  # their positions
        self.level_embed = nn.Embedding(self.num_feature_levels, hidden_dim)
        self.input_proj = nn.ModuleList()
        for _ in range(self.num_feature_levels):
            if in_channels != hidden_dim or enforce_input_project:
                proj = Conv2d(in_channels, hidden_dim, kernel_size=1)
                weight_init.c2_xavier_fill(proj)
                self.input_proj.append(proj)
            else:
                self.input_proj.append(nn.Identity())
        self.class_embed = nn.Linear(hidden_dim, num_classes + 1)
        self.mask_embed = MLP(hidden_dim, hidden_dim, mask_dim, 3)

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int) -> dict[str, Any]:
        """Constructor arguments from a config."""
        mask_former = cfg.MODEL.MASK_FORMER
        return {
            "in_channels": in_channels,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "hidden_dim": mask_former.HIDDEN_DIM,
            "num_queries": mask_former.NUM_OBJECT_QUERIES,
            "nheads": mask_former.NHEADS,
            "dim_feedforward": mask_former.DIM_FEEDFORWARD,
            "dec_layers": mask_former.DEC_LAYERS - 1,
            # MODEL.MASK_FORMER.DROPOUT is the pixel decoder's: this one has none (section 3.2)
            "dropout": 0.0,
            "pre_norm": mask_former.PRE_NORM,
            "enforce_input_project": mask_former.ENFORCE_INPUT_PROJ,
            "mask_dim": cfg.MODEL.SEM_SEG_HEAD.MASK_DIM,
        }

    def forward(self, maps: list[Tensor], mask_features: Tensor) -> dict[str, Any]:
        """Predict classes and masks of all queries.

        Args:
            maps: three maps (B, in_channels, H_l, W_l), coarse to fine.
            mask_features: (B, mask_dim, H, W).

        Returns:
            ``pred_logits`` (B, Q, K + 1), ``pred_masks`` (B, Q, H, W) logits, and ``aux_outputs``,
            a list of such dicts, one for each earlier prediction. That list is filled in training
            mode only: inference has no use for it, and its masks cost as much as the last ones.
        """
        if len(maps) != self.num_feature_levels:
            raise ValueError(
                f"expected {self.num_feature_levels} maps, got {len(maps)}: a pixel decoder gives "
                "no more maps than MODEL.SEM_SEG_HEAD.IN_FEATURES names features"
            )
        memory, pos, small_features = [], [], []
        for m, proj, embed in zip(maps, self.input_proj, self.level_embed.weight, strict=True):
            x = proj(m).flatten(2).transpose(1, 2) + embed  # (B, S, C)
            memory.append(x)
            h, w = m.shape[-2:]
            encoding = sine_position_encoding(h, w, x.shape[-1], m.device)
            pos.append(encoding.flatten(1).T.to(x.dtype))  # (S, C)
            # A mask is linear in the mask features, so resizing these once a level equals resizing
            # every prediction's masks to it, at a fraction of the work.
            small_features.append(
                F.interpolate(
                    mask_features.detach(), size=(h, w), mode="bilinear", align_corners=False
                ).flatten(2)
            )  # (B, mask_dim, S)

        queries = self.query_feat.weight.expand(m.shape[0], -1, -1)
        query_pos = self.query_embed.weight
        predictions = []
        for i in range(self.num_layers + 1):
            normed = self.decoder_norm(queries)
            mask_embed = self.mask_embed(normed)
            last = i == self.num_layers
            if last or self.training:
                predictions.append(
                    {
                        "pred_logits": self.class_embed(normed),
                        "pred_masks": torch.einsum("bqc,bchw->bqhw", mask_embed, mask_features),
                    }
                )
            if last:
                break
            level = i % self.num_feature_levels
            allowed = attention_mask(mask_embed.detach() @ small_features[level])
            queries = self.transformer_cross_attention_layers[i](
                queries, query_pos, memory[level], pos[level], allowed
            )
            queries = self.transformer_self_attention_layers[i](queries, query_pos)
            queries = self.transformer_ffn_layers[i](queries)
        return {**predictions[-1], "aux_outputs": predictions[:-1]}


def attention_mask(mask_logits: Tensor) -> Tensor:
    """Where each query may attend: inside its mask, or everywhere if that is empty.

    Args:
        mask_logits: (B, Q, S), logits of the previous prediction's masks.

    Returns:
        bool (B, Q, S), True where sigmoid(logit) >= 0.5, at least once for each query.
    """
    # Not "logit >= 0": in float32, the published models' own, logits down to -1.5e-7 are inside.
    inside = mask_logits.float().sigmoid() >= 0.5
    return inside | ~inside.any(-1, keepdim=True)
