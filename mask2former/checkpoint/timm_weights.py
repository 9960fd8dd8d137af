"""Weights of timm, and of the packages whose networks timm has, for `TimmBackbone`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping

from torch import Tensor

from ..modeling.backbone import TimmBackbone
from .files import State, as_weights_error

# The layers of EfficientNet in the PyTorch package "efficientnet_pytorch", by timm's names
_STEM = {"conv_stem": "_conv_stem", "bn1": "_bn0"}
_SEPARABLE = {
    "conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2",
}  # fmt: skip
_INVERTED_RESIDUAL = {
    "conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1",
    "conv_pwl": "_project_conv", "bn3": "_bn2",
}  # fmt: skip


def convert_timm(state: Mapping[str, Tensor], backbone: TimmBackbone) -> State | None:
    """Recognise the weights of an encoder of timm, and give them the names of `TimmBackbone`.

    Patches of another size, such as DINOv2's 14 pixels, are resampled as in FlexiViT
    (arXiv 2212.08013, section 3.4), by timm.

    Args:
        state: the tensors of a file: timm's, those that timm's own reader of the architecture
            knows, such as the releases of DINOv2, or an EfficientNet of "efficientnet_pytorch".
        backbone: the encoder to load into.

    Returns:
        The encoder's tensors under the names that they have in `MaskFormer`, or None if the weights
        are not of this encoder.

    Raises:
        WeightsError: the names fit, but the shapes do not.
    """
    own = backbone.net.state_dict()
    if "_conv_stem.weight" in state:
        state = _from_efficientnet_pytorch(state, own)
    if any(name.startswith(("backbone.", "model.backbone.")) for name in state):
        return None
    read = getattr(sys.modules[type(backbone.net).__module__], "checkpoint_filter_fn", None)
    if read is not None:
        with as_weights_error(f"these are not weights of {backbone.name}, MODEL.TIMM.NAME"):
            state = read(dict(state), backbone.net)
    needed = {name for name in own if not name.endswith("num_batches_tracked")}
    if not needed <= state.keys():
        return None
    return {f"backbone.net.{name}": state[name] for name in own if name in state}


def _from_efficientnet_pytorch(state: Mapping[str, Tensor], own: Iterable[str]) -> State:
    """Rename the tensors that the encoder has; it numbers blocks within stages."""
    matches = [re.fullmatch(r"(?:(blocks\.\d+\.\d+)\.)?(\w+)\.(\w+)", name) for name in own]
    parts = {match[0]: match.groups() for match in matches if match}
    blocks = list(dict.fromkeys(block for block, _, _ in parts.values() if block))
    found: State = {}
    for name, (block, layer, leaf) in parts.items():
        layers, prefix = _STEM, ""
        if block:
            prefix = f"_blocks.{blocks.index(block)}."
            inverted = f"{block}.conv_pwl.weight" in parts
            layers = _INVERTED_RESIDUAL if inverted else _SEPARABLE
        theirs = f"{prefix}{layers.get(layer, layer)}.{leaf}"
        if theirs in state:
            found[name] = state[theirs]
    return found
