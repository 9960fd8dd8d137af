"""The parameter names of Hugging Face's Mask2Former and ours, in one table that is used both ways.

"Their" names are those in files. Versions 4 and 5 of `transformers` write the same names, and the
published folders (`facebook/mask2former-...`) have them too. `hf_to_d2` also understands the names
that version 5 gives Swin in memory, in `model.state_dict()`.

Both sides have the same tensors, except:

- `relative_position_index` of Swin follows from the size of the window. The published folders
  contain it, but version 5 does not write it. Where it is missing, it is computed.
- `num_batches_tracked` of batch norms counts training steps. Our usual ResNet has frozen norms
  without it. `hf_to_d2` drops it, and `d2_to_hf` sets it to 0.
- `swin.layernorm`, which version 5 builds after the last stage, is not used by the model and is
  dropped.
- `pixel_mean` and `pixel_std`, which the first versions of Detectron2 saved, are dropped:
  `preprocessor_config.json` has these values.

`criterion.empty_weight`, the weights of the classes in the loss, is converted if it is there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mask2former_runtime.text import some_of

from ..backbones import add_relative_position_indices
from ..files import State, WeightsError

_BACKBONE = "model.pixel_level_module.encoder."
_PIXEL_DECODER = "model.pixel_level_module.decoder."
_TRANSFORMER = "model.transformer_module."

# What the fields of a template stand for; both libraries have the same value in a name.
_FIELDS = {
    "i": r"\d+",
    "j": r"\d+",
    "p": "weight|bias",
    "bn": "weight|bias|running_mean|running_var|num_batches_tracked",
}

# (our prefix, their prefix): {our name: their name, or their names if ours is a concatenation}
_TABLE: dict[tuple[str, str], dict[str, str | tuple[str, ...]]] = {
    # --- Swin ---
    ("backbone.", _BACKBONE): {
        "patch_embed.proj.{p}": "embeddings.patch_embeddings.projection.{p}",
        "patch_embed.norm.{p}": "embeddings.norm.{p}",
        **{f"norm{n}.{{p}}": f"hidden_states_norms.stage{n + 1}.{{p}}" for n in range(4)},
    },
    ("backbone.layers.{i}.", f"{_BACKBONE}encoder.layers.{{i}}."): {
        "downsample.norm.{p}": "downsample.norm.{p}",
        "downsample.reduction.weight": "downsample.reduction.weight",
    },
    ("backbone.layers.{i}.blocks.{j}.", f"{_BACKBONE}encoder.layers.{{i}}.blocks.{{j}}."): {
        "norm1.{p}": "layernorm_before.{p}",
        "attn.qkv.{p}": (
            "attention.self.query.{p}",
            "attention.self.key.{p}",
            "attention.self.value.{p}",
        ),
        "attn.relative_position_bias_table": "attention.self.relative_position_bias_table",
        "attn.relative_position_index": "attention.self.relative_position_index",
        "attn.proj.{p}": "attention.output.dense.{p}",
        "norm2.{p}": "layernorm_after.{p}",
        "mlp.fc1.{p}": "intermediate.dense.{p}",
        "mlp.fc2.{p}": "output.dense.{p}",
    },
    # --- ResNet ---
    ("backbone.stem.conv1.", f"{_BACKBONE}embedder.embedder."): {
        "weight": "convolution.weight",
        "norm.{bn}": "normalization.{bn}",
    },
    **{
        (f"backbone.res{n + 2}.{{j}}.", f"{_BACKBONE}encoder.stages.{n}.layers.{{j}}."): {
            "shortcut.weight": "shortcut.convolution.weight",
            "shortcut.norm.{bn}": "shortcut.normalization.{bn}",
            **{f"conv{k + 1}.weight": f"layer.{k}.convolution.weight" for k in range(3)},
            **{f"conv{k + 1}.norm.{{bn}}": f"layer.{k}.normalization.{{bn}}" for k in range(3)},
        }
        for n in range(4)
    },
    # --- Pixel decoder ---
    ("sem_seg_head.pixel_decoder.", _PIXEL_DECODER): {
        "input_proj.{i}.{j}.{p}": "input_projections.{i}.{j}.{p}",
        "transformer.level_embed": "level_embed",
        "adapter_{i}.weight": "adapter_{i}.0.weight",
        "adapter_{i}.norm.{p}": "adapter_{i}.1.{p}",
        "layer_{i}.weight": "layer_{i}.0.weight",
        "layer_{i}.norm.{p}": "layer_{i}.1.{p}",
        "mask_features.{p}": "mask_projection.{p}",
    },
    (
        "sem_seg_head.pixel_decoder.transformer.encoder.layers.{i}.",
        f"{_PIXEL_DECODER}encoder.layers.{{i}}.",
    ): {
        "self_attn.sampling_offsets.{p}": "self_attn.sampling_offsets.{p}",
        "self_attn.attention_weights.{p}": "self_attn.attention_weights.{p}",
        "self_attn.value_proj.{p}": "self_attn.value_proj.{p}",
        "self_attn.output_proj.{p}": "self_attn.output_proj.{p}",
        "norm1.{p}": "self_attn_layer_norm.{p}",
        "linear1.{p}": "fc1.{p}",
        "linear2.{p}": "fc2.{p}",
        "norm2.{p}": "final_layer_norm.{p}",
    },
    # --- Transformer decoder ---
    ("sem_seg_head.predictor.", _TRANSFORMER): {
        "query_feat.weight": "queries_features.weight",
        "query_embed.weight": "queries_embedder.weight",
        "level_embed.weight": "level_embed.weight",
        "input_proj.{i}.{p}": "input_projections.{i}.{p}",
        "decoder_norm.{p}": "decoder.layernorm.{p}",
        "mask_embed.layers.{i}.{p}": "decoder.mask_predictor.mask_embedder.{i}.0.{p}",
    },
    (
        "sem_seg_head.predictor.transformer_cross_attention_layers.{i}.",
        f"{_TRANSFORMER}decoder.layers.{{i}}.",
    ): {
        "multihead_attn.in_proj_{p}": "cross_attn.in_proj_{p}",
        "multihead_attn.out_proj.{p}": "cross_attn.out_proj.{p}",
        "norm.{p}": "cross_attn_layer_norm.{p}",
    },
    (
        "sem_seg_head.predictor.transformer_self_attention_layers.{i}.",
        f"{_TRANSFORMER}decoder.layers.{{i}}.",
    ): {
        "self_attn.in_proj_{p}": (
            "self_attn.q_proj.{p}",
            "self_attn.k_proj.{p}",
            "self_attn.v_proj.{p}",
        ),
        "self_attn.out_proj.{p}": "self_attn.out_proj.{p}",
        "norm.{p}": "self_attn_layer_norm.{p}",
    },
    (
        "sem_seg_head.predictor.transformer_ffn_layers.{i}.",
        f"{_TRANSFORMER}decoder.layers.{{i}}.",
    ): {
        "linear1.{p}": "fc1.{p}",
        "linear2.{p}": "fc2.{p}",
        "norm.{p}": "final_layer_norm.{p}",
    },
    # --- Class head and loss ---
    ("", ""): {
        "sem_seg_head.predictor.class_embed.{p}": "class_predictor.{p}",
        "criterion.empty_weight": "criterion.empty_weight",
    },
}

# Version 5's names of Swin in memory, as regular expressions, and its names in files.
_IN_MEMORY = {
    r"^swin\.(embeddings|encoder)\.": r"\1.",
    r"\.attention\.q_proj\.": ".attention.self.query.",
    r"\.attention\.k_proj\.": ".attention.self.key.",
    r"\.attention\.v_proj\.": ".attention.self.value.",
    r"\.attention\.o_proj\.": ".attention.output.dense.",
    r"\.attention\.relative_position_bias\.": ".attention.self.",
    r"\.mlp\.fc1\.": ".intermediate.dense.",
    r"\.mlp\.fc2\.": ".output.dense.",
}
_HF_DROPPED = re.compile(rf"{re.escape(_BACKBONE)}(swin\.layernorm\..*|.*\.num_batches_tracked)")
_D2_DROPPED = re.compile(r"pixel_(mean|std)|sem_seg_head\.predictor\.(piloted|annealing)\..*")
_D2_MASKED = "sem_seg_head.predictor.annealing.masked"


class _Rule(NamedTuple):
    """One of our names, and the names of theirs whose tensors ours concatenates along rows."""

    d2: str
    hf: tuple[str, ...]


class _Found(NamedTuple):
    """The rule for a name, the index of the name among the rule's, and the values of its fields."""

    rule: _Rule
    part: int
    fields: dict[str, str]


def _rules() -> list[_Rule]:
    rules = []
    for (our_prefix, their_prefix), pairs in _TABLE.items():
        for ours, theirs in pairs.items():
            names = (theirs,) if isinstance(theirs, str) else theirs
            rules.append(_Rule(our_prefix + ours, tuple(their_prefix + name for name in names)))
    return rules


def _pattern(template: str) -> re.Pattern[str]:
    pattern = re.escape(template)
    for field, values in _FIELDS.items():
        pattern = pattern.replace(rf"\{{{field}\}}", f"(?P<{field}>{values})")
    return re.compile(pattern)


_Patterns = list[tuple[re.Pattern[str], _Rule, int]]
_D2_PATTERNS: _Patterns = [(_pattern(rule.d2), rule, 0) for rule in _rules()]
_HF_PATTERNS: _Patterns = [
    (_pattern(name), rule, part) for rule in _rules() for part, name in enumerate(rule.hf)
]


def is_hf_state(state: Mapping[str, Tensor]) -> bool:
    """Tell whether the names are those of `transformers`' Mask2Former (or of its MaskFormer)."""
    return any(name.startswith((_BACKBONE, _PIXEL_DECODER)) for name in state)


def hf_to_d2(state: Mapping[str, Tensor]) -> State:
    """Rename the weights of a `Mask2FormerForUniversalSegmentation` to ours.

    Args:
        state: the weights in a Hugging Face folder, or `model.state_dict()`.

    Returns:
        The same tensors under our names. Query, key and value projections are concatenated.

    Raises:
        WeightsError: a name is unknown, or an attention lacks its queries, keys or values.
    """
    found = {
        name: _find(_as_in_files(name), _HF_PATTERNS)
        for name in state
        if not _HF_DROPPED.fullmatch(name)
    }
    known = _all_known(
        found,
        "Hugging Face's Mask2Former with a Swin or ResNet backbone",
        [f"{prefix}..." for prefix in (_BACKBONE, _PIXEL_DECODER, _TRANSFORMER)],
    )
    renamed: State = {}
    parts: dict[str, dict[int, Tensor]] = {}
    for name, (rule, part, fields) in known.items():
        ours = rule.d2.format(**fields)
        if len(rule.hf) == 1:
            renamed[ours] = state[name]
            continue
        parts.setdefault(ours, {})[part] = state[name]
        if len(parts[ours]) == len(rule.hf):
            renamed[ours] = torch.cat([tensor for _, tensor in sorted(parts[ours].items())])
    incomplete = sorted(set(parts) - set(renamed))
    if incomplete:
        raise WeightsError(f"queries, keys or values are missing for our {', '.join(incomplete)}")
    add_relative_position_indices(renamed)
    return renamed


def d2_to_hf(state: Mapping[str, Tensor]) -> State:
    """Rename the weights of our model to those of a `Mask2FormerForUniversalSegmentation`.

    Args:
        state: the weights of a model with a Swin or ResNet backbone, `MSDeformAttnPixelDecoder` and
            `MultiScaleMaskedTransformerDecoder`.

    Returns:
        The same tensors under the names of a published folder. Query, key and value projections
        are separate.

    Raises:
        WeightsError: a name is unknown, or the model predicts without attention masks.
    """
    if _D2_MASKED in state and not state[_D2_MASKED].all():
        raise WeightsError(
            "the model was trained to predict without attention masks "
            "(MODEL.MASK_FORMER.ANNEALING), which Hugging Face's Mask2Former cannot"
        )
    found = {name: _find(name, _D2_PATTERNS) for name in state if not _D2_DROPPED.fullmatch(name)}
    known = _all_known(
        found,
        "our Mask2Former with a Swin or ResNet backbone",
        ["backbone...", "sem_seg_head.pixel_decoder...", "sem_seg_head.predictor..."],
    )
    renamed: State = {}
    for name, (rule, _, fields) in known.items():
        if len(rule.hf) == 1:
            renamed[rule.hf[0].format(**fields)] = state[name]
            continue
        for theirs, piece in zip(rule.hf, state[name].chunk(len(rule.hf)), strict=True):
            # safetensors does not save tensors that share memory.
            renamed[theirs.format(**fields)] = piece.clone()
    for name in [name for name in renamed if name.endswith("normalization.running_var")]:
        counter = name.replace("running_var", "num_batches_tracked")
        renamed.setdefault(counter, torch.tensor(0))
    return renamed


def _as_in_files(name: str) -> str:
    """Turn a parameter's name in memory into its name in files; names in files stay."""
    if not name.startswith(_BACKBONE):
        return name
    part = name[len(_BACKBONE) :]
    for pattern, replacement in _IN_MEMORY.items():
        part = re.sub(pattern, replacement, part)
    return _BACKBONE + part


def _find(name: str, patterns: _Patterns) -> _Found | None:
    for pattern, rule, part in patterns:
        match = pattern.fullmatch(name)
        if match:
            return _Found(rule, part, match.groupdict())
    return None


def _all_known(
    found: Mapping[str, _Found | None], model: str, expected: list[str]
) -> dict[str, _Found]:
    """Return what was found for each name, or raise `WeightsError` if a name is unknown."""
    unknown = sorted(name for name, rule in found.items() if rule is None)
    if unknown:
        raise WeightsError(
            f"{len(unknown)} names do not belong to {model}: {some_of(unknown, 8)}. "
            f"Expected are names such as {', '.join(expected)}"
        )
    return {name: rule for name, rule in found.items() if rule is not None}
