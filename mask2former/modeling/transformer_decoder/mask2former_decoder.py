"""The masked-attention transformer decoder (Mask2Former, arXiv 2112.01527, section 3.2).

Shapes:
    B: batch, Q: queries, T: pilots, C: channels, K: classes, S: positions of a map, H, W: mask
    features' size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn
from torch.nn import functional as F

from ...utils.size import Size
from ..piloted import PilotedQueries
from ..targets import Target
from .annealing import MaskAnnealing, drop_masks
from .base import QueryDecoder, mask_product
from .detr import flatten_map
from .layers import CrossAttentionLayer, FFNLayer, SelfAttentionLayer
from .registry import TRANSFORMER_DECODER_REGISTRY


@TRANSFORMER_DECODER_REGISTRY.register()
class MultiScaleMaskedTransformerDecoder(QueryDecoder):
    """Queries refined layer by layer, each attending within its own previous mask.

    Layer i attends to map i mod 3, from coarse to fine. A prediction is made from the initial
    queries and after every layer.

    Args:
        in_channels: channels of the maps.
        dec_layers: number of layers, which is the number of predictions less one.
        test_layers: how many of the layers inference uses; None is for all. Every layer is trained
            to predict, so that fewer are a trade of accuracy for time.
        piloted: arguments of `PilotedQueries` for mask-piloted training; None is without.
        annealing: arguments of `MaskAnnealing`; None is without.
        kwargs: see `QueryDecoder`; ``dropout`` is 0 in every published model.
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
        dec_layers: int,
        test_layers: int | None = None,
        piloted: Mapping[str, Any] | None = None,
        annealing: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(in_channels, **kwargs)
        if dec_layers < 0:
            raise ValueError(
                "MODEL.MASK_FORMER.DEC_LAYERS counts predictions, the one from the initial queries "
                f"included: it must be at least 1, got {dec_layers + 1}"
            )
        self.test_layers = dec_layers if test_layers is None else test_layers
        if not 0 <= self.test_layers <= dec_layers:
            raise ValueError(
                f"MODEL.MASK_FORMER.TEST.DEC_LAYERS is {self.test_layers + 1}, but "
                f"MODEL.MASK_FORMER.DEC_LAYERS is {dec_layers + 1}"
            )
        self.num_layers = dec_layers
        self.transformer_cross_attention_layers = nn.ModuleList(
            CrossAttentionLayer(**self.layer) for _ in range(dec_layers)
        )
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttentionLayer(**self.layer) for _ in range(dec_layers)
        )
        self.transformer_ffn_layers = nn.ModuleList(
            FFNLayer(**self.layer) for _ in range(dec_layers)
        )
        self.decoder_norm = nn.LayerNorm(self.hidden_dim)
        self.query_feat = self.build_queries()  # their content
        self.query_embed = self.build_queries()  # their positions
        self.level_embed = nn.Embedding(self.num_feature_levels, self.hidden_dim)
        self.input_proj = nn.ModuleList(
            self.build_input_projection() for _ in range(self.num_feature_levels)
        )
        self.build_heads()
        self.piloted = None
        if piloted is not None:
            if dec_layers == 0:
                raise ValueError(
                    "MODEL.MASK_FORMER.PILOTED.GROUPS needs layers to pilot: set "
                    "MODEL.MASK_FORMER.DEC_LAYERS to at least 2"
                )
            self.piloted = PilotedQueries(self.num_classes, self.hidden_dim, **piloted)
        self.annealing = None if annealing is None else MaskAnnealing(dec_layers, **annealing)

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int) -> dict[str, Any]:
        """Return constructor arguments from a config."""
        # MODEL.MASK_FORMER.DROPOUT is the pixel decoder's: this one has none (section 3.2).
        return {
            **super().from_config(cfg, in_channels),
            "dec_layers": cfg.MODEL.MASK_FORMER.DEC_LAYERS - 1,
            "test_layers": cfg.MODEL.MASK_FORMER.TEST.DEC_LAYERS - 1
            if cfg.MODEL.MASK_FORMER.TEST.DEC_LAYERS
            else None,
            "piloted": _piloted_arguments(cfg) if cfg.MODEL.MASK_FORMER.PILOTED.GROUPS else None,
            "annealing": MaskAnnealing.arguments(cfg),
        }

    def forward(
        self,
        maps: list[Tensor],
        mask_features: Tensor,
        targets: Sequence[Target] | None = None,
    ) -> dict[str, Any]:
        """Predict classes and masks of all queries.

        Args:
            maps: three maps (B, in_channels, H_l, W_l), coarse to fine.
            mask_features: (B, mask_dim, H, W).
            targets: of each image, for mask-piloted training. They do not change the predictions of
                the queries.

        Returns:
            ``pred_logits`` (B, Q, K + 1), ``pred_masks`` (B, Q, H, W) logits, and ``aux_outputs``,
            a list of such dicts, one for each earlier prediction. That list is filled in training
            mode only: inference has no use for it, and its masks cost as much as the last ones.
            With `targets`, also ``piloted``: ``matches``, see `Pilots`, and ``outputs``, such dicts
            of the pilots (B, T, ...), one after each layer. What pilots predict before the first
            layer does not depend on the image, and is left out.
        """
        if len(maps) != self.num_feature_levels:
            raise ValueError(
                f"expected {self.num_feature_levels} maps, got {len(maps)}: a pixel decoder gives "
                "no more maps than MODEL.SEM_SEG_HEAD.IN_FEATURES names features"
            )
        memory, keys = [], []
        for m, proj, embed in zip(maps, self.input_proj, self.level_embed.weight, strict=True):
            x, encoding = flatten_map(proj(m) + embed[:, None, None])
            memory.append(x)  # (B, S, C)
            keys.append(x + encoding)
        queries = self.query_feat.weight.expand(m.shape[0], -1, -1)
        query_pos = self.query_embed.weight
        sizes = [(m.shape[-2], m.shape[-1]) for m in maps]
        pilots = visible = None
        if targets is not None and self.piloted is not None:
            pilots = self.piloted(targets, mask_features.shape[-2:], sizes)
            visible = pilots.visible(self.num_queries)
            queries = torch.cat((queries, pilots.queries), dim=1)
            query_pos = F.pad(query_pos, (0, 0, 0, pilots.queries.shape[1]))
        predictions = []
        num_layers = self.num_layers if self.training else self.test_layers
        masked = [1.0] * num_layers if self.annealing is None else self.annealing()[:num_layers]
        small_features: dict[int, Tensor] = {}  # of each level
        for i in range(num_layers + 1):
            last = i == num_layers
            level = i % self.num_feature_levels
            needs_mask = not last and (masked[i] > 0 or pilots is not None)
            if last or self.training or needs_mask:
                normed = self.decoder_norm(queries)
                mask_embed = self.mask_embed(normed)
            if last or self.training:
                predictions.append(self.predict(normed, mask_embed, mask_features))
            if last:
                break
            allowed = None
            if needs_mask:
                if level not in small_features:
                    small_features[level] = _resized(mask_features.detach(), sizes[level])
                masks = mask_product(mask_embed.detach(), small_features[level])
                allowed = attention_mask(masks.flatten(2))
                drop_masks(allowed[:, : self.num_queries], masked[i])
                if pilots is not None and i < pilots.mask_layers:
                    allowed[:, self.num_queries :] = pilots.masks[level]
            queries = self.transformer_cross_attention_layers[i](
                queries, query_pos, keys[level], memory[level], allowed
            )
            queries = self.transformer_self_attention_layers[i](queries, query_pos, visible)
            queries = self.transformer_ffn_layers[i](queries)
        if pilots is None:
            return {**predictions[-1], "aux_outputs": predictions[:-1]}
        ours, theirs = zip(*(self._split(p) for p in predictions), strict=True)
        return {
            **ours[-1],
            "aux_outputs": list(ours[:-1]),
            "piloted": {"outputs": list(theirs[1:]), "matches": pilots.matches},
        }

    def _split(self, prediction: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Part the model's own queries from the pilots."""
        n = self.num_queries
        return (
            {key: x[:, :n] for key, x in prediction.items()},
            {key: x[:, n:] for key, x in prediction.items()},
        )


def _piloted_arguments(cfg: CfgNode) -> dict[str, Any]:
    """Return arguments of `PilotedQueries` from a config."""
    mask_former = cfg.MODEL.MASK_FORMER
    piloted, layers = mask_former.PILOTED, mask_former.DEC_LAYERS - 1
    return {
        "groups": piloted.GROUPS,
        "max_queries": piloted.MAX_QUERIES,
        "label_noise": piloted.LABEL_NOISE,
        "noise": piloted.NOISE,
        "mask_noise": piloted.MASK_NOISE,
        "mask_layers": layers if piloted.MASK_LAYERS < 0 else piloted.MASK_LAYERS,
    }


def _resized(mask_features: Tensor, size: Size) -> Tensor:
    """Return mask features of the size of a map, (B, mask_dim, H_l, W_l).

    A mask is linear in the mask features, so resizing these once per level equals resizing the
    masks of every prediction to it, at a fraction of the work.
    """
    return F.interpolate(mask_features, size=size, mode="bilinear", align_corners=False)


def attention_mask(mask_logits: Tensor) -> Tensor:
    """Return where each query may attend: inside its mask, or everywhere if that is empty.

    Args:
        mask_logits: (B, Q, S), logits of the previous prediction's masks.

    Returns:
        Bool (B, Q, S), True where sigmoid(logit) >= 0.5, at least once for each query.
    """
    # Not "logit >= 0": in float32, the published models' own, logits down to -1.5e-7 are inside.
    inside = mask_logits.float().sigmoid() >= 0.5
    return inside | ~inside.any(-1, keepdim=True)
