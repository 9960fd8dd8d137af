"""Whether a file of weights fits a model, and if not, what differs and what to change."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

Shape = tuple[int, ...]
Shapes = dict[str, Shape]

_HEAD = "sem_seg_head."
_PREDICTOR = f"{_HEAD}predictor."
_SHOWN = 8  # names of each list in a report
# Tensors whose shapes depend on the number of classes.
CLASS_NAMES = (
    f"{_PREDICTOR}class_embed.weight",
    f"{_PREDICTOR}class_embed.bias",
    "criterion.empty_weight",
    f"{_PREDICTOR}piloted.class_queries.weight",
)
# What only mask-piloted training uses, and no inference.
_PILOTED = f"{_PREDICTOR}piloted."
# The layers in which inference uses masks; all, where a file does not say it.
_MASKED = f"{_PREDICTOR}annealing.masked"
# Tensors that follow from the config or count training steps: files need not have them.
_OPTIONAL = re.compile(r"criterion\.empty_weight|pixel_mean|pixel_std|.*\.num_batches_tracked")
# What classifiers do not have: Swin's norms of the outputs that segmentation uses, and the pyramid
# on a plain vision transformer.
_OF_SEGMENTATION = re.compile(r"backbone\.(norm\d\.(weight|bias)|pyramid\..*)")


@dataclass
class Fit:
    """The differences between the tensors of a file and of a model; true if there are none."""

    missing: list[str] = field(default_factory=list)
    """Names that only the model has."""
    unexpected: list[str] = field(default_factory=list)
    """Names that only the file has."""
    reshaped: list[tuple[str, Shape, Shape]] = field(default_factory=list)
    """Name, shape in the file and shape in the model."""

    def __bool__(self) -> bool:
        return not (self.missing or self.unexpected or self.reshaped)


def compare(state: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> Fit:
    """Compare the names and shapes of a file's and a model's tensors."""

    def only_in(these: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> list[str]:
        return [name for name in these if name not in others and not _OPTIONAL.fullmatch(name)]

    masks_everywhere = _MASKED in state and bool(state[_MASKED].all())
    return Fit(
        missing=[name for name in only_in(model, state) if name != _MASKED],
        unexpected=[
            name for name in only_in(state, model) if not (name == _MASKED and masks_everywhere)
        ],
        reshaped=[
            (name, tuple(state[name].shape), tuple(model[name].shape))
            for name in model
            if name in state and state[name].shape != model[name].shape
        ],
    )


def without_pilots(fit: Fit) -> tuple[Fit, str]:
    """Drop the differences in what only mask-piloted training uses.

    Returns:
        The remaining differences, and a sentence about those that were dropped.
    """
    missing, unexpected = (
        [name for name in names if not name.startswith(_PILOTED)]
        for names in (fit.missing, fit.unexpected)
    )
    note = ""
    if len(unexpected) < len(fit.unexpected):
        note = " The extra queries of mask-piloted training in the file are left out."
    if len(missing) < len(fit.missing):
        note = " The file is without the extra queries of mask-piloted training: these are random."
    return Fit(missing, unexpected, fit.reshaped), note


def as_starting_point(fit: Fit, state: Mapping[str, Tensor]) -> tuple[Fit, str]:
    """Drop the differences that do not matter to weights that training starts from.

    Training may start from a backbone alone, or from a model with other classes.

    Returns:
        The remaining differences, and a sentence about what the file does not fill.
    """
    if all(name.startswith("backbone.") for name in state):
        missing = [
            name
            for name in fit.missing
            if name.startswith("backbone.") and not _OF_SEGMENTATION.fullmatch(name)
        ]
        return Fit(missing, fit.unexpected, fit.reshaped), (
            "These are weights of a backbone: everything else starts from random values."
        )
    of_classes = [difference for difference in fit.reshaped if difference[0] in CLASS_NAMES]
    if not of_classes:
        return fit, ""
    _, found, wanted = of_classes[0]
    others = [difference for difference in fit.reshaped if difference not in of_classes]
    return Fit(fit.missing, fit.unexpected, others), (
        f"The file has {found[0] - 1} classes, the model {wanted[0] - 1}: the classifier starts "
        "from random values."
    )


def report(fit: Fit, source: str, state: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> str:
    """Describe differences for the user: what to change, then names and shapes."""
    lines = [f"the weights {source} do not fit the config:"]
    found, wanted = (
        architecture({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        for tensors in (state, model)
    )
    for key, value in found.items():
        if key in wanted and wanted[key] != value:
            lines.append(f"  {key}: {value} in the file, {wanted[key]} in the config")
    if not any(name.startswith(_HEAD) for name in state):
        lines.append("  the file holds a backbone alone, which training can start from")
    if len(lines) > 1:
        lines.append("Change the config to match the file, or use weights of this model.")
    shapes = [f"{name}: {a} in the file, {b} in the model" for name, a, b in fit.reshaped]
    for title, names in (
        ("With another shape", shapes),
        ("Only in the model", fit.missing),
        ("Only in the file", fit.unexpected),
    ):
        if names:
            lines.append(f"{title} ({len(names)}):")
            lines += [f"  {name}" for name in names[:_SHOWN]]
            lines += [f"  ... and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return "\n".join(lines)


def architecture(shapes: Shapes) -> dict[str, object]:
    """Infer the values of config keys, by key, from the names and shapes of tensors."""
    found: dict[str, object] = {}
    for key, derive in _INFERRED.items():
        value = derive(shapes)
        if value:
            found[key] = value
    return found


def _rows(name: str, less: int = 0) -> Callable[[Shapes], int | None]:
    """Look up the size of a tensor's first axis, minus `less`."""
    return lambda shapes: shapes[name][0] - less if name in shapes else None


def _columns(name: str) -> Callable[[Shapes], int | None]:
    return lambda shapes: shapes[name][1] if name in shapes else None


def _count(pattern: str, more: int = 0) -> Callable[[Shapes], int | None]:
    """Count the modules in a list, and add `more`."""

    def derive(shapes: Shapes) -> int | None:
        numbers = _numbers(shapes, pattern)
        return len(numbers) + more if numbers else None

    return derive


def _numbers(shapes: Shapes, pattern: str) -> set[str]:
    return {match[1] for name in shapes if (match := re.match(pattern, name))}


def _backbone(shapes: Shapes) -> str | None:
    if "backbone.patch_embed.proj.weight" in shapes:
        return "D2SwinTransformer"
    return "build_resnet_backbone" if "backbone.stem.conv1.weight" in shapes else None


def _resnet_depth(shapes: Shapes) -> int | None:
    blocks = [len(_numbers(shapes, rf"backbone\.res{stage}\.(\d+)\.")) for stage in range(2, 6)]
    convolutions = 3 if "backbone.res2.0.conv3.weight" in shapes else 2
    # The depth in a ResNet's name also counts the convolution of the stem and the classifier.
    return 2 + convolutions * sum(blocks) if all(blocks) else None


def _swin_depths(shapes: Shapes) -> list[int] | None:
    stages = sorted(_numbers(shapes, r"backbone\.layers\.(\d+)\.blocks"), key=int)
    return [
        len(_numbers(shapes, rf"backbone\.layers\.{i}\.blocks\.(\d+)\.")) for i in stages
    ] or None


_BIAS_TABLE = "backbone.layers.{}.blocks.0.attn.relative_position_bias_table"


def _swin_window(shapes: Shapes) -> int | None:
    table = shapes.get(_BIAS_TABLE.format(0))
    return (round(table[0] ** 0.5) + 1) // 2 if table else None  # (2 w - 1)^2 rows


def _swin_heads(shapes: Shapes) -> list[int] | None:
    tables = [shapes.get(_BIAS_TABLE.format(i)) for i in range(4)]
    return [table[1] for table in tables if table] or None


# For each decoder a parameter that none of the decoders below it has.
_PIXEL_DECODERS = {
    "transformer.level_embed": "MSDeformAttnPixelDecoder",
    "transformer.encoder.layers.0.linear1.weight": "TransformerEncoderPixelDecoder",
    "layers.0.up.0.weights": "BiFPNPixelDecoder",
    "align_1.offset.weight": "FaPNPixelDecoder",
    "branches.0.convs.0.weight": "SemanticFPNPixelDecoder",
    "layer_1.weight": "BasePixelDecoder",
    "mask_features.weight": "ProjectionPixelDecoder",
}
_TRANSFORMER_DECODERS = {
    "query_feat.weight": "MultiScaleMaskedTransformerDecoder",
    "transformer.decoder.norm.weight": "StandardTransformerDecoder",
}


def _first(prefix: str, values: Mapping[str, str]) -> Callable[[Shapes], str | None]:
    """Look up the value of the first of these names that is there."""
    return lambda shapes: next((v for k, v in values.items() if prefix + k in shapes), None)


_ENCODER = rf"{re.escape(_HEAD)}pixel_decoder\.transformer\.encoder\.layers\."
_INFERRED: dict[str, Callable[[Shapes], object]] = {
    "MODEL.BACKBONE.NAME": _backbone,
    "MODEL.RESNETS.DEPTH": _resnet_depth,
    "MODEL.SWIN.EMBED_DIM": _rows("backbone.patch_embed.proj.weight"),
    "MODEL.SWIN.DEPTHS": _swin_depths,
    "MODEL.SWIN.NUM_HEADS": _swin_heads,
    "MODEL.SWIN.WINDOW_SIZE": _swin_window,
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": _first(f"{_HEAD}pixel_decoder.", _PIXEL_DECODERS),
    "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME": _first(_PREDICTOR, _TRANSFORMER_DECODERS),
    "MODEL.MASK_FORMER.ANNEALING.ENABLED": lambda shapes: str(_MASKED in shapes),
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": _rows(f"{_PREDICTOR}class_embed.weight", less=1),
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": _rows(f"{_HEAD}pixel_decoder.input_proj.0.0.weight"),
    "MODEL.SEM_SEG_HEAD.MASK_DIM": _rows(f"{_HEAD}pixel_decoder.mask_features.weight"),
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": _count(rf"{_ENCODER}(\d+)\."),
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_DIM_FEEDFORWARD": _rows(
        f"{_HEAD}pixel_decoder.transformer.encoder.layers.0.linear1.weight"
    ),
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": _rows(f"{_PREDICTOR}query_embed.weight"),
    "MODEL.MASK_FORMER.HIDDEN_DIM": _columns(f"{_PREDICTOR}query_embed.weight"),
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": _rows(
        f"{_PREDICTOR}transformer_ffn_layers.0.linear1.weight"
    ),
    "MODEL.MASK_FORMER.DEC_LAYERS": _count(
        rf"{re.escape(_PREDICTOR)}transformer_ffn_layers\.(\d+)\.", more=1
    ),
}
