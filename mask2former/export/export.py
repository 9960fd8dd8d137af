"""Writing a model in the format of another runtime, and checking the file."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mask2former_runtime.errors import ExportError
from mask2former_runtime.files import moved_at_the_end
from mask2former_runtime.metadata import InputSpec, Metadata
from mask2former_runtime.networks import LIBRARY_VARIABLE, OUTPUTS, library_file

from ..data.preparation.synthetic_scenes import draw_scene
from ..inference.exported import open_exported
from ..inference.segmenters import LoadedModel
from ..modeling.meta_arch import MaskFormer
from ..modeling.ops.runtime_libraries import build_libraries, library_name
from . import onnx_model, openvino_model, torch_programs
from .check import Comparison, batches, compare, tolerance
from .metadata import describe
from .program import ALL_OPEN, Fixed, Network, trace
from .results import OUTPUTS as RESULTS
from .results import WithResults

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2", "aoti": ".pt2"}
PRECISIONS = {
    "onnx": ("fp32", "fp16", "int8"),
    "openvino": ("fp32", "fp16", "bf16"),
    "pt2": ("fp32", "bf16"),
    "aoti": ("fp32", "bf16"),
}
OPERATORS = ("gather", "grid_sample", "plugin")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to export.

    Attributes:
        format: "onnx", "openvino", "pt2" (``torch.export``) or "aoti" (compiled ahead of time).
        precision: one of `PRECISIONS` of the format.
        operator: how deformable attention is computed: "gather", "grid_sample" or "plugin", a node
            of its own; None is for "plugin" in PyTorch's formats and "gather" in others.
        opset: version of ONNX's operators; None is for the lowest that `operator` needs.
        fixed: the dimensions of the input that are not open.
        license: of the weights, to be written into the file.
        with_postprocessing: whether the outputs are results (see `results.OUTPUTS`) instead of
            logits of queries.

    Raises:
        ValueError: the options do not go together.
    """

    format: str
    precision: str = "fp32"
    operator: str | None = None
    opset: int | None = None
    fixed: Fixed = ALL_OPEN
    license: str | None = None
    with_postprocessing: bool = False

    def __post_init__(self) -> None:
        if self.format not in SUFFIXES:
            raise ValueError(f"there is no format {self.format!r}: choose {', '.join(SUFFIXES)}")
        if self.precision not in PRECISIONS[self.format]:
            raise ValueError(
                f"{self.format} files can be {', '.join(PRECISIONS[self.format])}, not "
                f"{self.precision}"
            )
        operator = self.operator or ("gather" if self.translated else "plugin")
        if operator not in OPERATORS:
            raise ValueError(f"there is no operator {operator!r}: choose {', '.join(OPERATORS)}")
        least = onnx_model.OPSETS[operator]
        if self.opset is not None and self.opset < least:
            raise ValueError(f"the operator {operator} needs opset {least}, not {self.opset}")
        object.__setattr__(self, "operator", operator)
        object.__setattr__(self, "opset", self.opset or least)

    @property
    def translated(self) -> bool:
        """Whether the format is not one of PyTorch's."""
        return self.format in ("onnx", "openvino")


def export_model(
    model: LoadedModel,
    path: Path,
    options: Options,
    *,
    pictures: Sequence[np.ndarray] = (),
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> list[Comparison]:
    """Write a model to a file, and compare the file with the model.

    Nothing is left under the final name unless the file passes.

    Args:
        model: what to export.
        path: the file; its suffix is that of the format.
        options: how.
        pictures: (H, W, 3) uint8, BGR, or (H, W, C) float32 for a model of images as they are
            stored, on which the two are compared; by default drawn ones, or noise.
        overwrite: replace an existing file.
        say: takes lines that tell how far it is.

    Returns:
        A comparison per batch.

    Raises:
        ValueError: the model cannot be exported, a package is missing, or the file differs from
            the model by more than its precision allows.
    """
    if path.suffix != SUFFIXES[options.format]:
        raise ValueError(
            f"{path}: a file of the format {options.format} ends in {SUFFIXES[options.format]}"
        )
    files = [path, *([path.with_suffix(".bin")] if options.format == "openvino" else [])]
    existing = [str(file) for file in files if file.exists()]
    if existing and not overwrite:
        raise ValueError(f"{existing[0]} exists: add --overwrite (in Python: overwrite=True)")
    network = _network(model, options)
    names = RESULTS[model.task] if options.with_postprocessing else OUTPUTS
    metadata = describe(
        model,
        fixed=options.fixed,
        precision=options.precision,
        operator=str(options.operator),
        license=options.license,
        outputs="results" if options.with_postprocessing else "queries",
    )
    if options.translated:
        _require("onnx", "onnx", "onnxruntime", "onnxscript")
    if options.format == "openvino":
        _require("openvino", "openvino")
    unit = metadata.input.size_divisibility
    for name, length in (("height", options.fixed.height), ("width", options.fixed.width)):
        if length is not None and (length < unit or length % unit):
            raise ValueError(f"{name} {length}: this model takes multiples of {unit} pixels")
    say("tracing the network")
    program = trace(
        network,
        channels=len(metadata.input.mean),
        size_divisibility=unit,
        fixed=options.fixed,
        operator="node"
        if options.translated and options.operator == "plugin"
        else str(options.operator),
    )
    with moved_at_the_end(path.parent) as folder:
        file = folder / path.name
        library = _library(folder, options, say)
        say(f"writing {options.format}")
        _write(program, metadata, file, options, names, library)
        del program
        say("comparing the file with the model")
        _, run = open_exported(file, outputs=names, allow_unsafe=True, operator_library=library)
        shown = pictures or [_drawn(seed, metadata.input) for seed in range(3)]
        try:
            comparisons = [
                compare(network, run, images, names) for images in batches(shown, metadata.input)
            ]
        except ExportError as error:
            raise ValueError(
                f"{path} was not written: {error}. If the network computes with a size as a "
                "number, a file can only be for one size: --dynamic none --size HEIGHT WIDTH"
            ) from error
        del run
        for comparison in comparisons:
            say(str(comparison))
        if not all(c.passes(options.precision) for c in comparisons):
            raise ValueError(
                f"{path} was not written: the file differs from the model by more than "
                f"{options.precision} allows ({tolerance(options.precision)})"
            )
    return comparisons


def format_of(path: Path) -> str:
    """Return the format that the suffix of a file means.

    Raises:
        ValueError: it means none.
    """
    for name, suffix in SUFFIXES.items():
        if path.suffix == suffix:
            return name
    raise ValueError(f"{path}: exported files end in {', '.join(sorted(set(SUFFIXES.values())))}")


def fixed_sizes(dynamic: Sequence[str], size: tuple[int, int] | None) -> Fixed:
    """Return which dimensions are fixed: a batch that is not open is one image.

    Args:
        dynamic: what is open, of "batch" and "size".
        size: (height, width) if it is not open.

    Raises:
        ValueError: `dynamic` names something else, or does not fit `size`.
    """
    unknown = set(dynamic) - {"batch", "size"}
    if unknown:
        raise ValueError(f"--dynamic takes batch, size or none, not {', '.join(sorted(unknown))}")
    if ("size" in dynamic) != (size is None):
        raise ValueError(
            "--size is for a size that is not open: give both --size H W and --dynamic batch or "
            "none, or neither"
        )
    height, width = size or (None, None)
    return Fixed(None if "batch" in dynamic else 1, height, width)


def _require(extra: str, *packages: str) -> None:
    try:
        for package in packages:
            importlib.import_module(package)
    except ImportError as error:
        raise ValueError(
            f'this format needs {error.name}: pip install "mask2former[{extra}]"'
        ) from error


def _network(model: LoadedModel, options: Options) -> nn.Module:
    maskformer = model.predictor.model
    if not isinstance(maskformer, MaskFormer):
        raise ValueError(
            f"a {model.cfg.MODEL.META_ARCHITECTURE} cannot be exported: only models that predict "
            "queries, with MODEL.META_ARCHITECTURE MaskFormer, can"
        )
    if any(p.device.type != "cpu" for p in maskformer.parameters()):
        maskformer = copy.deepcopy(maskformer).cpu()
    # OpenVINO has an option for bfloat16.
    mixed = options.precision == "bf16" and not options.translated
    network: nn.Module = Network(maskformer, torch.bfloat16 if mixed else None)
    if options.with_postprocessing:
        network = WithResults(network, maskformer.only(model.task), model.task)
    return network.eval()


def _write(
    program: torch.export.ExportedProgram,
    metadata: Metadata,
    file: Path,
    options: Options,
    names: Sequence[str],
    library: str | None,
) -> None:
    if options.format == "pt2":
        torch_programs.write_pt2(program, metadata, file)
    elif options.format == "aoti":
        torch_programs.write_aoti(program, metadata, file)
    else:
        assert options.opset is not None
        precision = "fp32" if options.format == "openvino" else options.precision
        proto = onnx_model.to_onnx(program, names, opset=options.opset, precision=precision)
        onnx_model.add_metadata(proto, metadata)
        content = proto.SerializeToString()
        del proto
        if options.format == "onnx":
            file.write_bytes(content)
        else:
            openvino_model.write(
                content, metadata, file, precision=options.precision, library=library
            )


def _library(folder: Path, options: Options, say: Callable[[str], None]) -> str | None:
    """Return the library that a file needs, built into the folder unless the user names one."""
    named = library_file()
    if named is not None or not options.translated or options.operator != "plugin":
        return named
    runtime = "onnxruntime" if options.format == "onnx" else options.format
    say(
        f"building {library_name(runtime)}, beside the file: to use the file, name it in "
        f"{LIBRARY_VARIABLE}"
    )
    (built,) = build_libraries([runtime], folder)
    return str(built)


def _drawn(seed: int, spec: InputSpec) -> np.ndarray:
    """Return an image for a model, higher than wide: a drawn picture, or noise of any channels."""
    rng = np.random.default_rng(seed)
    if spec.stored is not None:
        noise = rng.normal(spec.mean, spec.std, (256, 192, spec.stored.channels))
        return noise.astype(np.float32)
    return np.ascontiguousarray(draw_scene(rng, 256).image[:, :192, ::-1])
