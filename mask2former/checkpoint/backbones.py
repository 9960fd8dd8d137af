"""ImageNet classifiers of other libraries, as backbones under this package's names.

A name says which part of the network a tensor belongs to, not what that part computes. Variants
that differ only in operations without parameters cannot be told from the plain network and must
not be used: timm's `resnetaa50` and `resnetblur50`, for example, blur before they subsample.

All weights here expect RGB images that are normalised as in torchvision: `INPUT.FORMAT` "RGB" and
the default `MODEL.PIXEL_MEAN` and `PIXEL_STD`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

from torch import Tensor

from mask2former_runtime.text import some_of

from ..modeling.backbone.swin_blocks import relative_position_index
from .files import State, WeightsError, as_weights_error

# Maps a library's names, as regular expressions, to ours without the prefix "backbone.".
Rules = dict[str, str]

_NORM = "(weight|bias|running_mean|running_var)"
_LINEAR = "(weight|bias)"

_RESNET_MARK = "layer1.0.conv1.weight"
_RESNET_BLOCK = {
    r"conv([123])\.weight": r"conv\2.weight",
    rf"bn([123])\.{_NORM}": r"conv\2.norm.\3",
    r"downsample\.0\.weight": "shortcut.weight",
    rf"downsample\.1\.{_NORM}": r"shortcut.norm.\2",
}
_RESNET: Rules = {
    r"conv1\.weight": "stem.conv1.weight",
    rf"bn1\.{_NORM}": r"stem.conv1.norm.\1",
} | {
    rf"layer{i}\.(\d+)\.{theirs}": rf"res{i + 1}.\1.{ours}"
    for i in range(1, 5)
    for theirs, ours in _RESNET_BLOCK.items()
}
_RESNET_DROPPED = rf"fc\.{_LINEAR}|.+\.num_batches_tracked"

_D2_RESNET_MARK = "res2.0.conv1.weight"
_D2_RESNET: Rules = {
    # conv1_1 to conv1_3: the stem of STEM_TYPE "deeplab"
    rf"(stem\.conv1(_[123])?\.(weight|norm\.{_NORM}))": r"\1",
    rf"(res[2-5]\.\d+\.(conv[123]|shortcut)\.(weight|norm\.{_NORM}))": r"\1",
}
# stem.fc: torchvision's classifier as Detectron2's converter names it; linear: Detectron2's own
_D2_RESNET_DROPPED = rf"(stem\.fc|linear)\.{_LINEAR}|.+\.num_batches_tracked"

_LARGEST_WINDOW = 64  # the index of its positions has S^4 numbers
_BIAS_TABLE = "attn.relative_position_bias_table"
_SWIN_BLOCK = (
    rf"(((norm[12]|attn\.(qkv|proj)|mlp\.fc[12])\.{_LINEAR})|attn\.relative_position_bias_table)"
)
_SWIN_COMMON: Rules = {
    rf"(patch_embed\.(proj|norm)\.{_LINEAR})": r"\1",
    r"(absolute_pos_embed)": r"\1",
    rf"(layers\.[0-3]\.blocks\.\d+\.{_SWIN_BLOCK})": r"\1",
}
_SWIN_MARK = f"layers.0.blocks.0.{_BIAS_TABLE}"
_SWIN: Rules = _SWIN_COMMON | {
    r"(layers\.[0-2]\.downsample\.(reduction\.weight|norm\.(weight|bias)))": r"\1",
    rf"(norm[0-3]\.{_LINEAR})": r"\1",  # in our own backbones that were saved alone
}
_SWIN_DROPPED = rf"(norm|head)\.{_LINEAR}|.+\.(relative_position_index|attn_mask)"

_TIMM_SWIN: Rules = _SWIN_COMMON | {
    rf"layers\.{i + 1}\.downsample\.(reduction\.weight|norm\.(weight|bias))": (
        rf"layers.{i}.downsample.\1"
    )
    for i in range(3)
}
_TIMM_SWIN_DROPPED = rf"(norm|head\.fc)\.{_LINEAR}|.+\.(relative_position_index|attn_mask)"

_TORCHVISION_SWIN_MARK = f"features.1.0.{_BIAS_TABLE}"
_TORCHVISION_SWIN_BLOCK = {
    rf"((norm[12]|attn\.(qkv|proj))\.{_LINEAR}|attn\.relative_position_bias_table)": r"\2",
    rf"mlp\.0\.{_LINEAR}": r"mlp.fc1.\2",
    rf"mlp\.3\.{_LINEAR}": r"mlp.fc2.\2",
}
_TORCHVISION_SWIN: Rules = (
    {
        rf"features\.0\.0\.{_LINEAR}": r"patch_embed.proj.\1",
        rf"features\.0\.2\.{_LINEAR}": r"patch_embed.norm.\1",
    }
    | {
        rf"features\.{2 * i + 1}\.(\d+)\.{theirs}": rf"layers.{i}.blocks.\1.{ours}"
        for i in range(4)
        for theirs, ours in _TORCHVISION_SWIN_BLOCK.items()
    }
    | {
        rf"features\.{2 * i + 2}\.(reduction\.weight|norm\.(weight|bias))": (
            rf"layers.{i}.downsample.\1"
        )
        for i in range(3)
    }
)
_TORCHVISION_SWIN_DROPPED = rf"(norm|head)\.{_LINEAR}|.+\.relative_position_index"


def convert_backbone(state: Mapping[str, Tensor]) -> State | None:
    """Recognise an ImageNet backbone by its names, and rename its weights to ours.

    Args:
        state: torchvision's or timm's ResNet, ResNeXt or wide ResNet, Detectron2's ResNet without
            a prefix, or a Swin Transformer as its authors, timm or torchvision name it.

    Returns:
        The tensors under the names that they have in `MaskFormer`, such as
        "backbone.res2.0.conv1.weight", or None if `state` is not one of these backbones.

    Raises:
        WeightsError: the weights are of a variant that cannot be built here, such as Swin
            Transformer V2.
    """
    _refuse_swin_v2(state)
    converters: dict[str, Callable[[Mapping[str, Tensor]], State]] = {
        _RESNET_MARK: torchvision_resnet_to_d2,
        _D2_RESNET_MARK: d2_resnet_to_d2,
        _TORCHVISION_SWIN_MARK: torchvision_swin_to_d2,
        _SWIN_MARK: timm_swin_to_d2 if _merges_first(state) else swin_to_d2,
    }
    for mark, convert in converters.items():
        if mark in state:
            with as_weights_error("the weights do not have the shapes of such a backbone"):
                return convert(state)
    return None


def torchvision_resnet_to_d2(state: Mapping[str, Tensor]) -> State:
    """Rename the weights of torchvision's ResNets, and of timm's with the same names, to ours.

    In these networks the 3x3 convolutions have the stride of 2: `MODEL.RESNETS.STRIDE_IN_1X1` must
    be False.

    Raises:
        WeightsError: the names are of another network, or of a variant with a deep stem, pooled
            shortcuts or squeeze-and-excitation.
    """
    return _rename(state, "a plain torchvision ResNet", _RESNET_MARK, _RESNET, _RESNET_DROPPED)


def d2_resnet_to_d2(state: Mapping[str, Tensor]) -> State:
    """Add our prefix to the names of Detectron2's own ResNets, such as its torchvision/R-50.pkl.

    Raises:
        WeightsError: the names are of another network.
    """
    return _rename(state, "a Detectron2 ResNet", _D2_RESNET_MARK, _D2_RESNET, _D2_RESNET_DROPPED)


def swin_to_d2(state: Mapping[str, Tensor]) -> State:
    """Rename the weights of the Swin Transformer's original releases, and of old timm, to ours.

    The last `norm` of a release belongs to its classifier and is dropped with it. Our model has one
    norm per output, norm0 to norm3: the result does not contain them, so they start from their
    initial values.

    Raises:
        WeightsError: the names are of another network.
    """
    if _merges_first(state):
        raise WeightsError(
            "these Swin weights merge patches at the start of a stage, as timm's do: use "
            "timm_swin_to_d2"
        )
    return _swin(state, "an original Swin Transformer", _SWIN_MARK, _SWIN, _SWIN_DROPPED)


def timm_swin_to_d2(state: Mapping[str, Tensor]) -> State:
    """Rename the weights of timm's Swin Transformers to ours.

    timm merges patches at the start of a stage, our model at the end of the stage before. The
    result does not contain the norms of our outputs, see `swin_to_d2`.

    Raises:
        WeightsError: the names are of another network.
    """
    if not _merges_first(state):
        raise WeightsError(
            "these Swin weights do not merge patches at the start of a stage: use swin_to_d2"
        )
    return _swin(state, "timm's Swin Transformer", _SWIN_MARK, _TIMM_SWIN, _TIMM_SWIN_DROPPED)


def torchvision_swin_to_d2(state: Mapping[str, Tensor]) -> State:
    """Rename the weights of torchvision's Swin Transformers to ours.

    The result does not contain the norms of our outputs, see `swin_to_d2`.

    Raises:
        WeightsError: the names are of another network.
    """
    return _swin(
        state,
        "torchvision's Swin Transformer",
        _TORCHVISION_SWIN_MARK,
        _TORCHVISION_SWIN,
        _TORCHVISION_SWIN_DROPPED,
    )


def _rename(
    state: Mapping[str, Tensor], family: str, mark: str, rules: Rules, dropped: str
) -> State:
    """Apply to each name the rule that matches it; `mark` is a name that the whole family has."""
    if mark not in state:
        raise WeightsError(f"these are not the weights of {family}: they have no {mark}")
    renamed: State = {}
    left_over = []
    for name, tensor in state.items():
        if re.fullmatch(dropped, name):
            continue
        matches = ((re.fullmatch(theirs, name), ours) for theirs, ours in rules.items())
        new_name = next((match.expand(ours) for match, ours in matches if match), None)
        if new_name is None:
            left_over.append(name)
        else:
            renamed[f"backbone.{new_name}"] = tensor
    if left_over:
        raise WeightsError(
            f"these weights look like those of {family}, which has no {some_of(left_over, 8)}: "
            "they are of a variant that cannot be built here"
        )
    return renamed


def _swin(state: Mapping[str, Tensor], family: str, mark: str, rules: Rules, dropped: str) -> State:
    """Rename, and convert what our model stores in another form."""
    _refuse_swin_v2(state)
    renamed = _rename(state, family, mark, rules, dropped)
    add_relative_position_indices(renamed)
    position = renamed.get("backbone.absolute_pos_embed")
    if position is not None:
        # (1, H * W, C) of a square image -> (1, C, H, W)
        side = math.isqrt(position.shape[1])
        renamed["backbone.absolute_pos_embed"] = position.transpose(1, 2).unflatten(2, (side, side))
    return renamed


def add_relative_position_indices(state: State) -> None:
    """Add Swin's `relative_position_index` next to each bias table that lacks it, in place.

    The index follows from the size of the table, and some files do not store it.
    """
    for name, table in list(state.items()):
        if name.endswith(_BIAS_TABLE):
            window_size = (math.isqrt(len(table)) + 1) // 2
            if (2 * window_size - 1) ** 2 != len(table) or window_size > _LARGEST_WINDOW:
                raise WeightsError(
                    f"{name.removeprefix('backbone.')} has {len(table)} rows, which is not "
                    f"(2 S - 1)^2 for any window of S x S patches up to S = {_LARGEST_WINDOW}"
                )
            index = name.replace("bias_table", "index")
            state.setdefault(index, relative_position_index(window_size))


def _merges_first(state: Mapping[str, Tensor]) -> bool:
    """Tell whether the stages of a Swin Transformer begin with merging patches, as timm's do."""
    name = "layers.{}.downsample.reduction.weight"
    return name.format(1) in state and name.format(0) not in state


def _refuse_swin_v2(state: Mapping[str, Tensor]) -> None:
    marks = ("layers.0.blocks.0.attn.logit_scale", "features.1.0.attn.logit_scale")
    if any(mark in state for mark in marks):
        raise WeightsError(
            "these are weights of a Swin Transformer V2, which is another architecture than "
            "D2SwinTransformer: use a release of the first version, such as "
            "swin://swin_tiny_patch4_window7_224"
        )
