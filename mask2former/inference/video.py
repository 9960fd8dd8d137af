"""Reading frames from a video file, a camera or an animation, and writing them to a file.

Only animations and files of several pages work without OpenCV.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mask2former_runtime.files import check_replaceable, moved_at_the_end
from mask2former_runtime.image import IMAGE_SUFFIXES, ImageReadError, has_several_frames

from ..data.image import frame_times, open_image, read_frames

VIDEO_SUFFIXES = frozenset((".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"))


class VideoError(ValueError):
    """A video cannot be opened or read."""

    exit_status = 1  # see `run_reporting_errors`


def import_cv2() -> ModuleType:
    """Import OpenCV; if it is missing, raise a `ValueError` that says how to install it."""
    try:
        import cv2
    except ImportError as error:
        raise ValueError(
            "video needs OpenCV: pip install opencv-python-headless "
            "(or opencv-python, to show it in a window)"
        ) from error
    return cv2


class VideoWriteError(ValueError):
    """Frames cannot be written to a video."""


def _check_name(path: str) -> None:
    """Raise `VideoError` for a name that is not valid UTF-8, which would crash OpenCV."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise VideoError(f"{path!a}: OpenCV takes names in UTF-8 only; rename it") from error


class VideoReader:
    """Yields the frames (height, width, 3), uint8, BGR, of a video.

    Args:
        source: a video file, or the number of a camera.

    Raises:
        VideoError: the source cannot be opened.
    """

    def __init__(self, source: str | int):
        cv2 = import_cv2()
        self.name = f"camera {source}" if isinstance(source, int) else source
        if isinstance(source, str):
            if not Path(source).is_file():
                known = "not a file" if Path(source).exists() else "no such file"
                raise VideoError(f"{source}: {known}")
            _check_name(source)
        self._capture = cv2.VideoCapture(source)
        if not self._capture.isOpened():
            raise VideoError(f"{self.name}: OpenCV cannot open it as a video")
        # Cameras, and files that do not state the rate, report 0 or nonsense.
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 1 <= fps <= 240 else 30.0
        self.num_frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            success, frame = self._capture.read()
            if not success:
                return
            yield frame

    def close(self) -> None:
        """Release the file or the camera."""
        self._capture.release()


class AnimationReader:
    """Yields the frames of an animated GIF, WebP, PNG or AVIF, or the pages of a TIFF file.

    It has the interface of `VideoReader`. Frames (height, width, 3), uint8, BGR.

    Args:
        source: the file.

    Raises:
        VideoError: the file cannot be read.
    """

    def __init__(self, source: str):
        self.name = source
        try:
            times = frame_times(source)
        except ImageReadError as error:
            raise VideoError(str(error)) from error
        # Videos have one rate; pages are shown for a second each.
        self.fps = len(times) / sum(times)
        self.num_frames = len(times)

    def __iter__(self) -> Iterator[np.ndarray]:
        try:
            yield from read_frames(self.name)
        except ImageReadError as error:
            raise VideoError(str(error)) from error

    def close(self) -> None:
        """Do nothing: the file is closed after its last frame."""


def is_video(path: str) -> bool:
    """Return whether a path is that of a video, an animation or an image file of several pages."""
    if path.lower().endswith(IMAGE_SUFFIXES) and Path(path).is_file():
        try:
            with open_image(path, several=True) as image:
                return has_several_frames(image)
        except ImageReadError:  # reported when its turn comes
            return False
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def open_video(source: str | int) -> VideoReader | AnimationReader:
    """Open a video file, the camera of a number, or an image file with several frames or pages.

    Raises:
        VideoError: it cannot be opened.
        ValueError: it needs OpenCV, which is missing.
    """
    if isinstance(source, str) and source.lower().endswith(IMAGE_SUFFIXES):
        return AnimationReader(source)
    return VideoReader(source)


class VideoWriter:
    """Writes RGB frames of one size to a file.

    Args:
        path: the file; its suffix chooses the format.
        fps: frames per second.

    Raises:
        VideoError: OpenCV cannot write a file of this name.
        OSError: see `check_replaceable`.
    """

    def __init__(self, path: Path, fps: float):
        self._cv2 = import_cv2()
        _check_name(str(path.absolute()))
        check_replaceable(path)
        if path.is_dir():
            raise VideoError(f"{path} is a folder: name a video file")
        self.path = path
        self._fps = fps
        self._unfinished = path  # while it takes frames, in a temporary folder
        self._writer: Any = None  # opened with the first frame, which gives the size
        self._size = (0, 0)
        self._count = 0
        path.parent.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def taking_frames(self, keep: bool = False) -> Iterator[None]:
        """Let a block write frames. The file has its name after it, or is as before after an error.

        Args:
            keep: let the file have its name from the beginning, and keep it after an error.

        Raises:
            VideoWriteError: the file does not have all frames.
        """
        parent = self.path.parent
        with contextlib.nullcontext(parent) if keep else moved_at_the_end(parent) as folder:
            self._unfinished = folder / self.path.name
            try:
                yield
            finally:
                if self._writer is not None:
                    self._writer.release()
            with contextlib.suppress(KeyboardInterrupt):  # of a user who does not want to wait
                self._check_count()

    def write(self, frame: np.ndarray) -> None:
        """Append a frame (height, width, 3), uint8.

        Raises:
            VideoWriteError: the file cannot be written, or the frame has another size than the
                first.
        """
        size = (frame.shape[1], frame.shape[0])
        if self._writer is None:
            code = {".avi": "MJPG", ".webm": "VP80"}.get(self.path.suffix.lower(), "mp4v")
            self._size = size
            fourcc = self._cv2.VideoWriter.fourcc(*code)
            self._writer = self._cv2.VideoWriter(str(self._unfinished), fourcc, self._fps, size)
            if not self._writer.isOpened():
                raise VideoWriteError(f"{self.path}: OpenCV cannot write it; try the suffix .avi")
        if size != self._size:  # OpenCV would leave the frame out without a word
            raise VideoWriteError(
                f"{self.path}: a frame has {size[0]}x{size[1]} pixels, the first one "
                f"{self._size[0]}x{self._size[1]}; frames of one video have one size"
            )
        self._writer.write(np.ascontiguousarray(frame[:, :, ::-1]))
        self._count += 1

    def _check_count(self) -> None:
        """Read the file: OpenCV does not say that a disk is full."""
        if self._count == 0:
            return
        written = self._cv2.VideoCapture(str(self._unfinished))
        count = 0
        while written.grab():
            count += 1
        written.release()
        if count < self._count:
            raise VideoWriteError(
                f"{self.path}: {count} of {self._count} frames could be written: is the disk full?"
            )
