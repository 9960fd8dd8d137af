"""A model in an exported file: load it, predict.

import mask2former_runtime

model = mask2former_runtime.load("mine.onnx")
result = model.predict("photo.jpg")
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .classes import Classes
from .images import open_images
from .metadata import Metadata
from .networks import Network, open_network
from .postprocessing import Queries, class_map, instances, segments
from .prediction import ImageSource, Prediction
from .predictions import InstancePrediction, PanopticPrediction, SemanticPrediction
from .preprocessing import network_input
from .stored import StoredKind, as_picture
from .text import one_line


def load(
    file: str | os.PathLike[str],
    *,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    operator_library: str | os.PathLike[str] | None = None,
) -> Model:
    """Load a model that `mask2former export` wrote.

    Args:
        file: an ONNX file (``.onnx``; needs ``pip install "mask2former-runtime[onnx]"``) or an
            OpenVINO model (``.xml``, with its ``.bin`` beside it;
            ``pip install "mask2former-runtime[openvino]"``).
        threads: that compute; by default as many as onnxruntime or OpenVINO choose.
        providers: onnxruntime's execution providers, such as ``["CUDAExecutionProvider"]``, or
            OpenVINO's device, such as ``["GPU"]``; by default the CPU.
        operator_library: a library with operators that the file needs; by default that in the
            environment variable MASK2FORMER_OPERATOR_LIBRARY, if any.

    Raises:
        ExportError: the file is missing, damaged or of another program or a newer version, or
            something that it needs is missing; the message says what to do.
    """
    network = open_network(
        Path(os.path.expanduser(file)),
        threads=threads,
        providers=providers,
        operator_library=None if operator_library is None else Path(operator_library),
    )
    return Model(network, os.fspath(file))


def check_threshold(task: str, threshold: float | None) -> None:
    """Raise `ValueError` unless a threshold is None, or from 0 to 1 for a task that has one."""
    if threshold is None:
        return
    is_number = isinstance(threshold, int | float | np.number) and not isinstance(threshold, bool)
    if not is_number or not 0 <= threshold <= 1:  # NaN too
        raise ValueError(f"threshold is {threshold!r}: a number from 0 to 1 is needed")
    if task == "semantic":
        raise ValueError(
            "a threshold means nothing for semantic segmentation, where each pixel gets the "
            "class with the highest score"
        )


class Model:
    """A model in an exported file; `load` makes one. It can be used from several threads at once.

    Args:
        network: maps images to logits.
        file: where it comes from.
    """

    def __init__(self, network: Network, file: str):
        self._network = network
        self.file = file

    @property
    def metadata(self) -> Metadata:
        """What the file says of the model."""
        return self._network.metadata

    @property
    def task(self) -> str:
        """What `predict` finds by default: "panoptic", "instance" or "semantic"."""
        return self.metadata.task

    @property
    def tasks(self) -> list[str]:
        """All tasks that the model does."""
        return list(self.metadata.tasks)

    @property
    def classes(self) -> Classes:
        """The model's classes, in the order of the labels of predictions."""
        return self.metadata.classes

    @property
    def names(self) -> list[str]:
        """The names of the model's classes, in the order of the labels of predictions."""
        return list(self.classes.names)

    def predict(
        self,
        images: Any,
        *,
        task: str | None = None,
        threshold: float | None = None,
        channel_order: str = "RGB",
    ) -> Any:
        """Find what is in images.

        Args:
            images: one of

                - the path of an image, a folder of images, or a pattern such as ``"dir/*.jpg"``;
                - a Pillow image, whose pixels are taken as they are: unlike with a path, a
                  rotation in its EXIF data is not applied;
                - an array (H, W, 3), or (H, W) if it is grey. **Channels are RGB.** OpenCV reads
                  BGR: give `channel_order` "BGR". Values are uint8, 0 to 255, or float, 0 to 1;
                - an array (B, H, W, 3), or a list or an iterator of any of these.

                A model of images as they are stored takes files, and arrays (H, W, C), of its type.
            task: "panoptic", "instance" or "semantic"; by default `task`.
            threshold: lowest score of the instances to keep, or lowest class probability of
                panoptic segments; by default as when the model was exported. Semantic segmentation
                has none.
            channel_order: "RGB" or "BGR", for arrays.

        Returns:
            A `Prediction` for one image, a list of them for several, or an iterator for an
            iterator of images.

        Raises:
            ValueError: an image cannot be read (`ImageReadError`) or is of a wrong shape or type,
                or the model does not do the task.
        """
        segmenter = self.segmenter(task, threshold)
        opened = open_images(images, channel_order=channel_order, stored=segmenter.stored)
        return opened.results(segmenter.find)

    def segmenter(self, task: str | None = None, threshold: float | None = None) -> Segmenter:
        """Return what `predict` runs on each image, for callers that hold pixels already.

        Args:
            task: see `predict`.
            threshold: see `predict`.

        Raises:
            ValueError: the model does not do the task, or the task has no threshold.
        """
        task = self.task if task is None else task
        if task not in self.tasks:
            raise ValueError(
                f"{self.file} does not do the task {one_line(repr(task), 60)}, but "
                f"{' and '.join(self.tasks)}"
            )
        check_threshold(task, threshold)
        return Segmenter(self._network, task, threshold)

    def __repr__(self) -> str:
        return f"Model({self.file}: {self.task} segmentation, {len(self.classes)} classes)"


class Segmenter:
    """A model that finds one kind of result in images.

    Args:
        network: maps images to logits.
        task: "panoptic", "instance" or "semantic".
        threshold: see `Model.predict`; None is for that of the file.
    """

    def __init__(self, network: Network, task: str, threshold: float | None = None):
        self.network = network
        self.task = task
        self.classes = network.metadata.classes
        self._given = threshold

    @property
    def stored(self) -> StoredKind | None:
        """How the images that the model takes are stored; None for pictures of 8 bits."""
        return self.network.metadata.input.stored

    @property
    def threshold(self) -> float | Sequence[float]:
        """The lowest score of the instances to keep, or that of each class."""
        rules = self.network.metadata.postprocessing
        if self._given is not None:
            return self._given
        return rules.threshold if rules.thresholds is None else rules.thresholds

    def find(self, image: np.ndarray, source: ImageSource | None = None) -> Prediction:
        """Return what is in an image.

        Args:
            image: (H, W, 3) uint8, BGR, or (H, W, C) float32 as it is stored.
            source: where the prediction finds the image again; by default it keeps the pixels.

        Raises:
            ExportError: the network cannot be run on the image.
        """
        source = ImageSource(pixels=as_picture(image)) if source is None else source
        size = image.shape[0], image.shape[1]
        queries, rules = self.queries(image), self.network.metadata.postprocessing
        if self.task == "semantic":
            labels = class_map(queries, size, resize_first=rules.semantic_resize_first)
            return SemanticPrediction.from_labels(labels, self.classes, source)
        if self.task == "panoptic":
            ids, found = segments(
                queries,
                size,
                object_mask_threshold=(
                    rules.object_mask_threshold if self._given is None else self._given
                ),
                overlap_threshold=rules.overlap_threshold,
                thing_classes=self.classes.things or (),
            )
            return PanopticPrediction.from_segments(ids, found, self.classes, source)
        best = instances(
            queries,
            size,
            max_detections=rules.max_detections,
            threshold=self.threshold,
            thing_classes=self.classes.things,
            mask_nms=rules.mask_nms,
        )
        return InstancePrediction(
            size=size,
            classes=self.classes,
            labels=best.labels,
            scores=best.scores,
            boxes=best.boxes,
            planes=best.planes,
            source=source,
        )

    def find_all(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """Return what is in several images; see `find`."""
        return [self.find(image) for image in images]

    def queries(self, image: np.ndarray) -> Queries:
        """Run the network on an image; see `find`."""
        spec = self.network.metadata.input
        pixels, image_size = network_input(image, spec)
        padded_size = pixels.shape[2], pixels.shape[3]
        if spec.batch is not None:  # the rest of the batch stays empty
            pixels = np.pad(pixels, ((0, spec.batch - 1), (0, 0), (0, 0), (0, 0)))
        logits, masks = self.network(pixels)
        return Queries(logits[0], masks[0], padded_size, image_size)
