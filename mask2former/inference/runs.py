"""Processing images or the frames of a video: find, draw and collect, and print the progress."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np

from mask2former_runtime.commands import print_line
from mask2former_runtime.drawing.scenes import Scene
from mask2former_runtime.errors import ExportError
from mask2former_runtime.image import IMAGE_SUFFIXES, ImageReadError
from mask2former_runtime.inputs import expand_inputs, image_ids, map_names, output_paths
from mask2former_runtime.prediction import Prediction, save_picture
from mask2former_runtime.result_files import Results, check_result_paths
from mask2former_runtime.stored import as_picture, read_as
from mask2former_runtime.text import clock

from ..structures import Classes
from ..utils.progress import ResultLines
from ..visualization.object_colors import SteadyColors
from .predictor import require_pictures
from .segmenters import Segmenter
from .selection import Selection, select
from .tiling.large_image import LARGE_PIXELS, segment_to_files
from .tiling.store import OtherSettingsError
from .tiling.tiled import TiledSegmenter
from .tiling.windows import pixels_of_file
from .video import VIDEO_SUFFIXES, VideoError, VideoWriteError, VideoWriter, open_video
from .windows import VideoWindow, check_display, check_toolkit, show_picture

# A note is printed about images that are so many times as large as what the model sees of them.
_MUCH_LARGER = 4
_OUT_OF_MEMORY = re.compile("out of memory|allocate memory")
# What does not stop the other images; `RuntimeError` if it is out of memory, too.
_OF_ONE_IMAGE = (
    ImageReadError, ExportError, FloatingPointError, OtherSettingsError, OSError, MemoryError
)  # fmt: skip
# Containers state the number of frames only roughly.
_LEAST_FRAMES = 0.9


class ImageRun:
    """Image files, and where their pictures go.

    Args:
        arguments: files, folders and patterns; see `expand_inputs`.
        output: folder or file for the pictures, or None.
        show: whether to show the pictures in windows.

    Raises:
        ValueError: there are no images, or an output would replace an input.
    """

    def __init__(self, arguments: Sequence[str], output: str | None, *, show: bool):
        if show:
            check_display()
        self.inputs = expand_inputs(arguments)
        self.outputs = None if output is None else output_paths(self.inputs, Path(output))
        if show:
            check_toolkit()
        self.show = show
        self.advised = False

    def check_results(self, results: Results) -> None:
        """Raise `ValueError` if a file of the results would replace an input or a picture."""
        check_result_paths(results, map_names(self.inputs), self.inputs, self.outputs or ())

    def run(
        self,
        segmenter: Segmenter | TiledSegmenter,
        results: Results | None,
        selection: Selection | None = None,
    ) -> bool:
        """Process the images; return whether all could be processed.

        An image that cannot be read, that the memory cannot hold, that an exported file cannot
        take, or whose picture cannot be written, does not stop the others.
        """
        skipped = 0
        total = len(self.inputs)
        lines = ResultLines(total, "images")
        names = zip(self.inputs, image_ids(self.inputs), map_names(self.inputs), strict=True)
        for i, (path, image_id, map_name) in enumerate(names):
            start = time.perf_counter()
            try:
                if isinstance(segmenter, TiledSegmenter) and pixels_of_file(path) > LARGE_PIXELS:
                    self._check_large(path, results, selection)
                    summary = segment_to_files(segmenter, path, self._output(i), image_id=image_id)
                    saved = f" -> {self._output(i)}"
                else:
                    image = read_as(path, segmenter.stored)
                    self._advise_tiles(path, segmenter, image)
                    found = _find(segmenter, image, selection)
                    if results is not None:
                        results.add(found, image_id, str(path), map_name)
                    scene = found.scene()
                    summary = scene.summary(segmenter.classes)
                    saved = self._picture(i, scene, image, segmenter.classes)
            except (*_OF_ONE_IMAGE, RuntimeError) as error:
                if isinstance(error, RuntimeError) and not _OUT_OF_MEMORY.search(str(error)):
                    raise
                reason = error if isinstance(error, ImageReadError) else f"{path}: {_short(error)}"
                lines.add(f"[{i + 1}/{total}] SKIPPED {reason}", skipped=True)
                skipped += 1
                continue
            spent = time.perf_counter() - start
            lines.add(f"[{i + 1}/{total}] {path}: {summary} in {spent:.2f} s{saved}")
        lines.close()
        left_out = f" ({skipped} skipped)" if skipped else ""
        print(f"{total - skipped} of {total} images done{left_out} in {clock(lines.seconds)}")
        return not skipped

    def _check_large(
        self, path: Path, results: Results | None, selection: Selection | None
    ) -> None:
        """Raise `ImageReadError` if the results of a large image cannot be what is asked for."""
        if results is not None or selection is not None or self.outputs is None or self.show:
            raise ImageReadError(
                f"{path}: its results go to files beside the picture, as it has more than "
                f"{LARGE_PIXELS / 1e6:.0f} million pixels: give --output, and not --json, --show, "
                "--class, --max or --nms"
            )

    def _output(self, number: int) -> Path:
        assert self.outputs is not None
        return self.outputs[number]

    def _advise_tiles(
        self, path: Path, segmenter: Segmenter | TiledSegmenter, image: np.ndarray
    ) -> None:
        """Say once that an image is much larger than what the model sees of it.

        To divide it unasked would cut what is large in it, and its size does not say what is in it.
        """
        if self.advised or isinstance(segmenter, TiledSegmenter):
            return
        height, width = image.shape[:2]
        seen = segmenter.predictor.network_size(height, width)
        if max(height, width) >= _MUCH_LARGER * max(seen):
            self.advised = True
            print_line(
                f"{path} is {width} x {height} pixels, and the model sees it at "
                f"{seen[1]} x {seen[0]}: to find small objects, add --tile {min(seen)}",
                sys.stderr,
            )

    def _picture(self, number: int, scene: Scene, image: np.ndarray, classes: Classes) -> str:
        """Draw, save and show the picture of one input; return where it is, in words."""
        if self.outputs is None and not self.show:
            return ""
        picture = scene.draw(np.ascontiguousarray(as_picture(image)), classes)
        if self.outputs is not None:
            save_picture(picture, self.outputs[number])
        if self.show:
            show_picture(picture, str(self.inputs[number]))
        return "" if self.outputs is None else f" -> {self.outputs[number]}"


class VideoRun:
    """The frames of a video file, an animation or a camera, and where their pictures go.

    Args:
        source: video file, animation or file of several pages, or None for the first camera.
        output: file or folder for the video, or None.
        show: whether to show the frames in a window.

    Raises:
        ValueError: the video does not exist, OpenCV is missing, or the output is the input.
    """

    def __init__(self, source: str | None, output: str | None, *, show: bool):
        if show:
            check_display()
        self.is_camera = source is None
        self.reader = open_video(0 if source is None else source)
        path = None if output is None else _video_output(output, source)
        self.writer = None if path is None else VideoWriter(path, self.reader.fps)
        self.window = VideoWindow(f"Mask2Former: {self.reader.name}") if show else None

    def check_results(self, results: Results) -> None:
        """Raise `ValueError` if a file of the results would replace the input or the video."""
        videos = [] if self.writer is None else [self.writer.path]
        check_result_paths(results, (), [Path(self.reader.name)], videos)

    def run(
        self,
        segmenter: Segmenter | TiledSegmenter,
        results: Results | None,
        selection: Selection | None = None,
    ) -> bool:
        """Process the frames; return whether there were any, all, and no error occurred."""
        require_pictures(segmenter.stored, "a video")
        total = self.reader.num_frames
        lines = ResultLines(total or None, "frames")
        try:
            with self._taking_frames():
                number, error = self._process(segmenter, results, selection, lines)
        except VideoWriteError as reason:
            print_line(f"error: {reason}", sys.stderr)
            return False
        finally:
            for part in (self.reader, self.window, lines):
                if part is not None:
                    part.close()
        if number:
            target = "" if self.writer is None else f" -> {self.writer.path}"
            print(f"{number} frames done in {clock(lines.seconds)}{target}")
        if error:
            print_line(f"error: {error}", sys.stderr)
        return not error

    def _taking_frames(self) -> AbstractContextManager[None]:
        if self.writer is None:
            return nullcontext()
        # What a camera has shown cannot be filmed again: it stays, whatever happens.
        return self.writer.taking_frames(keep=self.is_camera)

    def _process(
        self,
        segmenter: Segmenter | TiledSegmenter,
        results: Results | None,
        selection: Selection | None,
        lines: ResultLines,
    ) -> tuple[int, str]:
        """Process the frames; return their number, and why not all could be read, if so."""
        name, total = self.reader.name, self.reader.num_frames
        colors = SteadyColors(segmenter.classes)
        number = 0
        try:
            for number, frame in enumerate(self.reader, start=1):
                found = _find(segmenter, frame, selection)
                if results is not None:
                    results.add(found, number - 1, name, f"{number - 1:06}.png")
                scene = found.scene()
                if not self._put(scene, frame, segmenter.classes, colors):
                    return number, ""
                summary, rate = scene.summary(segmenter.classes), number / lines.seconds
                lines.add(f"frame {number}/{total or '?'}: {summary}, {rate:.2f} frames/s")
        except KeyboardInterrupt:  # how a user ends a recording; it is kept up to here
            if number == 0:
                raise
            print_line("interrupted", sys.stderr)
            return number, ""
        except VideoError as error:
            return number, str(error)
        if number == 0:
            return number, f"{name}: no frame can be read"
        if number < _LEAST_FRAMES * total:
            left_out = f"{number} of about {total} frames can be read"
            return number, f"{name}: {left_out}; the file is damaged or cut off"
        return number, ""

    def _put(self, scene: Scene, frame: np.ndarray, classes: Classes, colors: SteadyColors) -> bool:
        """Write and show a frame; return whether to go on."""
        if self.writer is None and self.window is None:
            return True
        # Frames have one size, so they have no legend.
        picture = np.asarray(scene.draw(_rgb(frame), classes, colors(scene), legend=False))
        if self.writer is not None:
            self.writer.write(picture)
        return self.window is None or self.window.show(picture)


def _find(
    segmenter: Segmenter | TiledSegmenter, image: np.ndarray, selection: Selection | None
) -> Prediction:
    found = segmenter.find(image)
    return found if selection is None else select(found, selection)


def _short(error: Exception) -> str:
    """Return what an error says, in one line."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return next(iter(str(error).splitlines()), "out of memory")


def _rgb(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[:, :, ::-1])


def _video_output(output: str, source: str | None) -> Path:
    path = Path(output)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise ValueError(
            f"{path}: name a folder or a video file, such as {path.with_suffix('.mp4')}"
        )
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        path = path / f"{'webcam' if source is None else Path(source).stem}.mp4"
    if source is not None and path.resolve() == Path(source).resolve():
        raise ValueError(f"{path} would replace the input: choose another --output")
    return path
