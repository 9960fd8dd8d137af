"""The image encoders of timm (PyTorch Image Models) as Detectron2 backbones.

Shapes:
    B: batch size
    H, W: height and width of the image, in pixels
    C: channels of a map
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.vit import SimpleFeaturePyramid
from torch import Tensor
from torch.nn import functional as F

from .timm_layers import draw_per_image, open_sizes

NAMES = {4: "res2", 8: "res3", 16: "res4", 32: "res5"}
PATCH = 16  # pixels per patch of a plain vision transformer, which has one map


class _MapOf(Backbone):
    """Hands a map to a `SimpleFeaturePyramid`, which expects a backbone that makes one."""

    def __init__(self, channels: int):
        super().__init__()
        self._out_features = ["map"]
        self._out_feature_channels = {"map": channels}
        self._out_feature_strides = {"map": PATCH}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the map."""
        return {"map": x}


@BACKBONE_REGISTRY.register()
class TimmBackbone(Backbone):
    """An encoder of timm that returns maps of the strides 4, 8, 16 and 32.

    Convolutional and hierarchical encoders return the maps of their stages. A plain vision
    transformer (ViT, DINOv2, DINOv3, EVA, SigLIP, ...) has one map, of which the simple feature
    pyramid of ViTDet (arXiv 2203.16527, section 3) makes the four. Its patches have 16 pixels:
    weights for other patches, such as DINOv2's 14 pixels, are resampled when they are loaded. Class
    and register tokens take part in the attention and are then left out. Position embeddings are
    interpolated to the image.

    Images of any size are padded at the right and bottom to a multiple of 32. A map of stride s has
    ceil(H / s) x ceil(W / s) features.

    Args:
        name: timm's name of the model, such as "convnextv2_tiny". A tag of weights
            ("convnextv2_tiny.fcmae_ft_in22k_in1k") is allowed and does not load them.
        in_channels: channels of the image.
        drop_path_rate: stochastic depth of the last block, in [0, 1).
        frozen_stages: so many of timm's groups of layers are not trained, counted from the image:
            the stem, then each stage, or each block of a vision transformer. -1 freezes the
            whole encoder, which then takes the memory of inference.
        freeze_norm: use the stored statistics of batch normalisations, and do not train them.
        pretrain_img_size: in pixels, of a plain vision transformer: sets the shape of its absolute
            position embedding. 0 is timm's.
        pyramid_channels: channels of the four maps of a plain vision transformer.
        use_checkpoint: recompute each block in the backward pass: less memory, more time.
        options: further keyword arguments of the model's constructor in timm.

    Raises:
        ImportError: timm is not installed.
        ValueError: timm does not have such a model, or the model does not have such maps.
    """

    net: Any  # of timm, whose models have more methods than `nn.Module`

    @configurable
    def __init__(
        self,
        name: str,
        *,
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        frozen_stages: int = 0,
        freeze_norm: bool = False,
        pretrain_img_size: int = 0,
        pyramid_channels: int = 256,
        use_checkpoint: bool = False,
        options: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.name = name
        self.net = _create(
            name,
            drop_path_rate=drop_path_rate,
            pretrain_img_size=pretrain_img_size,
            in_chans=in_channels,
            **(options or {}),
        )
        strides = [info["reduction"] for info in self.net.feature_info]
        self._is_plain = len(set(strides)) == 1
        last = {stride: i for i, stride in enumerate(strides)}  # the last map of each stride
        self._indices = (
            [len(strides) - 1] if self._is_plain else [last[s] for s in NAMES if s in last]
        )
        # The classifier, and blocks behind the last map
        self.net.prune_intermediate_layers(
            self._indices, prune_norm=not self._is_plain, prune_head=True
        )
        open_sizes(self.net)
        self._frozen = True
        self.net.eval()  # the trial must not change the statistics of batch normalisations
        channels = _channels_of(self._maps, in_channels, name)
        self.pyramid: SimpleFeaturePyramid | None = None
        if self._is_plain:
            self.pyramid = SimpleFeaturePyramid(
                _MapOf(channels[0]), "map", pyramid_channels, [PATCH / s for s in NAMES]
            )
            widths = dict.fromkeys(NAMES, pyramid_channels)
        else:
            widths = {strides[i]: n for i, n in zip(self._indices, channels, strict=True)}
        self._out_features = [NAMES[stride] for stride in widths]
        self._out_feature_strides = {NAMES[stride]: stride for stride in widths}
        self._out_feature_channels = {NAMES[stride]: width for stride, width in widths.items()}
        if use_checkpoint:
            self.net.set_grad_checkpointing(True)
        else:  # a block that is recomputed would draw again
            draw_per_image(self.net)
        self._freeze(frozen_stages, freeze_norm)
        self.train()

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Return constructor arguments from a config."""
        timm = cfg.MODEL.TIMM
        return {
            "name": timm.NAME,
            "in_channels": input_shape.channels,
            "drop_path_rate": timm.DROP_PATH_RATE,
            "frozen_stages": timm.FROZEN_STAGES,
            "freeze_norm": timm.FREEZE_NORM,
            "pretrain_img_size": timm.PRETRAIN_IMG_SIZE,
            "pyramid_channels": timm.PYRAMID_DIM,
            "use_checkpoint": timm.USE_CHECKPOINT,
        }

    @property
    def size_divisibility(self) -> int:
        """The largest stride. Other sizes work too, by padding within."""
        return max(NAMES)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Compute the maps of normalised images.

        Args:
            image: (B, in_channels, H, W).

        Returns:
            `{"res2": (B, C, ceil(H / 4), ceil(W / 4)), ...}`, fine to coarse.
        """
        H, W = image.shape[-2:]
        maps = self._maps(F.pad(image, (0, -W % max(NAMES), 0, -H % max(NAMES))))
        if self.pyramid is not None:
            maps = list(self.pyramid(maps[-1]).values())
        return {
            name: x[:, :, : -(-H // stride), : -(-W // stride)]
            for (name, stride), x in zip(self._out_feature_strides.items(), maps, strict=True)
        }

    def _maps(self, image: Tensor) -> list[Tensor]:
        with torch.no_grad() if self._frozen else contextlib.nullcontext():
            return self.net.forward_intermediates(
                image,
                indices=self._indices,
                norm=self._is_plain,
                output_fmt="NCHW",
                intermediates_only=True,
            )

    def train(self, mode: bool = True) -> TimmBackbone:
        """Set the mode; frozen layers stay in that of inference."""
        super().train(mode)
        for module in self.net.modules():
            parameters = list(module.parameters())
            if self._frozen or (parameters and not any(p.requires_grad for p in parameters)):
                module.eval()
        return self

    def depths(self) -> dict[str, int]:
        """Number the layers from the image on, for learning rates that decay with the depth.

        Returns:
            The depth of each parameter of this module by name: 0 in the stem. The pyramid of a
            plain vision transformer comes last.
        """
        names = _groups(self.net, coarse=False)
        depths = {f"net.{name}": depth for name, depth in names.items()}
        top = max(depths.values(), default=0)
        return {name: depths.get(name, top + 1) for name, _ in self.named_parameters()}

    def _freeze(self, stages: int, norm: bool) -> None:
        from timm.utils.model import freeze_batch_norm_2d

        self._frozen = stages < 0
        groups = _groups(self.net, coarse=True) if stages > 0 else {}
        if groups and stages > (most := 1 + max(groups.values())):
            raise ValueError(
                f"MODEL.TIMM.FROZEN_STAGES is {stages}, but {self.name} has {most} groups of "
                "layers; -1 freezes the whole encoder"
            )
        for name, parameter in self.net.named_parameters():
            if self._frozen or groups.get(name, stages) < stages:
                parameter.requires_grad_(False)
        if norm:
            self.net = freeze_batch_norm_2d(self.net)


def _create(name: str, *, drop_path_rate: float, pretrain_img_size: int = 0, **options: Any) -> Any:
    """Build an encoder of timm without weights, for images of any size where it can."""
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            'MODEL.BACKBONE.NAME TimmBackbone needs timm: pip install "mask2former[timm]"'
        ) from error
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models())
        close = close or ["convnextv2_tiny", "vit_small_patch14_dinov2"]
        raise ValueError(
            f"MODEL.TIMM.NAME {name!r}: timm {timm.__version__} does not have this model. Did you "
            f"mean {', '.join(close)}?"
        )
    options["num_classes"] = 0
    try:
        with torch.device("meta"):
            draft = timm.create_model(name, **options)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise _unusable(name, error) from error
    strides = {info["reduction"] for info in getattr(draft, "feature_info", ())}
    if not hasattr(draft, "forward_intermediates") or not (len(strides) == 1 or strides & {*NAMES}):
        raise ValueError(
            f"MODEL.TIMM.NAME {name!r}: in timm this model gives maps of the strides "
            f"{sorted(strides)}, but some of {list(NAMES)} are needed"
        )
    accepted = inspect.signature(type(draft).__init__).parameters
    for option, value in {"dynamic_img_size": True, "strict_img_size": False}.items():
        if option in accepted:
            options[option] = value
    if "drop_path_rate" in accepted:
        options["drop_path_rate"] = drop_path_rate
    elif drop_path_rate:
        raise ValueError(f"MODEL.TIMM.DROP_PATH_RATE: {name} does not have stochastic depth")
    grid = getattr(getattr(draft, "patch_embed", None), "grid_size", None)
    if len(strides) == 1 and strides != {PATCH} and grid is not None:
        # As many patches as in the pre-training, so that its position embedding fits
        options["patch_size"] = PATCH
        options["img_size"] = tuple(PATCH * n for n in grid)
    if pretrain_img_size:
        options["img_size"] = pretrain_img_size
    try:
        return timm.create_model(name, **options)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise _unusable(name, error) from error


def _unusable(name: str, error: Exception) -> ValueError:
    reason = str(error) or "with these settings, timm cannot build it"
    return ValueError(f"MODEL.TIMM.NAME {name!r}: {reason}")


def _channels_of(maps: Callable[[Tensor], list[Tensor]], in_channels: int, name: str) -> list[int]:
    """Try a small image that is not square, and return the channels of the maps."""
    try:
        return [x.shape[1] for x in maps(torch.zeros(2, in_channels, 64, 96))]
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(
            f"MODEL.TIMM.NAME {name!r}: in timm this model takes images of one size only ({error})"
        ) from error


def _groups(net: Any, *, coarse: bool) -> dict[str, int]:
    """Return the number of the group of layers of each parameter, from the image on."""
    from timm.models import group_parameters

    if not hasattr(net, "group_matcher"):
        raise ValueError(
            f"timm does not number the layers of {type(net).__name__}, which "
            "MODEL.TIMM.FROZEN_STAGES and SOLVER.LAYER_DECAY need"
        )
    return group_parameters(net, net.group_matcher(coarse=coarse), reverse=True)
