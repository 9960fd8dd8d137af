"""What happens in training with an image that cannot be used: the run stops, or goes on without it.

A mapper in a data loading worker cannot speak to the user. So it attaches what it left out to the
next sample, which reaches the main process, and there the loader reports and counts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

from detectron2.utils.events import get_event_storage, has_event_storage

from ..utils.workers import SignalSafeLoader
from .errors import DatasetError

logger = logging.getLogger(__name__)

_KEY = "left_out"
METRIC = "bad_images"


class SkipBadImages:
    """A mapper that returns None for images that cannot be used, instead of stopping the run.

    Args:
        mapper: returns a dict, or raises `DatasetError` for such an image.
    """

    def __init__(self, mapper: Callable[[dict[str, Any]], Any]):
        self.mapper = mapper
        self._left_out: list[tuple[str, str]] = []

    def __call__(self, dataset_dict: dict[str, Any]) -> Any:
        """Map; the sample lists the images left out since the last one."""
        try:
            sample = self.mapper(dataset_dict)
        except DatasetError as error:
            self._left_out.append((str(dataset_dict.get("file_name")), str(error)))
            return None
        if isinstance(sample, dict) and self._left_out:
            sample[_KEY], self._left_out = self._left_out, []
        return sample


def hand_over(other: dict[str, Any], sample: dict[str, Any]) -> None:
    """Move what a sample that reaches no batch says of images left out to one that does."""
    if _KEY in other:
        sample[_KEY] = [*sample.get(_KEY, ()), *other.pop(_KEY)]


class TrainLoader(SignalSafeLoader):
    """A loader of lists of samples, which reports images that cannot be used.

    An error of a worker becomes one line. Images that `SkipBadImages` left out are logged once per
    file, and counted in the metric ``bad_images``, each time that another image took their place.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._count = 0
        self._files: set[str] = set()

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield the batches.

        Raises:
            DatasetError: an image cannot be used.
        """
        try:
            for batch in super().__iter__():
                self._report(batch)
                yield batch
        except DatasetError as error:
            hint = "To train without such images: DATALOADER.BAD_IMAGES skip"
            raise DatasetError(f"{error.reason} {hint}") from None

    def _report(self, batch: list[Any]) -> None:
        for sample in batch:
            for file_name, reason in sample.pop(_KEY, ()) if isinstance(sample, dict) else ():
                self._count += 1
                if file_name not in self._files:
                    self._files.add(file_name)
                    logger.warning("Training goes on without an image: %s", reason)
        if self._count and has_event_storage():
            get_event_storage().put_scalar(METRIC, self._count, smoothing_hint=False)

    def log_total(self) -> None:
        """Log how many images were left out, if any."""
        if self._count:
            logger.warning(
                "%d images could not be used; others took their place %d times",
                len(self._files), self._count,
            )  # fmt: skip
