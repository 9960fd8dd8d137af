"""Segment images or videos with a trained model: instances, panoptic segments or classes of pixels.

Pictures are drawn, and results written as JSON.

Examples:
    demo.py --config-file output/config.yaml --input photo.jpg --output out/
    demo.py --config-file panoptic.yaml --task instance --input photo.jpg --output out/
    demo.py --config-file configs/coco/instance-segmentation/maskformer2_R50_bs16_50ep.yaml \\
        --input photo.jpg 'more/*.png' folder/ --output out/ --json out/results.json \\
        --opts MODEL.WEIGHTS model_final.pth MODEL.DEVICE cpu
    demo.py --config-file output/config.yaml --video-input film.mp4 --output out/film.mp4

Exit status: 0 if everything was read, 1 if a file was skipped because it could not be read, 2 if
nothing was done because the command, the config or the weights are wrong.
"""

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import mask2former  # noqa: F401  registers the models and data sets

from ..config import load_config
from ..data.image import ImageReadError, read_image
from ..engine.setup import add_trust_flags
from ..inference.inputs import expand_inputs, image_ids, map_names, output_paths
from ..inference.results import MapResults, Results, build_results, check_map_paths
from ..inference.run_folder import find_classes, register_classes, weights_of_run
from ..inference.tasks import DEFAULT_THRESHOLD, TASKS, Task, build_task, choose_task
from ..inference.video import VIDEO_SUFFIXES, VideoError, VideoReader, VideoWriter
from ..inference.windows import VideoWindow, check_display, check_toolkit, show_picture
from ..utils.device import check_device
from ..utils.files import write_atomically


def argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="YAML config")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input",
        nargs="+",
        metavar="PATH",
        help="image files, folders and quoted patterns such as 'dir/*.png'",
    )
    source.add_argument("--video-input", metavar="FILE", help="video file")
    source.add_argument("--webcam", action="store_true", help="first camera of this machine")
    parser.add_argument(
        "--output",
        metavar="PATH",
        help="folder, or a file for one image or video; without it, show pictures in a window",
    )
    parser.add_argument(
        "--task",
        choices=TASKS,
        help="what to find (default: the first of these that the config predicts, or instances if "
        "it predicts them and no class is stuff). A panoptic model can be run for each",
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="write the results. instance: COCO results with file_name. panoptic: COCO's panoptic "
        "format, whose PNG files go to the folder of that name without .json. semantic: a list of "
        "label maps, PNG files in such a folder whose pixels are classes from 0. image_id is the "
        "file name if all are distinct numbers, else the position in the input from 1 (for video: "
        "the frame from 0)",
    )
    parser.add_argument(
        "--confidence-threshold",
        type=_probability,
        metavar="SCORE",
        help="0 to 1. instance: leave out instances under this score (default: "
        f"{DEFAULT_THRESHOLD}). panoptic: only queries whose class has a probability above this "
        "take part (default: MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD of the config). "
        "semantic: not to be given, as each pixel takes the class with the highest score",
    )
    add_trust_flags(parser)
    parser.add_argument(
        "--opts",
        nargs="*",
        default=[],
        metavar="KEY VALUE",
        help="config keys to change, such as MODEL.WEIGHTS model_final.pth MODEL.DEVICE cpu",
    )
    return parser


def _probability(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


class Demo:
    """Finds, draws and collects results."""

    def __init__(self, task: Task[Any], results: Results | None):
        """
        Args:
            task: what to look for.
            results: where to collect what is found, if at all.
        """
        self.task = task
        self.results = results

    def find(self, image: np.ndarray, image_id: int, file_name: str, map_name: str) -> Any:
        """What the task finds in a BGR image, which is added to `results` as well."""
        found = self.task.find(image)
        if self.results is not None:
            self.results.add(found, image_id, file_name, map_name)
        return found


def run_images(
    demo: Demo, inputs: Sequence[Path], outputs: Sequence[Path] | None, show: bool
) -> int:
    """Go through the images; returns how many could not be read."""
    failed = 0
    begin = time.perf_counter()
    names = zip(inputs, image_ids(inputs), map_names(inputs), strict=True)
    for i, (path, image_id, map_name) in enumerate(names):
        start = time.perf_counter()
        progress = f"[{i + 1}/{len(inputs)}] {path}:"
        try:
            image = read_image(path)
        except ImageReadError as error:
            print(f"[{i + 1}/{len(inputs)}] SKIPPED {error}", file=sys.stderr, flush=True)
            failed += 1
            continue
        found = demo.find(image, image_id, str(path), map_name)
        saved = ""
        if outputs is not None:
            _save(demo.task.draw(image, found), outputs[i])
            saved = f" -> {outputs[i]}"
        now = time.perf_counter()
        remaining = (now - begin) / (i + 1) * (len(inputs) - i - 1)
        print(
            f"{progress} {demo.task.count(found)} in {now - start:.2f} s{saved}"
            + (f", ETA {_clock(remaining)}" if i + 1 < len(inputs) else ""),
            flush=True,
        )
        if show:
            show_picture(demo.task.draw(image, found), str(path))
    spent = _clock(time.perf_counter() - begin)
    print(f"{len(inputs) - failed} of {len(inputs)} images done in {spent}")
    return failed


def run_video(
    demo: Demo, reader: VideoReader, writer: VideoWriter | None, window: VideoWindow | None
) -> None:
    """Go through the frames of a file or camera.

    Raises:
        VideoError: no frame can be read, or none written.
    """
    begin, number = time.perf_counter(), 0
    try:
        for number, frame in enumerate(reader, start=1):
            found = demo.find(frame, number - 1, reader.name, f"{number - 1:06}.png")
            if writer is not None or window is not None:
                picture = np.asarray(demo.task.draw(frame, found, by_class=True))
                if writer is not None:
                    writer.write(picture)
                if window is not None and not window.show(picture):
                    break
            spent = time.perf_counter() - begin
            text = f"frame {number}/{reader.num_frames or '?'}: {demo.task.count(found)}, "
            text += f"{number / spent:.2f} frames/s"
            if reader.num_frames:
                text += f", ETA {_clock(spent / number * max(0, reader.num_frames - number))}"
            print(text, flush=True)
    except KeyboardInterrupt:  # the way to end a recording; what there is of it is kept
        print("interrupted", file=sys.stderr)
    finally:
        for part in (reader, writer, window):
            if part is not None:
                part.close()
    if number == 0:
        raise VideoError(f"{reader.name}: no frame can be read")
    print(
        f"{number} frames done in {_clock(time.perf_counter() - begin)}"
        + ("" if writer is None else f" -> {writer.path}")
    )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def _save(picture: Image.Image, path: Path) -> None:
    suffix = path.suffix.lower()
    kind = Image.registered_extensions()[suffix]
    # Without subsampling, as it would blur the edges of saturated masks.
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: picture.save(file, kind, **options))


def _video_output(output: str | None, source: str | None) -> Path | None:
    if output is None:
        return None
    path = Path(output)
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        path = path / f"{'webcam' if source is None else Path(source).stem}.mp4"
    if source is not None and path.resolve() == Path(source).resolve():
        raise ValueError(f"{path} would replace the input: choose another --output")
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argument_parser()
    args = parser.parse_args(arguments)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("mask2former").setLevel(logging.INFO)
    try:
        run = _prepare(args)
    except VideoError as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    return run()


def _prepare(args: argparse.Namespace) -> Callable[[], int]:
    """Check the command and load the model; returns what does the work."""
    show = args.output is None and args.json is None
    if show:
        check_display()
    # What is quick to check comes before the model is built.
    if args.input is not None:
        inputs = expand_inputs(args.input)
        outputs = None if args.output is None else output_paths(inputs, Path(args.output))
        if show:
            check_toolkit()
    else:
        reader = VideoReader(0 if args.webcam else args.video_input)
        path = _video_output(args.output, args.video_input)
        writer = None if path is None else VideoWriter(path, reader.fps)
        window = VideoWindow(f"Mask2Former: {reader.name}") if show else None

    overrides = weights_of_run(args.config_file, args.opts)
    cfg = load_config(args.config_file, overrides, args.allow_unsafe_config)
    try:
        check_device(cfg.MODEL.DEVICE)
    except ValueError as error:
        raise ValueError(f"{error} (here: --opts MODEL.DEVICE cpu)") from error
    classes = find_classes(cfg, args.config_file)
    name = choose_task(cfg, args.task, classes, args.config_file)
    register_classes(cfg, args.config_file)
    results = None if args.json is None else build_results(name, Path(args.json), classes)
    if results is not None:
        results.path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(results, MapResults) and args.input is not None:
        check_map_paths(results.folder, map_names(inputs), inputs, outputs or ())
    task = build_task(
        cfg,
        name,
        classes,
        threshold=args.confidence_threshold,
        allow_unsafe_weights=args.allow_unsafe_weights,
    )
    demo = Demo(task, results)

    def run() -> int:
        failed = 0
        if args.input is not None:
            failed = run_images(demo, inputs, outputs, show)
        else:
            try:
                run_video(demo, reader, writer, window)
            except VideoError as error:
                print(f"error: {error}", file=sys.stderr)
                failed = 1
        if results is not None:
            results.write()
            print(f"{results.count()} written to {args.json}")
        return 1 if failed else 0

    return run


if __name__ == "__main__":
    sys.exit(main())
