#!/usr/bin/env python
"""Find instances in images or videos with a trained model: draw them, or write them as JSON.

Examples:
    demo.py --config-file output/config.yaml --input photo.jpg --output out/
    demo.py --config-file configs/coco/instance-segmentation/maskformer2_R50_bs16_50ep.yaml \\
        --input photo.jpg 'more/*.png' folder/ --output out/ --json out/results.json \\
        --opts MODEL.WEIGHTS model_final.pth MODEL.DEVICE cpu
    demo.py --config-file output/config.yaml --video-input film.mp4 --output out/film.mp4

Exit status: 0 if everything was read, 1 if a file was skipped because it could not be read, 2 if
nothing was done because the command, the config or the weights are wrong.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import Instances
from inputs import expand_inputs, image_ids, output_paths
from PIL import Image
from predictor import Predictor, confident
from run_folder import Classes, find_classes, register_classes, weights_of_run
from video import VIDEO_SUFFIXES, VideoError, VideoReader, VideoWriter
from windows import VideoWindow, check_display, check_toolkit, show_picture

import mask2former  # noqa: F401  registers the models and data sets
from mask2former.config import load_config
from mask2former.data.image import ImageReadError, read_image
from mask2former.engine.setup import add_trust_flags, check_device
from mask2former.evaluation import instances_to_coco_results
from mask2former.visualization import draw_instances, palette_color


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
        "--json",
        metavar="FILE",
        help="write the instances as COCO results with file_name; image_id is the file name if all "
        "are distinct numbers, else the position in the input from 1 (for video: the frame from 0)",
    )
    parser.add_argument(
        "--confidence-threshold",
        type=_probability,
        default=0.5,
        metavar="SCORE",
        help="leave out instances under this score, 0 to 1 (default: %(default)s)",
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
    """Predicts, counts, draws and collects results, above one threshold."""

    def __init__(self, predictor: Predictor, classes: Classes, threshold: float):
        """
        Args:
            predictor: from a BGR image to its predictions.
            classes: names and ids.
            threshold: lowest score of an instance that counts.
        """
        self.predictor = predictor
        self.classes = classes
        self.threshold = threshold
        self.results: list[dict[str, Any]] = []

    def find(self, image: np.ndarray, image_id: int, file_name: str) -> Instances:
        """The instances of a BGR image, which are added to `results` as well."""
        instances = confident(self.predictor(image)["instances"], self.threshold)
        for result in instances_to_coco_results(instances, image_id):
            result["category_id"] = self.classes.category_ids[result["category_id"]]
            self.results.append({**result, "file_name": file_name})
        return instances

    def draw(self, image: np.ndarray, instances: Instances, by_class: bool = False) -> Image.Image:
        """Draw on a BGR image; `by_class` gives a class one colour, which is stable over frames."""
        classes, scores = instances.pred_classes.tolist(), instances.scores.tolist()
        return draw_instances(
            np.ascontiguousarray(image[:, :, ::-1]),
            instances.pred_masks.numpy(),
            [f"{self.classes.names[c]} {s:.0%}" for c, s in zip(classes, scores, strict=True)],
            [palette_color(c if by_class else i) for i, c in enumerate(classes)],
        )


def run_images(
    demo: Demo, inputs: Sequence[Path], outputs: Sequence[Path] | None, show: bool
) -> int:
    """Go through the images; returns how many could not be read."""
    failed = 0
    begin = time.perf_counter()
    for i, (path, image_id) in enumerate(zip(inputs, image_ids(inputs), strict=True)):
        start = time.perf_counter()
        progress = f"[{i + 1}/{len(inputs)}] {path}:"
        try:
            image = read_image(path)
        except ImageReadError as error:
            print(f"[{i + 1}/{len(inputs)}] SKIPPED {error}", file=sys.stderr, flush=True)
            failed += 1
            continue
        instances = demo.find(image, image_id, str(path))
        saved = ""
        if outputs is not None:
            outputs[i].parent.mkdir(parents=True, exist_ok=True)
            demo.draw(image, instances).save(outputs[i], **_save_options(outputs[i]))
            saved = f" -> {outputs[i]}"
        now = time.perf_counter()
        remaining = (now - begin) / (i + 1) * (len(inputs) - i - 1)
        print(
            f"{progress} {_count(len(instances))} in {now - start:.2f} s{saved}"
            + (f", ETA {_clock(remaining)}" if i + 1 < len(inputs) else ""),
            flush=True,
        )
        if show:
            show_picture(demo.draw(image, instances), str(path))
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
            instances = demo.find(frame, number - 1, reader.name)
            if writer is not None or window is not None:
                picture = np.asarray(demo.draw(frame, instances, by_class=True))
                if writer is not None:
                    writer.write(picture)
                if window is not None and not window.show(picture):
                    break
            spent = time.perf_counter() - begin
            text = f"frame {number}/{reader.num_frames or '?'}: {_count(len(instances))}, "
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


def _count(number: int) -> str:
    return f"{number} instance{'' if number == 1 else 's'}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def _save_options(path: Path) -> dict[str, Any]:
    # Without subsampling, as it would blur the edges of saturated masks.
    is_jpeg = path.suffix.lower() in (".jfif", ".jpeg", ".jpg")
    return {"quality": 95, "subsampling": 0} if is_jpeg else {}


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
    if args.json is not None:
        Path(args.json).parent.mkdir(parents=True, exist_ok=True)

    overrides = weights_of_run(args.config_file, args.opts)
    cfg = load_config(args.config_file, overrides, args.allow_unsafe_config)
    try:
        check_device(cfg)
    except ValueError as error:
        raise ValueError(f"{error} (here: --opts MODEL.DEVICE cpu)") from error
    if cfg.MODEL.META_ARCHITECTURE == "MaskFormer":
        if not cfg.MODEL.MASK_FORMER.TEST.INSTANCE_ON:
            raise ValueError(
                f"{args.config_file} is for a model without instances, which are all that can be "
                "drawn here; to have them: --opts MODEL.MASK_FORMER.TEST.INSTANCE_ON True"
            )
        # Not drawn, and gigabytes for a large photograph with many classes.
        cfg.MODEL.MASK_FORMER.TEST.SEMANTIC_ON = False
    classes = find_classes(cfg, args.config_file)
    register_classes(cfg, args.config_file)
    demo = Demo(
        Predictor.from_config(cfg, args.allow_unsafe_weights), classes, args.confidence_threshold
    )

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
        if args.json is not None:
            Path(args.json).write_text(json.dumps(demo.results))
            print(f"{_count(len(demo.results))} written to {args.json}")
        return 1 if failed else 0

    return run


if __name__ == "__main__":
    sys.exit(main())
