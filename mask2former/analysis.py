"""Counting what a model computes while it runs on the meta device, without data.

The convention is that of fvcore as Detectron2 uses it, which papers follow too: a multiplication
with an addition is one FLOP, a normalised value costs 5, a bilinearly resized value 4, elementwise
arithmetic and batch norms cost nothing. fvcore itself traces the model with `torch.jit`, which has
to run it on data, and does not know deformable attention or attention in one operator.

Shapes:
    B: batch, H, W: size of the network's input.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torchvision  # noqa: F401  defines deformable convolution
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from .modeling import ops  # noqa: F401  defines the attention operator
from .utils.size import Size

aten = torch.ops.aten
# Parts of a model: the path of the module and the method that runs it.
_PARTS = {
    "backbone": ("backbone", "forward"),
    "pixel decoder": ("sem_seg_head.pixel_decoder", "forward_features"),
    "transformer decoder": ("sem_seg_head.predictor", "forward"),
}
OTHER = "other"


def build_on_meta(cfg: CfgNode) -> nn.Module:
    """Build the model of a config in evaluation mode, without memory for its parameters.

    Raises:
        ValueError: the model does not consist of a backbone and a head.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    if "MASK_FORMER" in cfg.MODEL:  # panoptic inference needs a data set that names its things
        test = cfg.MODEL.MASK_FORMER.TEST
        test.INSTANCE_ON, test.SEMANTIC_ON, test.PANOPTIC_ON = True, False, False
    with torch.device("meta"):
        model = build_model(cfg)
    if not hasattr(model, "backbone") or not hasattr(model, "sem_seg_head"):
        raise ValueError(
            f"a {cfg.MODEL.META_ARCHITECTURE} cannot be analysed, only models of a backbone and a "
            "sem_seg_head: MaskFormer and SemanticSegmentor"
        )
    return model.eval()


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """Count the parameters of each part of a model; a shared parameter counts once."""
    counts = Counter(dict.fromkeys(_PARTS, 0))
    for name, parameter in model.named_parameters():
        parts = (part for part, (path, _) in _PARTS.items() if name.startswith(f"{path}."))
        counts[next(parts, OTHER)] += parameter.numel()
    return {part: count for part, count in counts.items() if count}


def padded_size(model: nn.Module, height: int, width: int) -> Size:
    """Return the size of an image after the model has padded it."""
    backbone: Any = model.backbone
    divisor = max(1, getattr(model, "size_divisibility", backbone.size_divisibility))
    return math.ceil(height / divisor) * divisor, math.ceil(width / divisor) * divisor


@dataclass
class OperatorCounts:
    """What the operators of a model did, by part of the model and by operator."""

    flops: Counter[tuple[str, str]] = field(default_factory=Counter)
    activations: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Output values of convolutions and matrix products."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Calls of operators whose cost is not known, and that count as 0."""


def count_operators(model: nn.Module, height: int, width: int) -> OperatorCounts:
    """Count what backbone and head do per image.

    Post-processing is not counted: it depends on what the model finds.

    Args:
        model: a model from `build_on_meta`.
        height: H, a multiple of the divisor that the model pads to.
        width: W, likewise.
    """
    image = torch.empty(1, 3, height, width, device="meta")
    counter = _Counter()
    with torch.no_grad(), counter, _parts(model, counter):
        model.sem_seg_head(model.backbone(image))  # type: ignore[operator]
    return counter.counts


class _Counter(TorchDispatchMode):
    """Sees all operators, below the level at which `linear` and `einsum` become products."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = OperatorCounts()
        self.part = OTHER

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        operator = func._overloadpacket
        name = _NAMES.get(operator, operator.__name__)
        if operator in _FORMULAS:
            first = out[0] if isinstance(out, (tuple, list)) else out
            self.counts.flops[self.part, name] += _FORMULAS[operator](args, first)
            if operator in _PRODUCTS:
                self.counts.activations[self.part, name] += first.numel()
        elif not _is_free(func, args):
            self.counts.unknown[str(func)] += 1
        return out


@contextmanager
def _replaced(attributes: dict[str, Any], name: str, value: Any) -> Iterator[None]:
    """Override an attribute of an object inside the context."""
    before = dict(attributes)
    attributes[name] = value
    try:
        yield
    finally:
        del attributes[name]
        if name in before:
            attributes[name] = before[name]


@contextmanager
def _parts(model: nn.Module, counter: _Counter) -> Iterator[None]:
    """Tell the counter inside the context which part of the model runs."""
    with ExitStack() as stack:
        for part, (path, method) in _PARTS.items():
            try:
                module = model.get_submodule(path)
            except AttributeError:  # another kind of head
                continue
            original = getattr(module, method)

            def wrapped(*args: Any, _run: Any = original, _part: str = part, **kwargs: Any) -> Any:
                outside, counter.part = counter.part, _part
                try:
                    return _run(*args, **kwargs)
                finally:
                    counter.part = outside

            stack.enter_context(_replaced(vars(module), method, wrapped))
        yield


def _convolution(args: Any, out: Tensor) -> int:
    x, weight, transposed = args[0], args[1], args[6]
    return x.shape[0] * weight.numel() * math.prod((x if transposed else out).shape[2:])


def _deformable_convolution(args: Any, out: Tensor) -> int:
    # Every output samples the input anew: a masked, weighted sum of four values per sample.
    x, weight = args[:2]
    samples = x.shape[1] * math.prod(weight.shape[2:])
    return x.shape[0] * math.prod(out.shape[2:]) * (weight.numel() + 5 * samples)


def _product(args: Any, out: Tensor) -> int:
    return out.numel() * args[0].shape[-1]


def _product_and_sum(args: Any, out: Tensor) -> int:
    return out.numel() * args[1].shape[-1]


def _attention(args: Any, out: Tensor) -> int:
    query, key, value = args[:3]  # (B, N, Q, C), (B, N, S, C), (B, N, S, C')
    pairs = math.prod(query.shape[:-1]) * key.shape[-2]
    return pairs * (query.shape[-1] + value.shape[-1])


def _deformable_attention(args: Any, out: Tensor) -> int:
    # Per channel, each sample is a weighted sum of four values and is then weighted itself.
    locations, channels = args[3], args[0].shape[-1]
    return 5 * (locations.numel() // 2) * channels


def _norm(weight: int) -> Callable[[Any, Tensor], int]:
    return lambda args, out: out.numel() * (4 if args[weight] is None else 5)


def _per_output(flops: int) -> Callable[[Any, Tensor], int]:
    return lambda args, out: flops * out.numel()


_FORMULAS: dict[Any, Callable[[Any, Tensor], int]] = {
    aten.convolution: _convolution,
    torch.ops.torchvision.deform_conv2d: _deformable_convolution,
    aten.mm: _product,
    aten.bmm: _product,
    aten.addmm: _product_and_sum,
    aten.baddbmm: _product_and_sum,
    aten._scaled_dot_product_flash_attention: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_efficient_attention: _attention,
    torch.ops.mask2former.ms_deform_attn: _deformable_attention,
    aten.native_layer_norm: _norm(2),
    aten.native_group_norm: _norm(1),
    aten.upsample_bilinear2d: _per_output(4),
    aten.upsample_nearest2d: _per_output(1),
    aten.grid_sampler_2d: _per_output(4),
    aten._adaptive_avg_pool2d: lambda args, out: args[0].numel(),
}
_PRODUCTS = (
    aten.convolution, aten.mm, aten.bmm, aten.addmm, aten.baddbmm,
    torch.ops.torchvision.deform_conv2d,
)  # fmt: skip
_NAMES = {
    aten.mm: "linear",
    aten.addmm: "linear",
    aten.bmm: "matmul, attention",
    aten.baddbmm: "matmul, attention",
    aten._scaled_dot_product_flash_attention: "matmul, attention",
    aten._scaled_dot_product_flash_attention_for_cpu: "matmul, attention",
    aten._scaled_dot_product_efficient_attention: "matmul, attention",
    torch.ops.mask2former.ms_deform_attn: "deformable attention",
    torch.ops.torchvision.deform_conv2d: "deformable convolution",
    aten.native_layer_norm: "layer norm",
    aten.native_group_norm: "group norm",
    aten.upsample_bilinear2d: "resizing",
    aten.upsample_nearest2d: "resizing",
}
# Counted as 0 besides elementwise arithmetic: operators that only create, move, reduce, normalise
# or compare elements.
_FREE = frozenset((
    "_native_batch_norm_legit_no_training", "native_batch_norm", "_softmax", "_safe_softmax",
    "all", "amax", "amin", "any", "argmax", "cumsum", "max", "mean", "min", "sum",
    "avg_pool2d", "max_pool2d_with_indices", "native_dropout",
    "_to_copy", "_unsafe_view", "cat", "clone", "constant_pad_nd", "copy", "fill", "index",
    "index_copy", "index_put", "index_select", "masked_fill", "repeat", "repeat_interleave", "roll",
    "scatter", "select_scatter", "slice_scatter", "stack", "tril", "triu",
))  # fmt: skip
_MAKERS = ("new_", "empty", "full", "ones", "zeros")


def _is_free(func: Any, args: tuple[Any, ...]) -> bool:
    if func.is_view or torch.Tag.pointwise in func.tags:
        return True
    makes = not any(isinstance(x, Tensor) for x in pytree.tree_leaves(args))
    name = func._overloadpacket.__name__
    return makes or name.removesuffix("_") in _FREE or name.startswith(_MAKERS)
