"""Showing pictures and videos on the screen."""

import os
import sys

import numpy as np
from PIL import Image

from .video import import_cv2


def check_display() -> None:
    """Raise `ValueError` if this machine or session has no display."""
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        raise ValueError("there is no display to show pictures on: give --output (or --json)")


def check_toolkit() -> None:
    """Raise `ValueError` if matplotlib cannot open windows."""
    import matplotlib.pyplot as plt

    if plt.get_backend().lower() == "agg":
        raise ValueError(
            "matplotlib finds no window toolkit: install python3-tk or PyQt6, or give --output"
        )


def show_picture(picture: Image.Image, title: str) -> None:
    """Show a picture in a window, and wait until the user closes it."""
    import matplotlib.pyplot as plt

    figure = plt.figure(title, figsize=(picture.width / 100, picture.height / 100))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.imshow(picture)
    plt.show()
    plt.close(figure)


class VideoWindow:
    """Shows RGB frames in a window; Escape or q ends it.

    Args:
        title: the title of the window.

    Raises:
        ValueError: OpenCV is missing or cannot open windows.
    """

    def __init__(self, title: str):
        self._cv2 = import_cv2()
        self._title = title
        try:
            self._cv2.namedWindow(title, self._cv2.WINDOW_NORMAL)
        except self._cv2.error as error:
            raise ValueError(
                "this OpenCV cannot open windows: pip install opencv-python, or give --output"
            ) from error

    def show(self, frame: np.ndarray) -> bool:
        """Show a frame (height, width, 3), uint8; return whether to go on."""
        self._cv2.imshow(self._title, np.ascontiguousarray(frame[:, :, ::-1]))
        return self._cv2.waitKey(1) & 0xFF not in (27, ord("q"))

    def close(self) -> None:
        """Close the window."""
        self._cv2.destroyAllWindows()
