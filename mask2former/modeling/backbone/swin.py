"""Swin Transformer (arXiv 2103.14030) as a Detectron2 backbone.

Shapes:
    B: batch size
    H, W: height and width, in patches of the current stage unless said otherwise
    C: channels of the current stage
"""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .swin_blocks import PatchMerging, SwinBlock, next_multiple, split_windows


class SwinStage(nn.Module):
    """Blocks of one resolution, every second one with shifted windows.

    Args:
        dim, num_heads, window_size: see `WindowAttention`.
        drop_path: stochastic depth of each block; its length is the number of blocks.
        downsample: whether a next stage follows.
        use_checkpoint: recompute the blocks in the backward pass.
        block_options: further arguments of `SwinBlock`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        drop_path: Sequence[float],
        *,
        downsample: bool,
        use_checkpoint: bool = False,
        **block_options: Any,
    ):
        super().__init__()
        self.window_size = window_size
        self.shift = window_size // 2
        self.use_checkpoint = use_checkpoint
        self.blocks = nn.ModuleList(
            SwinBlock(
                dim,
                window_size,
                num_heads,
                shift=self.shift if i % 2 else 0,
                drop_path=rate,
                **block_options,
            )
            for i, rate in enumerate(drop_path)
        )
        self.downsample = PatchMerging(dim) if downsample else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the stage to (B, H, W, C).

        Returns:
            The stage's features, (B, H, W, C), and the input of the next stage, which is the same
            after the last one.
        """
        S = self.window_size
        H, W = (next_multiple(size, S) for size in x.shape[1:3])
        split = split_windows(x.shape[0], H, W, S, self.shift, x.device)
        for block in cast(Iterable[SwinBlock], self.blocks):
            kept = block.draw_kept(x)
            if self.use_checkpoint and torch.is_grad_enabled():
                x = checkpoint(block, x, split, kept, use_reentrant=False)
            else:
                x = block(x, split, kept)
        return x, x if self.downsample is None else self.downsample(x)


class PatchEmbed(nn.Module):
    """Project non-overlapping patches of an image to features."""

    def __init__(self, patch_size: int, in_channels: int, embed_dim: int, norm: bool):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, embed_dim, kernel_size=patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(embed_dim) if norm else nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) pixels to (B, ceil(H / patch), ceil(W / patch), C)."""
        H, W = image.shape[-2:]
        image = F.pad(image, (0, -W % self.patch_size, 0, -H % self.patch_size))
        return self.norm(self.proj(image).permute(0, 2, 3, 1))


@BACKBONE_REGISTRY.register()
class D2SwinTransformer(Backbone):
    """Swin Transformer that returns a feature map from each stage.

    Images of any size are padded at the right and bottom: to whole patches, to whole windows in
    each block, and to even sizes before each halving. A stage of stride s returns
    ceil(H / s) x ceil(W / s) features.

    Args:
        in_channels: channels of the image.
        pretrain_img_size: side of the images of the pre-training, in pixels; with `patch_size`
            it sets the shape of the absolute position embedding and has no other effect.
        patch_size: side of a patch, in pixels.
        embed_dim: channels of the first stage; each later one doubles them.
        depths: blocks of each stage.
        num_heads: attention heads of each stage.
        window_size: side of an attention window, in patches.
        mlp_ratio: hidden channels of a block's MLP, relative to the block's.
        qkv_bias: whether the query, key and value projections have a bias.
        qk_scale: factor on the attention logits; `None` is 1 / sqrt(channels per head).
        drop_rate: dropout probability after the patch embedding and after projections.
        attn_drop_rate: dropout probability of attention weights.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0.
        ape: add a learned absolute position embedding, resized to the image.
        patch_norm: LayerNorm after the patch embedding.
        out_features: stages to return, of "res2" (the first), "res3", ... Stages after the last
            of these are not built.
        use_checkpoint: recompute the blocks in the backward pass to save memory.

    Raises:
        ValueError: lengths, heads or names above do not fit one another.
    """

    @configurable
    def __init__(
        self,
        *,
        in_channels: int = 3,
        pretrain_img_size: int = 224,
        patch_size: int = 4,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.3,
        ape: bool = False,
        patch_norm: bool = True,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        use_checkpoint: bool = False,
    ):
        super().__init__()
        names = [f"res{i + 2}" for i in range(len(depths))]
        _check_arguments(embed_dim, depths, num_heads, out_features, names)
        self._out_features = [name for name in names if name in out_features]
        self._out_feature_channels = {name: embed_dim * 2**i for i, name in enumerate(names)}
        self._out_feature_strides = {name: patch_size * 2**i for i, name in enumerate(names)}
        self._size_divisibility = patch_size * 2 ** (len(depths) - 1)

        self.patch_embed = PatchEmbed(patch_size, in_channels, embed_dim, patch_norm)
        self.absolute_pos_embed: nn.Parameter | None = None
        if ape:
            side = pretrain_img_size // patch_size
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, embed_dim, side, side))
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        self.pos_drop = nn.Dropout(drop_rate)

        drop_path = [drop_path_rate * i / max(sum(depths) - 1, 1) for i in range(sum(depths))]
        first_blocks = [sum(depths[:i]) for i in range(len(depths))]
        self._build_stages(
            embed_dim,
            num_heads,
            [drop_path[first : first + n] for first, n in zip(first_blocks, depths, strict=True)],
            window_size=window_size,
            use_checkpoint=use_checkpoint,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            drop=drop_rate,
            attn_drop=attn_drop_rate,
        )
        self.apply(_init_linear)

    def _build_stages(
        self,
        embed_dim: int,
        num_heads: Sequence[int],
        drop_path: Sequence[Sequence[float]],
        **stage: Any,
    ) -> None:
        """Build the stages up to the last that is returned, and a norm for each that is."""
        num_stages = int(self._out_features[-1].removeprefix("res")) - 1
        self.layers = nn.ModuleList()
        for i in range(num_stages):
            dim, last = embed_dim * 2**i, i + 1 == num_stages
            self.layers.append(
                SwinStage(dim, num_heads[i], drop_path=drop_path[i], downsample=not last, **stage)
            )
            if f"res{i + 2}" in self._out_features:
                self.add_module(f"norm{i}", nn.LayerNorm(dim))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Return constructor arguments from a config."""
        return {
            "in_channels": input_shape.channels,
            "pretrain_img_size": cfg.MODEL.SWIN.PRETRAIN_IMG_SIZE,
            "patch_size": cfg.MODEL.SWIN.PATCH_SIZE,
            "embed_dim": cfg.MODEL.SWIN.EMBED_DIM,
            "depths": cfg.MODEL.SWIN.DEPTHS,
            "num_heads": cfg.MODEL.SWIN.NUM_HEADS,
            "window_size": cfg.MODEL.SWIN.WINDOW_SIZE,
            "mlp_ratio": cfg.MODEL.SWIN.MLP_RATIO,
            "qkv_bias": cfg.MODEL.SWIN.QKV_BIAS,
            "qk_scale": cfg.MODEL.SWIN.QK_SCALE,
            "drop_rate": cfg.MODEL.SWIN.DROP_RATE,
            "attn_drop_rate": cfg.MODEL.SWIN.ATTN_DROP_RATE,
            "drop_path_rate": cfg.MODEL.SWIN.DROP_PATH_RATE,
            "ape": cfg.MODEL.SWIN.APE,
            "patch_norm": cfg.MODEL.SWIN.PATCH_NORM,
            "out_features": cfg.MODEL.SWIN.OUT_FEATURES,
            "use_checkpoint": cfg.MODEL.SWIN.USE_CHECKPOINT,
        }

    @property
    def size_divisibility(self) -> int:
        """Stride of the last stage. Other sizes work too, by padding within."""
        return self._size_divisibility

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Compute the features of normalised images.

        Args:
            image: (B, in_channels, H, W), H and W in pixels.

        Returns:
            `{"res2": (B, C, ceil(H / 4), ceil(W / 4)), ...}` for each of `out_features`.
        """
        if image.dim() != 4:
            raise ValueError(
                f"D2SwinTransformer takes images of (B, C, H, W), got {tuple(image.shape)}"
            )
        x = self.patch_embed(image)  # (B, H, W, C)
        if self.absolute_pos_embed is not None:
            position = F.interpolate(self.absolute_pos_embed, x.shape[1:3], mode="bicubic")
            x = x + position.permute(0, 2, 3, 1)
        x = self.pos_drop(x)
        features = {}
        for i, stage in enumerate(self.layers):
            feature, x = stage(x)
            name = f"res{i + 2}"
            if name in self._out_features:
                feature = self.get_submodule(f"norm{i}")(feature)
                features[name] = feature.permute(0, 3, 1, 2).contiguous()  # (B, C, H, W)
        return features


def _check_arguments(
    embed_dim: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    out_features: Sequence[str],
    names: Sequence[str],
) -> None:
    if len(depths) != len(num_heads):
        raise ValueError(
            "MODEL.SWIN.DEPTHS and NUM_HEADS need one number for each stage, "
            f"got {list(depths)} and {list(num_heads)}"
        )
    for i, heads in enumerate(num_heads):
        if embed_dim * 2**i % heads:
            raise ValueError(
                f"MODEL.SWIN.NUM_HEADS[{i}] = {heads} does not divide the {embed_dim * 2**i} "
                f"channels of stage {i} (EMBED_DIM = {embed_dim})"
            )
    if not out_features or not set(out_features) <= set(names):
        raise ValueError(
            f"MODEL.SWIN.OUT_FEATURES must name some of {list(names)}, got {list(out_features)}"
        )


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
