"""Build the loaders of training and test images.

The training stream depends only on the seed and on the position in the stream. So a resumed run
continues with exactly the images, crops and flips that the uninterrupted run would have had. This
holds for any number of workers and, for the global batch, for any number of processes.
"""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, build_detection_test_loader
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from ..utils.workers import SignalSafeLoader
from .bad_images import SkipBadImages, TrainLoader, hand_over
from .errors import DatasetError
from .mapper import build_mapper, get_preset
from .mapper.copy_paste import CopyPaste
from .repeat_factors import draw_epoch, epoch_length, image_classes, log_factors, repeat_factors
from .training_set import load_training_set

# Independent random streams from one seed: the order of an epoch, the augmentation of a sample.
_EPOCH_STREAM = 0
_SAMPLE_STREAM = 1


def _generator(seed: int, stream: int, number: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, number)))


class ResumableSampler(Sampler[tuple[int, int]]):
    """An endless stream of (dataset index, seed of the sample), readable from any position.

    Each epoch is a permutation of the data set, or what `draw_epoch` draws. Process `rank` gets the
    positions ``start + rank, start + rank + world_size, ...``.

    Args:
        size: number of elements of the data set, at least 1.
        seed: non-negative; the same in all processes.
        start: samples that all processes together have already consumed.
        rank: index of this process, by default Detectron2's.
        world_size: number of processes, by default Detectron2's.
        repeats: (size,) how often an epoch has each element, at least 1; None for once.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        *,
        start: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        repeats: np.ndarray | None = None,
    ):
        if size < 1:
            raise ValueError("The data set is empty.")
        if seed < 0 or start < 0:
            raise ValueError(f"seed ({seed}) and start ({start}) must not be negative.")
        self.size = size
        self.seed = seed
        self.start = start
        self.rank = comm.get_rank() if rank is None else rank
        self.world_size = comm.get_world_size() if world_size is None else world_size
        self.repeats = repeats

    def __iter__(self) -> Iterator[tuple[int, int]]:
        position = self.start + self.rank
        epoch, order = -1, np.empty(0, dtype=np.int64)
        length = self.size if self.repeats is None else epoch_length(self.repeats)
        while True:
            if position // length != epoch:
                epoch = position // length
                generator = _generator(self.seed, _EPOCH_STREAM, epoch)
                order = (
                    generator.permutation(self.size)
                    if self.repeats is None
                    else draw_epoch(self.repeats, generator)
                )
            sample_seed = _generator(self.seed, _SAMPLE_STREAM, position).integers(1 << 63)
            yield int(order[position % length]), int(sample_seed)
            position += self.world_size


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's CPU generators within the block; restore them after it."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    torch_state = torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed % (1 << 32))  # noqa: NPY002  Detectron2's augmentations draw from it
        # Unlike torch.manual_seed this leaves the generators of the GPUs alone.
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(torch_state)


class SeededMapDataset(Dataset[Any]):
    """A data set that maps each element under a seed that comes with the index.

    Args:
        dataset: a list or map-style data set of what `mapper` takes.
        mapper: may draw from the global generators, and return None to skip an element.
        repeats: see `ResumableSampler`.
        paste: changes the samples; see `CopyPaste`.
    """

    _MAX_ATTEMPTS = 100

    def __init__(
        self,
        dataset: Any,
        mapper: Callable[[Any], Any],
        repeats: np.ndarray | None = None,
        paste: CopyPaste | None = None,
    ):
        self.dataset = dataset
        self.mapper = mapper
        self.repeats = repeats
        self.paste = paste

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        """Return the mapped element ``key[0]`` under seed ``key[1]``, and with that ``seed``.

        Where the mapper returns None, other elements are drawn with that seed and tried instead.

        Raises:
            DatasetError: the mapper skipped too many elements in a row.
        """
        index, seed = key
        candidates = np.random.default_rng(seed)
        with seeded(seed):
            for _ in range(self._MAX_ATTEMPTS):
                sample = self.mapper(self.dataset[index])
                if sample is not None:
                    if self.paste is not None:
                        self.paste(sample, functools.partial(self._mapped, used_for=sample))
                    return {**sample, "seed": seed} if isinstance(sample, dict) else sample
                index = int(candidates.integers(len(self.dataset)))
        raise DatasetError(f"The mapper skipped {self._MAX_ATTEMPTS} images in a row.")

    def _mapped(self, index: int, used_for: dict[str, Any]) -> Any:
        other = self.mapper(self.dataset[index])
        if other is not None:
            hand_over(other, used_for)
        return other


def build_train_loader(
    cfg: CfgNode,
    *,
    mapper: Callable[[dict[str, Any]], Any] | None = None,
    seed: int,
    start_iter: int = 0,
) -> DataLoader[Any]:
    """Build the endless loader of the data sets ``DATASETS.TRAIN``.

    With ``DATALOADER.FILTER_EMPTY_ANNOTATIONS``, which is on by default and in the published
    recipes, images whose only objects or panoptic segments are crowds, and images without any, are
    left out: in COCO most of these are unlabelled rather than empty. Set it to False where empty
    images are deliberate negatives. Images that become empty by the crop are always kept, and so
    are all images of semantic data sets.

    Images are not grouped by aspect ratio: all crops of the published training have one shape, and
    grouping would make the batch depend on more than the position.

    Args:
        cfg: the config. An optimiser step takes ``SOLVER.ACCUMULATE_STEPS`` batches.
        mapper: by default the one of `build_mapper`. With your own mapper, the data sets are not
            checked for what it reads, nor for having the same classes.
        seed: seed of the order and of augmentations, the same in all processes.
        start_iter: optimiser steps that are already done.

    Returns:
        A loader of lists of ``SOLVER.IMS_PER_BATCH / number of processes`` mapped samples.

    Raises:
        ValueError: a value in the config is not supported or does not fit; the message names it.
        DatasetError: see `load_training_set`.
    """
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: name a registered data set to train on.")
    world_size = comm.get_world_size()
    batch_size, remainder = divmod(cfg.SOLVER.IMS_PER_BATCH, world_size)
    if remainder or batch_size < 1:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}; it must be a positive multiple "
            f"of the number of processes, {world_size}."
        )
    dataset = build_train_dataset(cfg, mapper)
    images_per_step = cfg.SOLVER.IMS_PER_BATCH * cfg.SOLVER.ACCUMULATE_STEPS
    num_workers = cfg.DATALOADER.NUM_WORKERS
    return TrainLoader(
        dataset,
        batch_size=batch_size,
        sampler=ResumableSampler(
            len(dataset), seed, start=start_iter * images_per_step, repeats=dataset.repeats
        ),
        num_workers=num_workers,
        collate_fn=list,
        persistent_workers=num_workers > 0,
        # The loader draws a seed for its workers. It has its own generator, so that the global
        # one does not depend on how often a run was resumed.
        generator=torch.Generator().manual_seed(seed),
    )


def build_train_dataset(
    cfg: CfgNode, mapper: Callable[[dict[str, Any]], Any] | None = None
) -> SeededMapDataset:
    """Build the samples of training; see `build_train_loader`."""
    dataset: Any = load_training_set(
        cfg.DATASETS.TRAIN,
        get_preset(cfg).targets if mapper is None else None,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
    )
    repeats = _repeats(cfg, dataset)
    if isinstance(dataset, list):
        # One block of bytes, which workers share instead of copying it object by object.
        dataset = DatasetFromList(dataset, copy=False)
    paste = None
    if cfg.INPUT.COPY_PASTE:
        if mapper is not None or get_preset(cfg).targets != "instance":
            raise ValueError(
                "INPUT.COPY_PASTE is for instances: set it to 0, or INPUT.DATASET_MAPPER_NAME to "
                "coco_instance_lsj or mask_former_instance"
            )
        paste = CopyPaste(
            cfg.INPUT.COPY_PASTE, np.ones(len(dataset)) if repeats is None else repeats
        )
    mapper = mapper or build_mapper(cfg, is_train=True)
    if cfg.DATALOADER.BAD_IMAGES == "skip":
        mapper = SkipBadImages(mapper)
    return SeededMapDataset(dataset, mapper, repeats, paste)


def _repeats(cfg: CfgNode, dataset: Any) -> np.ndarray | None:
    """Return the factors of images for ``DATALOADER.SAMPLER_TRAIN``."""
    name, threshold = cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.REPEAT_THRESHOLD
    if name not in ("TrainingSampler", "RepeatFactorTrainingSampler"):
        raise ValueError(
            f"DATALOADER.SAMPLER_TRAIN is {name!r}; this loader resumes exactly and supports only "
            "'TrainingSampler' and 'RepeatFactorTrainingSampler'."
        )
    if (name == "TrainingSampler") != (threshold == 0):
        raise ValueError(
            "DATALOADER.SAMPLER_TRAIN 'RepeatFactorTrainingSampler' and a DATALOADER."
            f"REPEAT_THRESHOLD above 0 need each other; they are {name!r} and {threshold:g}."
        )
    if not threshold:
        return None
    if not cfg.DATALOADER.get("REPEAT_SQRT", True):
        raise ValueError("DATALOADER.REPEAT_SQRT False is not supported: factors are square roots.")
    if not isinstance(dataset, list):
        raise ValueError(f"DATALOADER.SAMPLER_TRAIN {name!r} needs data sets that are lists.")
    factors = repeat_factors([image_classes(record) for record in dataset], threshold)
    log_factors(factors)
    return factors


def build_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader[Any]:
    """Build Detectron2's test loader of one data set with this package's mapper."""
    loader = build_detection_test_loader(
        cfg, dataset_name, mapper=build_mapper(cfg, is_train=False)
    )
    return SignalSafeLoader(
        loader.dataset,
        batch_sampler=loader.batch_sampler,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
    )
