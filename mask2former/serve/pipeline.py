"""Images on their way through the model: decoded, predicted in batches, made into answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from mask2former_runtime.image import ImageReadError, TooManyPixelsError
from mask2former_runtime.prediction import Prediction
from mask2former_runtime.text import one_line

from ..data.image import check_header, decode_image
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
        self._changed = threading.Condition()  # guards the two around it
        self._is_closing = False
        self._model_thread = threading.Thread(target=self._work, name="model")
        self._helpers = ThreadPoolExecutor(max(2, (os.cpu_count() or 1) // 2), "image")

    def start(self) -> None:
        """Begin to run jobs."""
        self._model_thread.start()

    async def close(self) -> None:
        """Stop; no request may be inside any more, unless it has been given up."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._model_thread.join)
        await loop.run_in_executor(None, self._helpers.shutdown)

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
            with self._changed:
                self._jobs.append(job)
                self._changed.notify()
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

    def _work(self) -> None:
        """Run jobs until the pipeline closes: the thread of the model.

        It takes the next batch itself, without a detour over the event loop, whose thread may be
        busy with other requests.
        """
        while True:
            with self._changed:
                while not self._jobs and not self._is_closing:
                    self._changed.wait()
                if self._is_closing:
                    return
                batch = self._next_batch()
            if batch:
                self._finish(batch)
            del batch  # or its images stay in memory until the next one comes

    def _finish(self, batch: list[_Job]) -> None:
        """Predict, and give each job its prediction or the error."""
        start = time.perf_counter()
        found = self._find(batch)
        self.metrics.model_seconds.observe(time.perf_counter() - start)
        self.metrics.batch.observe(len(batch))
        for job, result in zip(batch, found, strict=True):
            with contextlib.suppress(RuntimeError):  # the event loop has ended
                job.done.get_loop().call_soon_threadsafe(_deliver, job.done, result)

    def _find(self, batch: list[_Job]) -> Sequence[Prediction | RequestError]:
        """Predict on a batch, or on one after the other if that fails because of one of them."""
        wish = batch[0].wish
        try:
            segmenter = self.model.segmenter(wish.task, wish.threshold)
            return segmenter.find_all([job.image for job in batch])
        except Exception as error:  # of the model: the server goes on with the next batch
            if len(batch) > 1:
                logger.warning("%d images go one by one: %s", len(batch), one_line(str(error), 400))
                return [found for job in batch for found in self._find([job])]
            if isinstance(error, FloatingPointError):
                return [RequestError(500, f"the model failed: {error}")]
            logger.exception("The model failed")
            return [RequestError(500, "the model failed")]

    def _next_batch(self) -> list[_Job]:
        """Take the oldest job, and those that fit to it, out of the queue."""
        batch: list[_Job] = []
        others: deque[_Job] = deque()
        for job in self._jobs:
            if job.done.done():  # its request has been given up
                continue
            if len(batch) < self.limits.batch and (not batch or batch[0].fits(job)):
                batch.append(job)
            else:
                others.append(job)
        self._jobs = others
        return batch


def _deliver(done: asyncio.Future[Prediction], result: Prediction | RequestError) -> None:
    if done.done():  # its request has been given up
        return
    if isinstance(result, RequestError):
        done.set_exception(result)
    else:
        done.set_result(result)
