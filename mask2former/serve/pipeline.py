"""Images on their way through the model: decoded, predicted in batches, made into answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from ..data.image import ImageReadError, TooManyPixelsError, check_header, decode_image
from ..inference.predictions import Prediction
from ..utils.size import Size
from .errors import RequestError
from .limits import Limits
from .metrics import Metrics
from .model import ServedModel

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Wish:
    """What a request asks of the model.

    Attributes:
        task: "panoptic", "instance" or "semantic".
        threshold: see `ServedModel.segmenter`.
    """

    task: str
    threshold: float | None = None


@dataclass
class _Job:
    wish: Wish
    image: np.ndarray
    network_size: Size
    done: asyncio.Future[Prediction] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def fits(self, other: _Job) -> bool:
        """Whether both can be in one batch."""
        return (self.wish, self.network_size) == (other.wish, other.network_size)


class Pipeline:
    """Runs a model for many requests at once, with bounded memory.

    The model runs in one thread. While it does, other threads decode the next images and make the
    answers to the last ones, so that it never waits for them. Only as many images are decoded as
    that takes; all others wait as files.

    Args:
        model: the model.
        limits: of the server.
        metrics: what to count in.
    """

    def __init__(self, model: ServedModel, limits: Limits, metrics: Metrics):
        self.model = model
        self.limits = limits
        self.metrics = metrics
        self._inside = 0
        self._gate = asyncio.Semaphore(2 * limits.batch + 2)
        self._jobs: deque[_Job] = deque()
        self._arrived = asyncio.Event()
        self._model_thread = ThreadPoolExecutor(1, "model")
        self._helpers = ThreadPoolExecutor(max(2, (os.cpu_count() or 1) // 2), "image")
        self._runner: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to run jobs, in the running event loop."""
        self._runner = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop; no request may be inside any more, unless it has been given up."""
        if self._runner is not None:
            self._runner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._runner
        for threads in (self._model_thread, self._helpers):
            await asyncio.get_running_loop().run_in_executor(None, threads.shutdown)

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Take a place in the queue for a block.

        Raises:
            RequestError: 503, all places are taken.
        """
        if self._inside >= self.limits.queue:
            raise RequestError(
                503, f"busy: {self.limits.queue} requests are waiting already", retry_after=1
            )
        self._inside += 1
        self.metrics.queue.set(self._inside)
        try:
            yield
        finally:
            self._inside -= 1
            self.metrics.queue.set(self._inside)

    async def check(self, content: bytes, name: str) -> None:
        """Refuse what is no image, or an image of too many pixels, by its header.

        Raises:
            RequestError: 413 or 422.
        """
        await self._help(lambda: check_header(content, name=name, most_pixels=self.limits.pixels))

    async def predict(
        self, content: bytes, name: str, wish: Wish, finish: Callable[[Prediction], T]
    ) -> T:
        """Predict on the content of an image file.

        Args:
            content: the bytes of the file.
            name: of the image, for messages.
            wish: what to find.
            finish: makes the answer, in a thread.

        Raises:
            RequestError: the image cannot be used, or the model was busy for too long.
        """
        try:
            await asyncio.wait_for(self._gate.acquire(), self.limits.queue_seconds)
        except asyncio.TimeoutError:
            raise RequestError(
                503,
                f"busy: the model had no time within {self.limits.queue_seconds:g} s",
                retry_after=10,
            ) from None
        try:
            image = await self._help(
                lambda: decode_image(content, name=name, most_pixels=self.limits.pixels)
            )
            size = self.model.network_size(image.shape[0], image.shape[1])
            job = _Job(wish, image, size)
            self._jobs.append(job)
            self._arrived.set()
            prediction = await job.done
            return await self._help(lambda: finish(prediction))
        finally:
            self._gate.release()

    async def _help(self, function: Callable[[], T]) -> T:
        """Call a function in a thread; images that cannot be used become a `RequestError`."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._helpers, function)
        except TooManyPixelsError as error:
            raise RequestError(413, str(error)) from error
        except ImageReadError as error:
            raise RequestError(422, str(error)) from error

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = self._next_batch()
            if not batch:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            start = time.perf_counter()
            try:
                found = await loop.run_in_executor(self._model_thread, self._find, batch)
            except Exception as error:  # of the model: the server goes on with the next batch
                logger.exception("The model failed")
                for job in batch:
                    if not job.done.done():
                        job.done.set_exception(RequestError(500, "the model failed"))
                        job.done.exception()  # nobody need wait for it any more
                del error
                continue
            self.metrics.model_seconds.observe(time.perf_counter() - start)
            self.metrics.batch.observe(len(batch))
            for job, prediction in zip(batch, found, strict=True):
                if not job.done.done():  # its request may have been given up
                    job.done.set_result(prediction)
            del batch, found, job, prediction  # or they stay in memory until the next request

    def _next_batch(self) -> list[_Job]:
        """Take the oldest job, and those that fit to it, out of the queue."""
        batch: list[_Job] = []
        others: deque[_Job] = deque()
        for job in self._jobs:
            if job.done.done():  # given up
                continue
            if len(batch) < self.limits.batch and (not batch or batch[0].fits(job)):
                batch.append(job)
            else:
                others.append(job)
        self._jobs = others
        return batch

    def _find(self, batch: list[_Job]) -> list[Prediction]:
        wish = batch[0].wish
        segmenter = self.model.segmenter(wish.task, wish.threshold)
        return segmenter.find_all([job.image for job in batch])
