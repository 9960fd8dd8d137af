"""Networks of exported files: what maps images to logits of classes and masks."""

from __future__ import annotations

import functools
import os
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ExportError
from .files import sha256_of
from .metadata import KEY, Metadata
from .text import one_line, some_of

_ONNX_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .*? failed:)?")
INPUT, OUTPUTS = "images", ("logits", "masks")
WEIGHTS_DIGEST = "mask2former_weights_sha256"
"""A key of OpenVINO's ``rt_info``: the SHA-256 of the BIN file, in hexadecimal."""
LIBRARY_VARIABLE = "MASK2FORMER_OPERATOR_LIBRARY"

# From 1.29 on, onnxruntime tells its vendor from a background thread which models it runs, unless
# this is set before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


class Network(ABC):
    """A network with its metadata.

    Args:
        file: where it comes from.
        outputs: see `open_network`.

    Attributes:
        metadata: what the file says of its model.
    """

    metadata: Metadata

    def __init__(self, file: Path, outputs: Sequence[str]):
        self._file, self._outputs = file, tuple(outputs)

    def __call__(self, images: np.ndarray) -> Sequence[np.ndarray]:
        """Predict.

        Args:
            images: (B, C, H, W) float32, normalised and padded.

        Returns:
            By default class logits (B, Q, K + 1) and mask logits (B, Q, H/4, W/4), float32.

        Raises:
            ExportError: the network cannot take the images, or its outputs are not those.
        """
        found = self._run(images)
        if self._outputs == OUTPUTS:
            _check_queries(self._file, found, len(images), self.metadata)
        return found

    @abstractmethod
    def _run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        """Run the network in its runtime."""


def open_network(
    file: Path,
    *,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    operator_library: str | Path | None = None,
    outputs: Sequence[str] = OUTPUTS,
) -> Network:
    """Open the network of a file; see `load`.

    Args:
        file: see `load`, also for the next three.
        threads: that compute.
        providers: or devices.
        operator_library: a library with operators.
        outputs: names of what the network gives; others than class and mask logits are those of a
            file that was exported with its post-processing.

    Raises:
        ExportError: the file, a package for it, a provider or the library cannot be used.
    """
    kinds: dict[str, Callable[..., Network]] = {".onnx": OnnxNetwork, ".xml": OpenVinoNetwork}
    if file.suffix.lower() not in kinds:
        hint = f": name {file.with_suffix('.xml')}" if file.suffix.lower() == ".bin" else ""
        raise ExportError(f"{file}: exported models end in {' or '.join(kinds)}{hint}")
    if not file.is_file():
        raise ExportError(f"{file}: no such file")
    if threads is not None and threads < 1:
        raise ExportError(f"threads is {threads}: at least 1 is needed")
    library = library_file(operator_library)
    return kinds[file.suffix.lower()](file, threads, providers, library, outputs)


def library_file(given: str | Path | None = None) -> str | None:
    """Return the path of a library with operators, or None if there is none.

    Args:
        given: the file; None is for that in the environment variable `LIBRARY_VARIABLE`.

    Raises:
        ExportError: there is no such file.
    """
    named = given or os.environ.get(LIBRARY_VARIABLE)
    if not named:
        return None
    if not Path(named).is_file():
        raise ExportError(f"operator_library {named}: no such file")
    return str(Path(named).resolve())


class OnnxNetwork(Network):
    """A network in onnxruntime.

    Args:
        file: the ONNX file.
        threads: that compute; None for onnxruntime's choice.
        providers: execution providers, in the order of preference; None for the CPU.
        library: a library of custom operators.
        outputs: see `open_network`.

    Raises:
        ExportError: see `open_network`.
    """

    def __init__(
        self,
        file: Path,
        threads: int | None,
        providers: Sequence[str] | None,
        library: str | None,
        outputs: Sequence[str],
    ):
        try:
            import onnxruntime
        except ImportError as error:
            raise missing_package(file, "onnxruntime", "onnx") from error
        providers = ["CPUExecutionProvider"] if providers is None else list(providers)
        offered = onnxruntime.get_available_providers()
        unknown = [name for name in providers if name not in offered]
        if unknown:
            raise ExportError(
                f"this onnxruntime does not have the provider {some_of(unknown)}, but "
                f"{some_of(offered)}"
            )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what it says is in the exception too
        if threads is not None:
            options.intra_op_num_threads = threads
        super().__init__(file, outputs)
        if library is not None:
            try:
                options.register_custom_ops_library(library)
            except Exception as error:  # its exceptions have no base of their own
                raise _unusable_library(library, error) from error
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=providers)
            text = self._session.get_modelmeta().custom_metadata_map.get(KEY)
        except Exception as error:  # see above
            raise ExportError(_onnx_problem(file, str(error))) from error
        self.metadata = Metadata.from_text(text, str(file))
        _check_names(
            file,
            outputs,
            [tensor.name for tensor in self._session.get_inputs()],
            [tensor.name for tensor in self._session.get_outputs()],
        )

    def _run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        try:
            return self._session.run(list(self._outputs), {INPUT: images})
        except Exception as error:  # see above
            raise _failed(self._file, error) from error


class OpenVinoNetwork(Network):
    """A network in OpenVINO; it may be called from several threads, one after the other.

    Args:
        file: the XML file; the BIN file is beside it.
        threads: that compute; None for OpenVINO's choice.
        providers: one of OpenVINO's devices, such as "GPU"; None for the CPU.
        library: an extension with custom operators.
        outputs: see `open_network`.

    Raises:
        ExportError: see `open_network`.
    """

    def __init__(
        self,
        file: Path,
        threads: int | None,
        providers: Sequence[str] | None,
        library: str | None,
        outputs: Sequence[str],
    ):
        try:
            import openvino  # noqa: F401
        except ImportError as error:
            raise missing_package(file, "openvino", "openvino") from error
        weights = file.with_suffix(".bin")
        if not weights.is_file():
            raise ExportError(f"{weights}, which belongs to {file}, is missing")
        super().__init__(file, outputs)
        self._lock = threading.Lock()
        with file.open("rb") as opened:
            if b"<net" not in opened.read(4096):  # OpenVINO would try its readers of other formats
                raise ExportError(f"{file} is not an OpenVINO model, or it is damaged")
        try:
            core = openvino_core(library)
        except RuntimeError as error:
            if library is None:
                raise
            raise _unusable_library(library, error) from error
        try:
            model = core.read_model(str(file))
        except RuntimeError as error:
            raise ExportError(_openvino_problem(file, str(error))) from error
        text, digest = (
            str(model.get_rt_info([key]).value) if model.has_rt_info([key]) else None
            for key in (KEY, WEIGHTS_DIGEST)
        )
        self.metadata = Metadata.from_text(text, str(file))
        if digest is not None and digest != sha256_of(weights):
            raise ExportError(
                f"{weights} differs from the file that was exported with {file}: it is damaged, of "
                "another model, or saved again by another program. Copy both files again, or "
                f"remove {WEIGHTS_DIGEST} from {file}"
            )
        _check_names(
            file,
            outputs,
            [name for tensor in model.inputs for name in tensor.get_names()],
            [name for tensor in model.outputs for name in tensor.get_names()],
        )
        # By default, processors with bfloat16 compute everything with it. Files of "fp16" only
        # store their weights as float16.
        precision = "bf16" if self.metadata.precision == "bf16" else "f32"
        config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision}
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        device = "CPU" if providers is None else ",".join(providers)
        try:
            self._compiled = core.compile_model(model, device, config)
            self._request = self._compiled.create_infer_request()
        except RuntimeError as error:
            raise ExportError(_openvino_problem(file, str(error))) from error

    def _run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        try:
            with self._lock:
                # Not infer(), which loses the errors of custom operators in OpenVINO 2026.4.
                self._request.start_async({INPUT: images}, share_inputs=True)
                self._request.wait()
                return [self._request.get_tensor(name).data.copy() for name in self._outputs]
        except RuntimeError as error:
            raise _failed(self._file, error) from error


@functools.cache
def openvino_core(library: str | None = None) -> Any:
    """Return the ``Core`` of OpenVINO, which lasts as long as the process.

    With its first model, a core gives the thread another stack for handlers of signals, and takes
    it back when it ends. Of two cores that end in the order in which they began, the second brings
    back the stack of the first, which is gone (OpenVINO 2026.4): the next Ctrl-C, or the end of a
    child process that somebody waits for, is a segmentation fault.

    Args:
        library: an extension with custom operators.

    Raises:
        ImportError: OpenVINO is not installed.
        RuntimeError: the library cannot be used.
    """
    import openvino

    core = openvino.Core()
    if library is not None:
        core.add_extension(library)
    return core


def missing_package(file: Path, package: str, extra: str) -> ExportError:
    """Return the error about a package that a file needs."""
    return ExportError(f'{file} needs {package}: pip install "mask2former-runtime[{extra}]"')


def _unusable_library(library: str, error: Exception) -> ExportError:
    lines = [line for line in str(error).splitlines() if not line.startswith("Exception from")]
    reason = _ONNX_PREFIX.sub("", " ".join(lines))
    return ExportError(f"operator_library {library} cannot be loaded: {one_line(reason, 400)}")


def _check_names(
    file: Path, wanted: Sequence[str], inputs: Sequence[str], outputs: Sequence[str]
) -> None:
    if INPUT not in inputs or not set(wanted) <= set(outputs):
        raise ExportError(
            f"{file} has the inputs {some_of(inputs)} and the outputs {some_of(outputs)}, and not "
            f"{INPUT} and {', '.join(wanted)}: export it without post-processing"
        )


def _onnx_problem(file: Path, text: str) -> str:
    """Return in words why onnxruntime does not open a file."""
    reason = _ONNX_PREFIX.sub("", text)
    if "Protobuf parsing failed" in reason or "No graph was found" in reason:
        return f"{file} is not an ONNX file, or it is damaged or cut off"
    if "not a registered function" in reason or "No Op registered" in reason:
        return (
            f"{file} needs operators that are missing: give their library as operator_library or "
            f"in {LIBRARY_VARIABLE}, or upgrade onnxruntime ({one_line(reason, 300)})"
        )
    return f"{file}: onnxruntime cannot open it: {one_line(reason, 400)}"


def _openvino_problem(file: Path, text: str) -> str:
    """Return in words why OpenVINO does not open a file."""
    lines = [line for line in text.splitlines() if line and not line.startswith("Exception from")]
    reason = one_line(" ".join(lines) or text, 400)
    if "doesn't contain the operation" in reason or "Cannot create" in reason:
        return (
            f"{file} needs operators that are missing: give their library as operator_library or "
            f"in {LIBRARY_VARIABLE}, or upgrade openvino ({reason})"
        )
    if "parsing" in reason:
        return f"{file} is damaged or cut off ({reason})"
    if "weights in bin file" in reason:
        return f"{file.with_suffix('.bin')} is damaged or cut off, or belongs to another model"
    return f"{file}: OpenVINO cannot open it: {reason}"


def _check_queries(file: Path, found: Sequence[np.ndarray], batch: int, metadata: Metadata) -> None:
    """Check that the outputs of a network are those of queries; see `Network`.

    Raises:
        ExportError: they are not, are not numbers, or have other classes than the metadata.
    """
    logits, masks = found
    shapes = logits.shape, masks.shape
    if (
        (logits.ndim, masks.ndim) != (3, 4)
        or not all(np.issubdtype(x.dtype, np.floating) for x in (logits, masks))
        or not shapes[0][:2] == shapes[1][:2]
        or shapes[0][0] != batch
        or 0 in shapes[1]
    ):
        raise ExportError(
            f"{file}: the network gives logits {shapes[0]} and masks {shapes[1]} for a batch of "
            f"{batch}, which are not those of queries: it is damaged, or of another program"
        )
    if logits.shape[2] != len(metadata.classes) + 1:
        raise ExportError(
            f"{file}: the network has {logits.shape[2] - 1} classes, and its metadata name "
            f"{len(metadata.classes)}: export the model again"
        )
    with np.errstate(invalid="ignore", over="ignore"):
        sums = [x.sum(dtype=np.float32) for x in (logits, masks)]
    if not np.isfinite(sums).all():
        raise ExportError(f"{file}: the network gives NaN or infinity: it is damaged")


def _failed(file: Path, error: Exception) -> ExportError:
    return ExportError(f"{file}: the network failed: {one_line(str(error), 400)}")
