"""The transformer decoder of MaskFormer (arXiv 2107.06278, section 3.3), which is DETR's.

Shapes:
    B: batch, Q: queries, C: channels, K: classes, H, W: mask features' size.
"""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, configurable
from torch import Tensor

from .base import QueryDecoder
from .detr import EncoderDecoder
from .registry import TRANSFORMER_DECODER_REGISTRY


@TRANSFORMER_DECODER_REGISTRY.register()
class StandardTransformerDecoder(QueryDecoder):
    """Queries that attend to the whole of one map in every layer.

    A prediction is made after every layer.

    Args:
        in_channels: channels of the map.
        enc_layers: layers of self-attention over the map, ahead of the decoder.
        dec_layers: layers of the decoder, at least 1, which is also the number of predictions.
        mask_classification: whether the queries predict classes; if not, each stands for one.
        kwargs: see `QueryDecoder`.
    """

    multi_scale = False

    @configurable
    def __init__(
        self,
        in_channels: int,
        *,
        enc_layers: int,
        dec_layers: int,
        mask_classification: bool = True,
        **kwargs: Any,
    ):
        super().__init__(in_channels, **kwargs)
        if dec_layers < 1:
            raise ValueError(
                f"StandardTransformerDecoder needs MODEL.MASK_FORMER.DEC_LAYERS of at least 1, "
                f"got {dec_layers}"
            )
        self.transformer = EncoderDecoder(
            num_encoder_layers=enc_layers, num_decoder_layers=dec_layers, **self.layer
        )
        self.query_embed = self.build_queries()
        self.input_proj = self.build_input_projection()
        self.build_heads(mask_classification)

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int) -> dict[str, Any]:
        """Return constructor arguments from a config."""
        mask_former = cfg.MODEL.MASK_FORMER
        return {
            **super().from_config(cfg, in_channels),
            "enc_layers": mask_former.ENC_LAYERS,
            "dec_layers": mask_former.DEC_LAYERS,
            "dropout": mask_former.DROPOUT,
        }

    def forward(self, x: Tensor, mask_features: Tensor) -> dict[str, Any]:
        """Predict classes and masks of all queries.

        Args:
            x: the map that the queries attend to, (B, in_channels, ., .).
            mask_features: (B, mask_dim, H, W).

        Returns:
            The last prediction, see `QueryDecoder.predict`, and ``aux_outputs``, a list of the
            earlier ones, one for each layer. That list is filled in training mode only.
        """
        outputs = self.transformer(self.input_proj(x), self.query_embed.weight)
        if not self.training:
            outputs = outputs[-1:]
        predictions = [
            self.predict(queries, self.mask_embed(queries), mask_features) for queries in outputs
        ]
        return {**predictions[-1], "aux_outputs": predictions[:-1]}
