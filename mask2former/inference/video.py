"""Reading frames from a video file or a camera, and writing them to a file. Needs OpenCV."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

VIDEO_SUFFIXES = frozenset((".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"))


class VideoError(ValueError):
    """A video cannot be read or written."""


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
        if isinstance(source, str) and not Path(source).is_file():
            raise VideoError(f"{source}: no such file")
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


class VideoWriter:
    """Writes RGB frames of one size to a file.

    Args:
        path: the file; its suffix chooses the format.
        fps: frames per second.
    """

    def __init__(self, path: Path, fps: float):
        self._cv2 = import_cv2()
        self.path = path
        self._fps = fps
        self._writer: Any = None  # opened with the first frame, which gives the size
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, frame: np.ndarray) -> None:
        """Append a frame (height, width, 3), uint8."""
        if self._writer is None:
            code = {".avi": "MJPG", ".webm": "VP80"}.get(self.path.suffix.lower(), "mp4v")
            size = (frame.shape[1], frame.shape[0])
            fourcc = self._cv2.VideoWriter.fourcc(*code)
            self._writer = self._cv2.VideoWriter(str(self.path), fourcc, self._fps, size)
            if not self._writer.isOpened():
                raise VideoError(f"{self.path}: OpenCV cannot write it; try the suffix .avi")
        self._writer.write(np.ascontiguousarray(frame[:, :, ::-1]))

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()
