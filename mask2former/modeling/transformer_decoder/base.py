"""What the transformer decoders have in common.

Shapes:
    B: batch, Q: queries, C: channels, K: classes, H, W: mask features' size.
"""

from __future__ import annotations

from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import CfgNode
from detectron2.layers import Conv2d
from torch import Tensor, nn

from .layers import MLP


class QueryDecoder(nn.Module):
    """Queries that predict classes and masks by heads that all layers share.

    A subclass builds its layers from ``self.layer`` before it calls the ``build_`` methods: the
    optimizer states in checkpoints number parameters in the order in which they were built.

    Args:
        in_channels: channels of the maps.
        num_classes: K; the class head has one more output, for "no object".
        hidden_dim: C.
        num_queries: Q.
        nheads: heads of the attentions.
        dim_feedforward: hidden channels of the feed-forward networks.
        mask_dim: channels of the mask features.
        dropout: after every branch, and of the attentions' weights.
        pre_norm: normalise before instead of after each branch.
        enforce_input_project: project the maps by a 1x1 convolution even if they have C channels.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        num_classes: int,
        hidden_dim: int,
        num_queries: int,
        nheads: int,
        dim_feedforward: int,
        mask_dim: int,
        dropout: float = 0.0,
        pre_norm: bool = False,
        enforce_input_project: bool = False,
    ):
        super().__init__()
        self.in_channels, self.hidden_dim, self.mask_dim = in_channels, hidden_dim, mask_dim
        self.num_classes, self.num_queries = num_classes, num_queries
        self.enforce_input_project = enforce_input_project
        self.layer: dict[str, Any] = {
            "dim": hidden_dim,
            "num_heads": nheads,
            "dim_feedforward": dim_feedforward,
            "dropout": dropout,
            "pre_norm": pre_norm,
        }

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int) -> dict[str, Any]:
        """Return constructor arguments from a config."""
        mask_former = cfg.MODEL.MASK_FORMER
        return {
            "in_channels": in_channels,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "hidden_dim": mask_former.HIDDEN_DIM,
            "num_queries": mask_former.NUM_OBJECT_QUERIES,
            "nheads": mask_former.NHEADS,
            "dim_feedforward": mask_former.DIM_FEEDFORWARD,
            "mask_dim": cfg.MODEL.SEM_SEG_HEAD.MASK_DIM,
            "pre_norm": mask_former.PRE_NORM,
            "enforce_input_project": mask_former.ENFORCE_INPUT_PROJ,
        }

    def build_queries(self) -> nn.Embedding:
        """Build an embedding (Q, C)."""
        return nn.Embedding(self.num_queries, self.hidden_dim)

    def build_input_projection(self) -> nn.Module:
        """Build what brings a map to C channels."""
        if self.in_channels == self.hidden_dim and not self.enforce_input_project:
            return nn.Identity()
        projection = Conv2d(self.in_channels, self.hidden_dim, kernel_size=1)
        weight_init.c2_xavier_fill(projection)
        return projection

    def build_heads(self, mask_classification: bool = True) -> None:
        """Build ``mask_embed`` and, with ``mask_classification``, ``class_embed`` before it."""
        if mask_classification:
            self.class_embed = nn.Linear(self.hidden_dim, self.num_classes + 1)
        self.mask_embed = MLP(self.hidden_dim, self.hidden_dim, self.mask_dim, 3)

    def predict(
        self, queries: Tensor, mask_embed: Tensor, mask_features: Tensor
    ) -> dict[str, Tensor]:
        """Return one prediction.

        Args:
            queries: (B, Q, C), normalised.
            mask_embed: (B, Q, mask_dim), what ``self.mask_embed`` makes of them.
            mask_features: (B, mask_dim, H, W).

        Returns:
            ``pred_logits`` (B, Q, K + 1), which is missing where the queries do not predict
            classes, and ``pred_masks`` (B, Q, H, W) logits.
        """
        masks = mask_product(mask_embed, mask_features)
        if not hasattr(self, "class_embed"):
            return {"pred_masks": masks}
        return {"pred_logits": self.class_embed(queries), "pred_masks": masks}


def mask_product(mask_embed: Tensor, mask_features: Tensor) -> Tensor:
    """Multiply embeddings (B, Q, C) by mask features (B, C, H, W): logits (B, Q, H, W)."""
    if _one_by_one(mask_embed, mask_features):
        products = [
            torch.mm(embed, features.flatten(1))
            for embed, features in zip(mask_embed, mask_features, strict=True)
        ]
        return torch.stack(products).unflatten(2, mask_features.shape[2:])
    return torch.einsum("bqc,bchw->bqhw", mask_embed, mask_features)


def _one_by_one(mask_embed: Tensor, mask_features: Tensor) -> bool:
    """Return whether one product per image is faster than one per batch.

    On a CPU in bfloat16 it is, six times, if the features' channels come last; not its backward.
    """
    if torch.compiler.is_compiling() or not mask_features.is_cpu or mask_features.is_contiguous():
        return False
    if torch.is_grad_enabled() and (mask_embed.requires_grad or mask_features.requires_grad):
        return False
    autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if autocast else mask_features.dtype
    return dtype == torch.bfloat16 and len(mask_features) > 0
