"""The step that ended a run: kept on the disk, so that it can be computed again.

The files hold tensors and plain data only, and are read without running code.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mask2former_runtime.files import write_atomically

from ..data.metadata import METADATA_FILE
from ..modeling.targets import packed_gt_masks
from ..structures import PackedMasks
from .train_loop import TrainLoop

FOLDER, STEP_FILE, CONFIG_FILE = "bad_batch", "step.pth", "config.yaml"
_FORMAT = 1

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BadStep:
    """What one training step depends on.

    Attributes:
        error: why it ended the run.
        iteration: its number, from 0.
        seed: of the run.
        rank: number of the process.
        processes: how many took part. Each had images of its own.
        threads: of each process; the order of sums depends on it.
        scale: of the gradients, in float16.
        weights: of the model before the step.
        batches: samples of the mapper, as far as the step came.
    """

    error: str
    iteration: int
    seed: int
    rank: int
    processes: int
    threads: int
    scale: float
    weights: dict[str, Tensor]
    batches: list[list[dict[str, Any]]]


def keep_step(loop: TrainLoop, cfg: CfgNode, error: FloatingPointError) -> None:
    """Write the present step of a loop to ``OUTPUT_DIR/bad_batch``, and log how to replay it.

    In several processes, each that finds an error writes a folder of its own. What goes wrong
    while writing is logged: it does not hide the error.
    """
    rank = comm.get_rank()
    folder = Path(cfg.OUTPUT_DIR, FOLDER + (f"_rank{rank}" if rank else ""))
    wrapped = isinstance(loop.model, DistributedDataParallel)
    model: nn.Module = loop.model.module if wrapped else loop.model
    step = {
        "format": _FORMAT,
        "error": str(error),
        "iteration": loop.iter,
        "seed": loop.seed,
        "rank": rank,
        "processes": comm.get_world_size(),
        "threads": torch.get_num_threads(),
        "scale": loop.grad_scaler.get_scale(),
        "weights": dict(model.state_dict()),
        "batches": [[_as_plain(sample) for sample in batch] for batch in loop.batches],
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / STEP_FILE, lambda file: torch.save(step, file))
        text = cfg.dump().encode()
        write_atomically(folder / CONFIG_FILE, lambda file: file.write(text))
        with contextlib.suppress(FileNotFoundError):  # a run from Python does not have it
            shutil.copy(Path(cfg.OUTPUT_DIR, METADATA_FILE), folder)
    except (OSError, RuntimeError) as reason:
        logger.warning("The step could not be kept in %s: %s", folder, reason)
        return
    logger.error(
        "The images and weights of this step are in %s. To see where numbers are lost: "
        "python -m mask2former.cli.replay %s",
        folder, folder,
    )  # fmt: skip


def read_step(folder: Path) -> BadStep:
    """Read what `keep_step` has written.

    Raises:
        ValueError: the folder holds no such step, or the file is damaged.
    """
    path = folder / STEP_FILE
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give the folder {FOLDER} of a run")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content.pop("format") != _FORMAT:
            raise ValueError("it is of another version of mask2former")
        batches = [[_as_sample(plain) for plain in batch] for batch in content.pop("batches")]
        return BadStep(**content, batches=batches)
    except Exception as error:  # damaged files make the readers raise any kind
        reason = str(error).partition("\n")[0][:300] or type(error).__name__
        raise ValueError(f"{path} cannot be read: {reason}") from error


def _as_plain(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sample without objects; what the model does not read is left out."""
    plain: dict[str, Any] = {
        k: v for k, v in sample.items() if isinstance(v, Tensor | str | int | float | bool)
    }
    if "instances" in sample:
        instances = sample["instances"]
        masks = packed_gt_masks(instances, torch.device("cpu"))
        plain["instances"] = {
            "size": tuple(map(int, instances.image_size)),
            "labels": instances.gt_classes,
            "planes": masks.planes,
            "masks_size": masks.image_size,
        }
    return plain


def _as_sample(plain: Mapping[str, Any]) -> dict[str, Any]:
    sample = dict(plain)
    if "instances" in sample:
        part = sample["instances"]
        masks = PackedMasks(part["planes"], len(part["labels"]), part["masks_size"])
        sample["instances"] = Instances(part["size"], gt_classes=part["labels"], gt_masks=masks)
    return sample
