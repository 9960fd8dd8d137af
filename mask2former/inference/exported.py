"""Exported files as models: the network runs in the file's runtime, everything else as always."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from torch import Tensor, nn

from mask2former_runtime.errors import ExportError
from mask2former_runtime.metadata import Metadata
from mask2former_runtime.networks import OUTPUTS, open_network
from mask2former_runtime.text import one_line

from ..config.defaults import add_maskformer2_config
from ..config.merge import merge_file, merge_overrides
from ..config.validate import validate
from ..modeling.meta_arch import MaskFormer
from ..structures import Classes
from .predictor import Predictor

SUFFIXES = (".onnx", ".xml", ".pt2")
METADATA_FILE = "mask2former.json"
"""In a ``.pt2`` file, among the extra files."""
LEAST_UNITS = 2
"""Least height and width of what is traced, in units of the size divisibility: a map of one pixel
is a case of its own, which a program of PyTorch excludes."""

Run = Callable[[Tensor], Sequence[Tensor]]

# Keys of the config, or the beginnings of keys, that can differ from those of the export.
_CHANGEABLE = (
    "INPUT.MAX_SIZE_TEST",
    "INPUT.MIN_SIZE_TEST",
    "MODEL.DEVICE",
    "MODEL.MASK_FORMER.TEST.",
    "TEST.",
)


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
    path: Path, *, outputs: Sequence[str] = OUTPUTS, allow_unsafe: bool = False
) -> tuple[Metadata, Run]:
    """Open an exported file.

    Args:
        path: a file with one of `SUFFIXES`.
        outputs: names of what the network gives; see `open_network`.
        allow_unsafe: whether a ``.pt2`` file, which can run code, may be loaded.

    Returns:
        The metadata, and the network as a function of images (B, 3, H, W), normalised and padded.

    Raises:
        ValueError: the file is not an export of this project, or cannot be read.
    """
    if path.suffix == ".pt2":
        return _open_pt2(path, outputs, allow_unsafe)
    network = open_network(path, outputs=outputs)

    def run(images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(x) for x in network(images.float().cpu().numpy())]

    return network.metadata, run


def build_exported(
    path: Path, overrides: Sequence[object] = (), *, allow_unsafe: bool = False
) -> tuple[CfgNode, Classes, str, Predictor]:
    """Build a model around the network of an exported file.

    Args:
        path: a file with one of `SUFFIXES`.
        overrides: ``[key, value, ...]`` of the config, of keys that do not concern the network.
        allow_unsafe: see `open_exported`.

    Returns:
        The config, the classes, the task that the file is for, and the predictor.

    Raises:
        ValueError: see `open_exported`; or a key concerns the network.
    """
    metadata, run = open_exported(path, allow_unsafe=allow_unsafe)
    cfg = _config(metadata, path, overrides)
    classes = metadata.classes
    test = cfg.MODEL.MASK_FORMER.TEST
    model = MaskFormer(
        backbone=nn.Identity(),
        sem_seg_head=ExportedNetwork(run),
        criterion=None,
        size_divisibility=metadata.input.size_divisibility,
        pixel_mean=list(metadata.input.mean),
        pixel_std=list(metadata.input.std),
        max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
        object_mask_threshold=test.OBJECT_MASK_THRESHOLD,
        overlap_threshold=test.OVERLAP_THRESHOLD,
        thing_classes=classes.things,
    )
    predictor = Predictor(
        model,
        min_size=cfg.INPUT.MIN_SIZE_TEST,
        max_size=cfg.INPUT.MAX_SIZE_TEST,
        image_format=metadata.input.channel_order,
    )
    return cfg, classes, metadata.task, predictor


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
        if not str(key).startswith(_CHANGEABLE):
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
    if any("/aotinductor/" in name for name in names):
        program: Run = torch._inductor.aoti_load_package(str(path))
    else:
        program = torch.export.load(path).module()
    least = LEAST_UNITS * metadata.input.size_divisibility

    def run(images: Tensor) -> Sequence[Tensor]:
        if min(images.shape[2:]) < least:
            raise ExportError(
                f"{path} takes images of at least {least} pixels after resizing and padding, not "
                f"{images.shape[2]} x {images.shape[3]}"
            )
        return program(images)

    return metadata, run
