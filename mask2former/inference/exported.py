"""Exported files as models: the network runs in the file's runtime, everything else as always."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.structures import ImageList
from torch import Tensor, nn
from torch.nn import functional as F

from mask2former_runtime.errors import ExportError
from mask2former_runtime.metadata import InputSpec, Metadata
from mask2former_runtime.networks import OUTPUTS, open_network
from mask2former_runtime.preprocessing import fitting_size
from mask2former_runtime.text import one_line

from ..config.defaults import add_maskformer2_config
from ..config.merge import merge_file, merge_overrides
from ..config.validate import validate
from ..modeling.meta_arch import MaskFormer
from ..modeling.meta_arch.mask_former import inference_arguments
from ..utils.size import Size
from .predictor import Predictor

SUFFIXES = (".onnx", ".xml", ".pt2")
METADATA_FILE = "mask2former.json"
"""In a ``.pt2`` file, among the extra files."""
LEAST_UNITS = 2
"""Least height and width of what is traced, in units of the size divisibility: a map of one pixel
is a case of its own, which a program of PyTorch excludes."""

Run = Callable[[Tensor], Sequence[Tensor]]

# Keys of the config, or the beginnings of keys, that the file fixes, but for those after them.
_FIXED = ("INPUT.FORMAT", "MODEL.")
_OPEN = ("MODEL.DEVICE", "MODEL.MASK_FORMER.TEST.", "MODEL.WEIGHTS")


class ExportedNetwork(nn.Module):
    """Runs the network of an exported file; takes the place of a model's backbone and head.

    Args:
        run: gives class and mask logits; see `open_exported`.
    """

    def __init__(self, run: Run):
        super().__init__()
        self.run = run

    def forward(self, images: Tensor) -> dict[str, Any]:
        """Return what a model's head returns."""
        logits, masks = self.run(images)
        return {"pred_logits": logits, "pred_masks": masks, "aux_outputs": []}


def open_exported(
    path: Path,
    *,
    outputs: Sequence[str] = OUTPUTS,
    allow_unsafe: bool = False,
    operator_library: str | None = None,
) -> tuple[Metadata, Run]:
    """Open an exported file.

    Args:
        path: a file with one of `SUFFIXES`.
        outputs: names of what the network gives; see `open_network`.
        allow_unsafe: whether a ``.pt2`` file, which can run code, may be loaded.
        operator_library: see `open_network`.

    Returns:
        The metadata, and the network as a function of images (B, C, H, W), normalised and padded.

    Raises:
        ValueError: the file is not an export of this project, or cannot be read.
    """
    if path.suffix == ".pt2":
        return _open_pt2(path, outputs, allow_unsafe)
    network = open_network(path, outputs=outputs, operator_library=operator_library)

    def run(images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(x) for x in network(images.float().cpu().numpy())]

    return network.metadata, run


class ExportedModel(MaskFormer):
    """A model around the network of an exported file.

    Args:
        run: the network; see `open_exported`.
        spec: the input of the network.
        weights_sha256: hash of the weights.
        options: further arguments of `MaskFormer`.
    """

    def __init__(self, run: Run, spec: InputSpec, *, weights_sha256: str, **options: Any):
        super().__init__(
            backbone=nn.Identity(),
            sem_seg_head=ExportedNetwork(run),
            criterion=None,
            size_divisibility=spec.size_divisibility,
            pixel_mean=list(spec.mean),
            pixel_std=list(spec.std),
            **options,
        )
        self.spec, self.weights_sha256 = spec, weights_sha256

    def _batch(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Return the images, padded to the size that the file takes."""
        batch = super()._batch(batched_inputs)
        _, _, height, width = batch.tensor.shape
        right, below = (self.spec.width or width) - width, (self.spec.height or height) - height
        if right < 0 or below < 0:
            raise ExportError(
                f"the file takes images of up to {self.spec.height} x {self.spec.width} pixels, "
                f"and one has {height} x {width}: set INPUT.MIN_SIZE_TEST and INPUT.MAX_SIZE_TEST"
            )
        missing = max(0, (self.spec.batch or 0) - len(batch.tensor))
        padded = F.pad(batch.tensor, (0, right, 0, below, 0, 0, 0, missing))
        return ImageList(padded, batch.image_sizes)

    def _outputs(self, batched_inputs: list[dict[str, Any]]) -> tuple[dict[str, Any], ImageList]:
        outputs, batch = super()._outputs(batched_inputs)
        number = len(batched_inputs)  # the rest of a batch of a fixed number is empty
        queries = {key: outputs[key][:number] for key in ("pred_logits", "pred_masks")}
        return {**outputs, **queries}, batch


class ExportedPredictor(Predictor):
    """Resizes an image to what fits into the size that an exported file takes.

    Args:
        model: the model.
        spec: the input of the network.
        options: further arguments of `Predictor`.
    """

    def __init__(self, model: ExportedModel, spec: InputSpec, **options: Any):
        super().__init__(model, image_format=spec.channel_order, channels=len(spec.mean), **options)
        self.spec = replace(spec, min_size=self.min_size, max_size=self.max_size)

    def network_size(self, height: int, width: int) -> Size:
        """Return the size to which the model sees an image of this size resized."""
        return fitting_size(height, width, self.spec)


@dataclass(frozen=True)
class ExportedFile:
    """An exported file whose network is ready to run.

    Attributes:
        path: the file.
        metadata: what it says of the model.
        run: its network; see `open_exported`.
    """

    path: Path
    metadata: Metadata
    run: Run

    @classmethod
    def open(cls, path: Path, *, allow_unsafe: bool = False) -> ExportedFile:
        """Open a file; see `open_exported`."""
        return cls(path, *open_exported(path, allow_unsafe=allow_unsafe))

    def config(self, overrides: Sequence[object] = ()) -> CfgNode:
        """Return the config of the model.

        Args:
            overrides: ``[key, value, ...]``, of keys that do not concern the network.

        Raises:
            ValueError: the file has none, it does not fit this version, or a key concerns the
                network.
        """
        return _config(self.metadata, self.path, overrides)

    def model(self, cfg: CfgNode) -> ExportedModel:
        """Return the model for what a config of `config` switches on."""
        return ExportedModel(
            self.run,
            self.metadata.input,
            weights_sha256=self.metadata.weights_sha256,
            thing_classes=self.metadata.classes.things,
            **inference_arguments(cfg),
        )

    def predictor(self, cfg: CfgNode) -> Predictor:
        """Return a predictor; see `model`."""
        return ExportedPredictor(
            self.model(cfg),
            self.metadata.input,
            min_size=cfg.INPUT.MIN_SIZE_TEST,
            max_size=cfg.INPUT.MAX_SIZE_TEST,
        )


def is_exported(path: str) -> bool:
    """Tell by the suffix of a path whether it is that of an exported file."""
    return Path(path).suffix in SUFFIXES


def _config(metadata: Metadata, path: Path, overrides: Sequence[object]) -> CfgNode:
    cfg = get_cfg()
    add_maskformer2_config(cfg)
    if metadata.config is None:
        raise ExportError(
            f"{path} does not hold its model's config: mask2former_runtime can use it"
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.yaml")
        file.write_text(metadata.config)
        try:
            merge_file(cfg, str(file))
        except ValueError as error:
            reason = str(error).replace(str(file), "its config")
            raise ExportError(f"{path} cannot be used: {one_line(reason, 400)}") from error
    cfg.MODEL.DEVICE = "cpu"
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        if str(key).startswith(_FIXED) and not str(key).startswith(_OPEN):
            raise ValueError(
                f"{key} concerns the network, which {path} fixes: change it and export again"
            )
        if key == "MODEL.DEVICE" and value != "cpu":
            raise ValueError(f"{path} runs on the CPU, not on {value}")
    merge_overrides(cfg, overrides)
    validate(cfg)
    return cfg


def _open_pt2(path: Path, outputs: Sequence[str], allow_unsafe: bool) -> tuple[Metadata, Run]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            ours = [name for name in names if name.endswith(f"/extra/{METADATA_FILE}")]
            text = archive.read(ours[0]).decode() if ours else None
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise ExportError(f"{path} is not a .pt2 file that can be read: {error}") from error
    metadata = Metadata.from_text(text, str(path))
    if metadata.outputs != "queries" and outputs == OUTPUTS:
        raise ExportError(
            f"{path} was exported with its post-processing, for other programs: export it without"
        )
    if not allow_unsafe:
        raise ExportError(
            f"{path}: loading a .pt2 file can run code that is in it: if you trust where it comes "
            "from, add --allow-unsafe-weights (in Python: allow_unsafe_weights=True)"
        )
    try:
        if any("/aotinductor/" in name for name in names):
            program: Run = torch._inductor.aoti_load_package(str(path))
        else:
            program = torch.export.load(path).module()
    except Exception as error:  # whatever a damaged file leads to
        raise ExportError(
            f"{path} is damaged, or from another version of PyTorch: {one_line(str(error), 300)}"
        ) from error
    least = LEAST_UNITS * metadata.input.size_divisibility

    def run(images: Tensor) -> Sequence[Tensor]:
        if min(images.shape[2:]) < least:
            raise ExportError(
                f"{path} takes images of at least {least} pixels after resizing and padding, not "
                f"{images.shape[2]} x {images.shape[3]}"
            )
        try:
            return program(images)
        except (AssertionError, RuntimeError) as error:  # of the conditions that tracing found
            raise ExportError(
                f"{path} does not take {len(images)} images of {images.shape[2]} x "
                f"{images.shape[3]} pixels after resizing and padding: {one_line(str(error), 300)}"
            ) from error

    return metadata, run
