"""Predictions from a file of results beside the ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from detectron2.data.catalog import Metadata
from PIL import Image

from ..data.image import read_shown
from ..evaluation.ground_truth import panoptic_classes
from ..structures import Classes
from ..tasks import TASKS
from ..visualization.object_colors import shared_colors
from ..visualization.result_files import ResultFile
from ..visualization.scenes import true_scene
from ..visualization.side_by_side import side_by_side


def classes_of(metadata: Metadata, task: str) -> Classes:
    """Return the classes of a data set for a task.

    Raises:
        ValueError: the metadata does not describe the classes of the task.
    """
    key = TASKS[task].class_names
    if metadata.get(key) is None:
        raise ValueError(f"data set {metadata.name!r} has no {key} in its metadata")
    things, stuff = panoptic_classes(metadata)
    if task == "panoptic" and things is not stuff:
        raise ValueError(
            f"data set {metadata.name!r} numbers things and stuff separately, so one class has "
            "several numbers: register it with mask2former.data.register_coco_panoptic"
        )
    classes = things if task == "instance" else stuff
    return replace(classes, ignore_label=metadata.get("ignore_label", 255))


class Comparison:
    """Draws predictions beside ground truth, one image at a time.

    Args:
        results: the predictions.
        metadata: the metadata of the data set.
        threshold: the lowest score of instances or segments to draw.
    """

    def __init__(self, results: ResultFile, metadata: Metadata, threshold: float | None):
        self._results, self._threshold = results, threshold
        self._classes = classes_of(metadata, results.task)

    def draw(
        self, record: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]
    ) -> tuple[Image.Image, str]:
        """Draw one image.

        Returns:
            The picture, and a summary of it in a few words.

        Raises:
            ValueError: a file cannot be read or is not usable; the message names the image.
        """
        path = record["file_name"]
        image = read_shown(path)
        record = {**record, "height": image.shape[0], "width": image.shape[1]}
        try:
            found = self._results.scene(
                entries,
                (image.shape[0], image.shape[1]),
                self._classes,
                threshold=self._threshold,
            )
            truth = true_scene(self._results.task, record, self._classes)
            colors, found_colors = shared_colors(truth, found, self._classes)
            scenes = [("prediction", found, found_colors)]
            if truth is not None:
                scenes.insert(0, ("ground truth", truth, colors))
            pictures = [scene.draw(image, self._classes, c) for _, scene, c in scenes]
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        captions = [f"{name}: {scene.summary(self._classes)}" for name, scene, _ in scenes]
        return side_by_side(pictures, captions), ", ".join(captions)
