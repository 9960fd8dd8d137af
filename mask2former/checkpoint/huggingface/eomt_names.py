"""The parameter names of Hugging Face's EoMT, on DINOv2 and DINOv3, and those of our model."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from mask2former_runtime.text import some_of

from ..files import State, WeightsError

_NET, _PREDICTOR = "backbone.net.", "sem_seg_head.predictor."
# Regular expressions of their names, and ours, of which some depend on the encoder: see below.
_TABLE = {
    r"criterion\.empty_weight": "criterion.empty_weight",
    r"attn_mask_probs": f"{_PREDICTOR}annealing.masked",
    r"query\.weight": f"{_PREDICTOR}query_feat.weight",
    r"class_predictor\.(\w+)": rf"{_PREDICTOR}class_embed.\1",
    r"mask_head\.fc1\.(\w+)": rf"{_PREDICTOR}mask_embed.0.\1",
    r"mask_head\.fc2\.(\w+)": rf"{_PREDICTOR}mask_embed.2.\1",
    r"mask_head\.fc3\.(\w+)": rf"{_PREDICTOR}mask_embed.4.\1",
    r"upscale_block\.block\.(\d+)\.conv1\.(\w+)": rf"{_PREDICTOR}upscale.\1.0.\2",
    r"upscale_block\.block\.(\d+)\.conv2\.(\w+)": rf"{_PREDICTOR}upscale.\1.2.\2",
    r"upscale_block\.block\.(\d+)\.layernorm2d\.(\w+)": rf"{_PREDICTOR}upscale.\1.3.\2",
    r"embeddings\.cls_token": f"{_NET}cls_token",
    r"embeddings\.register_tokens": f"{_NET}reg_token",
    r"embeddings\.patch_embeddings\.(?:projection\.)?(weight|bias)": rf"{_NET}patch_embed.proj.\1",
    r"embeddings\.position_embeddings\.weight": f"{_NET}pos_embed",
    r"layernorm\.(\w+)": rf"{_NET}norm.\1",
    r"layers\.(\d+)\.norm([12])\.(\w+)": rf"{_NET}blocks.\1.norm\2.\3",
    r"layers\.(\d+)\.attention\.([qkv])_proj\.(\w+)": rf"{_NET}blocks.\1.attn.\2.\3",
    r"layers\.(\d+)\.attention\.o(?:ut)?_proj\.(\w+)": rf"{_NET}blocks.\1.attn.proj.\2",
    r"layers\.(\d+)\.mlp\.(?:fc1|up_proj)\.(\w+)": rf"{_NET}blocks.\1.mlp.fc1.\2",
    r"layers\.(\d+)\.mlp\.(?:fc2|down_proj)\.(\w+)": rf"{_NET}blocks.\1.mlp.fc2.\2",
    r"layers\.(\d+)\.layer_scale(\d)\.lambda1": rf"{_NET}blocks.\1.scale\2",
}


def is_eomt_state(state: Mapping[str, Tensor]) -> bool:
    """Tell whether the names are those of `EomtForUniversalSegmentation` or of DINOv3's variant."""
    return "upscale_block.block.0.conv1.weight" in state


def eomt_to_d2(state: Mapping[str, Tensor]) -> State:
    """Rename the weights of Hugging Face's EoMT to those of a model with `EncoderOnlyHead`.

    Args:
        state: the weights in a Hugging Face folder.

    Returns:
        The tensors under our names. A layer uses masks if it did with a probability of one half or
        more.

    Raises:
        WeightsError: a name is unknown, such as those of SwiGLU layers, or a projection is missing.
    """
    found: State = {}
    unknown = []
    for name, tensor in state.items():
        pattern = next((p for p in _TABLE if re.fullmatch(p, name)), None)
        if pattern is None:
            unknown.append(name)
        else:
            found[re.sub(pattern, _TABLE[pattern], name)] = tensor
    if unknown:
        raise WeightsError(f"names that EoMT on a plain DINO does not have: {some_of(unknown, 8)}")
    positions, masked = f"{_NET}pos_embed", f"{_PREDICTOR}annealing.masked"
    if masked in found:
        found[masked] = found[masked] >= 0.5
    if positions in found:
        found[positions] = found[positions][None]
    is_dinov2 = positions in found  # of the two only DINOv3 rotates instead
    blocks = {m[1] for name in found if (m := re.match(rf"({_NET}blocks\.\d+\.)attn\.q", name))}
    try:
        for block in blocks:
            attention = f"{block}attn."
            for leaf in ("weight", "bias"):
                theirs = {x: f"{attention}{x}.{leaf}" for x in "qkv"}
                if leaf == "weight" or is_dinov2:
                    found[f"{attention}qkv.{leaf}"] = torch.cat(
                        [found.pop(n) for n in theirs.values()]
                    )
                else:
                    found |= {f"{attention}{x}_bias": found.pop(theirs[x]) for x in "qv"}
            for i in "12":
                ours = f"ls{i}.gamma" if is_dinov2 else f"gamma_{i}"
                found[f"{block}{ours}"] = found.pop(f"{block}scale{i}")
    except KeyError as error:
        raise WeightsError("a layer of EoMT lacks queries, keys, values or scales") from error
    return found
