"""What an exported file says of its model: one JSON text in its metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .classes import Classes
from .errors import ExportError
from .image import IMAGE_FORMATS
from .stored import STORED_TYPES, StoredKind
from .text import one_line

KEY = "mask2former"
"""Where the text is: a key of ONNX's ``metadata_props`` and of OpenVINO's ``rt_info``."""
FORMAT, VERSION = "mask2former-export", 1
# Images are enlarged to these
_MOST_MIN_SIZE, _MOST_DIVISIBILITY = 16384, 1024
_MOST_FIXED = {"batch": 1024, "height": 65536, "width": 65536}
TASKS = ("panoptic", "instance", "semantic")


@dataclass(frozen=True)
class InputSpec:
    """How an image becomes the input of the network.

    Attributes:
        channel_order: "RGB" or "BGR" of pictures, or one of `STORED_TYPES` for images with the
            channels and values that files store.
        mean: of each channel; of pictures, from 0 to 255.
        std: of each channel.
        size_divisibility: what height and width are padded to multiples of.
        min_size: length in pixels to resize the shorter side to, or 0 to keep the size.
        max_size: limit of the longer side in pixels; it takes precedence over `min_size`.
        batch: the only number of images in a batch that the file takes; None for any.
        height: the only padded height that the file takes; None for any.
        width: the only padded width that the file takes; None for any.
    """

    channel_order: str
    mean: Sequence[float]
    std: Sequence[float]
    size_divisibility: int
    min_size: int
    max_size: int
    batch: int | None = None
    height: int | None = None
    width: int | None = None

    @property
    def stored(self) -> StoredKind | None:
        """How the images are stored; None for pictures of 8 bits."""
        if self.channel_order in IMAGE_FORMATS:
            return None
        return StoredKind(self.channel_order, len(self.mean))


@dataclass(frozen=True)
class Rules:
    """The rules that turn queries into results; see `postprocessing`.

    Attributes:
        max_detections: instances at most.
        object_mask_threshold: lowest class probability of queries in panoptic segmentation.
        overlap_threshold: lowest share of its mask that a panoptic segment shows.
        semantic_resize_first: see `class_map`.
        threshold: lowest score of instances, unless another is asked for.
        thresholds: that of each class, instead of `threshold`; None if the file has none.
        mask_nms: see `without_duplicates`; 1 keeps all instances.
    """

    max_detections: int
    object_mask_threshold: float
    overlap_threshold: float
    semantic_resize_first: bool
    threshold: float
    thresholds: Sequence[float] | None = None
    mask_nms: float = 1.0


@dataclass(frozen=True)
class Metadata:
    """What an exported file says of its model.

    Attributes:
        task: what the model predicts by default.
        tasks: all it can do.
        classes: its classes.
        input: how an image becomes its input.
        postprocessing: the rules that make results.
        producer: the program that wrote the file.
        outputs: what the file gives; "queries" for logits of classes and masks.
        precision: what the network computes with, such as "fp32".
        operator: how deformable attention is written: "gather", "grid_sample" or "plugin".
        license: of the weights; None if it is not known.
        weights_sha256: hash of the weights.
        config: that of the model, as YAML; None if it is not known.
    """

    task: str
    tasks: Sequence[str]
    classes: Classes
    input: InputSpec
    postprocessing: Rules
    producer: str
    outputs: str = "queries"
    precision: str = "fp32"
    operator: str = "gather"
    license: str | None = None
    weights_sha256: str = ""
    config: str | None = None

    def to_text(self) -> str:
        """Return the JSON text of a file."""
        content = asdict(self)
        fixed = {key: content["input"].pop(key) for key in ("batch", "height", "width")}
        content["input"]["fixed"] = fixed
        things = self.classes.things
        content["classes"]["things"] = None if things is None else sorted(things)
        return json.dumps({"format": FORMAT, "version": VERSION, **content})

    @classmethod
    def from_text(cls, text: str | None, file: str) -> Metadata:
        """Read the JSON text of a file.

        Args:
            text: the text; None if the file has none.
            file: for messages.

        Raises:
            ExportError: the text is of another program or of a newer version, or something is
                missing or wrong in it.
        """
        try:
            content = None if text is None else json.loads(text)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ExportError(not_ours(file))
        version = content.get("version")
        if not isinstance(version, int) or isinstance(version, bool):
            raise ExportError(f"{file}: its metadata have no version")
        if version > VERSION:
            raise ExportError(
                f"{file} is of version {version} of this format, and only versions up to {VERSION} "
                "are known: pip install --upgrade mask2former-runtime"
            )
        try:
            return cls._from_content(content)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"there is no {error}" if isinstance(error, KeyError) else str(error)
            raise ExportError(
                f"{file}: its metadata cannot be used: {one_line(reason, 200)}"
            ) from error

    @classmethod
    def _from_content(cls, content: Mapping[str, Any]) -> Metadata:
        read = _Reader(content)
        input_, fixed = read.part("input"), read.part("input").part("fixed")
        rules = read.part("postprocessing")
        order = input_.one_of("channel_order", (*IMAGE_FORMATS, *STORED_TYPES))
        channels = 3 if order in IMAGE_FORMATS else max(1, len(input_.list_of("mean", float)))
        metadata = cls(
            task=read.one_of("task", TASKS),
            tasks=tuple(read.list_of("tasks", str)),
            classes=_classes(read.part("classes")),
            input=InputSpec(
                channel_order=order,
                mean=tuple(input_.list_of("mean", float, channels)),
                std=tuple(input_.list_of("std", float, channels)),
                size_divisibility=input_.count("size_divisibility", most=_MOST_DIVISIBILITY),
                min_size=input_.count("min_size", least=0, most=_MOST_MIN_SIZE),
                max_size=input_.count("max_size"),
                **{key: fixed.count_or_none(key, most) for key, most in _MOST_FIXED.items()},
            ),
            postprocessing=Rules(
                max_detections=rules.count("max_detections"),
                object_mask_threshold=rules.share("object_mask_threshold"),
                overlap_threshold=rules.share("overlap_threshold"),
                semantic_resize_first=rules.value("semantic_resize_first", bool),
                threshold=rules.share("threshold"),
                thresholds=rules.shares_or_none("thresholds"),
                mask_nms=rules.share("mask_nms") if rules.has("mask_nms") else 1.0,
            ),
            producer=read.value("producer", str),
            outputs=read.value("outputs", str),
            precision=read.value("precision", str),
            operator=read.value("operator", str),
            license=None if content.get("license") is None else read.value("license", str),
            weights_sha256=read.value("weights_sha256", str),
            config=None if content.get("config") is None else read.value("config", str),
        )
        thresholds = metadata.postprocessing.thresholds
        if thresholds is not None and len(thresholds) != len(metadata.classes):
            raise ValueError(
                f"there are {len(thresholds)} thresholds of {len(metadata.classes)} classes"
            )
        if min(metadata.input.std) <= 0:
            raise ValueError(f"input.std is {metadata.input.std}, and not above 0")
        if metadata.task not in metadata.tasks or not set(metadata.tasks) <= set(TASKS):
            raise ValueError(f"the tasks {metadata.tasks} do not fit the task {metadata.task}")
        if "panoptic" in metadata.tasks and metadata.classes.things is None:
            raise ValueError("panoptic segmentation needs to know which classes are things")
        return metadata


def not_ours(file: str) -> str:
    """Return the message about a file without our metadata."""
    return (
        f"{file} is not a model that `mask2former export` wrote: it does not have its metadata. "
        "Export the model again"
    )


class _Reader:
    """Reads values from a part of the metadata, and says which is wrong."""

    def __init__(self, content: Any, name: str = ""):
        if not isinstance(content, Mapping):
            raise ValueError(f"{name} is not an object")
        self._content, self._name = content, name

    def _path(self, key: str) -> str:
        return f"{self._name}.{key}" if self._name else key

    def _get(self, key: str) -> Any:
        if key not in self._content:
            raise ValueError(f"{self._path(key)} is missing")
        return self._content[key]

    def _wrong(self, key: str, wanted: str) -> ValueError:
        return ValueError(f"{self._path(key)} is {self._get(key)!r:.60}, and not {wanted}")

    def part(self, key: str) -> _Reader:
        return _Reader(self._get(key), self._path(key))

    def has(self, key: str) -> bool:
        return key in self._content

    def value(self, key: str, kind: type) -> Any:
        found = self._get(key)
        if not _is_a(found, kind):
            raise self._wrong(key, f"of the type {kind.__name__}")
        return found

    def one_of(self, key: str, choices: Sequence[str]) -> str:
        if self._get(key) not in choices:
            raise self._wrong(key, f"one of {', '.join(choices)}")
        return self._get(key)

    def list_of(self, key: str, kind: type, length: int | None = None) -> list[Any]:
        found = self._get(key)
        fits = isinstance(found, list) and length in (None, len(found))
        if not fits or not all(_is_a(item, kind) for item in found):
            raise self._wrong(key, f"a list of {kind.__name__}")
        return found

    def count(self, key: str, least: int = 1, most: int = 2**31 - 1) -> int:
        if not _is_a(self._get(key), int) or not least <= self._get(key) <= most:
            raise self._wrong(key, f"a whole number from {least} to {most}")
        return self._get(key)

    def count_or_none(self, key: str, most: int) -> int | None:
        return None if self._content.get(key) is None else self.count(key, most=most)

    def share(self, key: str) -> float:
        found = float(self.value(key, float))
        if not 0 <= found <= 1:
            raise self._wrong(key, "from 0 to 1")
        return found

    def shares_or_none(self, key: str) -> tuple[float, ...] | None:
        if self._content.get(key) is None:
            return None
        found = self.list_of(key, float)
        if not all(0 <= value <= 1 for value in found):
            raise self._wrong(key, "a list of numbers from 0 to 1")
        return tuple(map(float, found))


def _is_a(value: Any, kind: type) -> bool:
    """Return whether a value of JSON is of a type; numbers are finite, and fit into 64 bits."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        fits = abs(value) < 2**63 and kind in (int, float)  # NaN does not
        return fits and (kind is float or isinstance(value, int))
    return isinstance(value, kind)


def _classes(read: _Reader) -> Classes:
    names, content = read.list_of("names", str), read._content
    things = None if content.get("things") is None else frozenset(read.list_of("things", int))
    if things and not 0 <= min(things) <= max(things) < len(names):
        raise ValueError(f"classes.things names classes that are not among the {len(names)}")
    colors = None
    if content.get("colors") is not None:
        colors = [tuple(color) for color in read.list_of("colors", list)]
        if not all(len(c) == 3 and all(_is_a(v, int) and 0 <= v < 256 for v in c) for c in colors):
            raise ValueError("classes.colors are not colours")
    label = content.get("ignore_label")
    return Classes(
        names,
        read.list_of("ids", int),
        things,
        colors,  # type: ignore[arg-type]
        None if label is None else read.count("ignore_label", least=0),
    )
