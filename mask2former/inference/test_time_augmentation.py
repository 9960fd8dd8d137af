"""Inference on resized and flipped views of an image, whose predictions are averaged.

Shapes:
    K: classes, H, W: size of the result, h, w: size of the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..data.mapper import SegmentationMapper
from ..data.mapper.augmentations import ResizeShortestEdge
from ..modeling.meta_arch import MaskFormer
from ..utils.size import Size
from .query_ensemble import QueryEnsemble


class InferenceWithTTA(nn.Module):
    """Runs a model on several views of each image. It is called in the same way as the model.

    Semantic scores are averaged at the size of the result, one view at a time, so that memory never
    holds more than two maps of scores. Instances and panoptic segments come from the mean queries
    (`QueryEnsemble`) at the resolution of the largest view.

    Args:
        model: a MaskFormer, or a model that returns only ``sem_seg`` (K, H, W).
        min_sizes: length of the shorter side of each view, in pixels.
        max_size: limit of the longer side in pixels; a view that would exceed it is made smaller.
        flip: whether to add a mirror image of each view.
        image_format: order of the channels that the model takes, such as "RGB".

    Raises:
        ValueError: a size is missing or is not a positive integer.
    """

    @configurable
    def __init__(
        self,
        model: nn.Module,
        *,
        min_sizes: Sequence[int],
        max_size: int,
        flip: bool,
        image_format: str,
    ):
        super().__init__()
        if not min_sizes:
            raise ValueError("TEST.AUG.MIN_SIZES is empty: name the sizes of the views")
        if bad := [x for x in (*min_sizes, max_size) if int(x) != x or x < 1]:
            raise ValueError(
                f"TEST.AUG.MIN_SIZES and MAX_SIZE must be whole numbers from 1, got {bad}"
            )
        self.model = model.module if isinstance(model, DistributedDataParallel) else model
        self.train(model.training)
        # The first view's masks set the grid of all views, so the largest view comes first.
        self.min_sizes = sorted((int(size) for size in min_sizes), reverse=True)
        self.max_size = int(max_size)
        self.flip = flip
        self.read = SegmentationMapper(False, augmentations=[], image_format=image_format)

    @classmethod
    def from_config(cls, cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
        """Return the constructor's arguments, from a config."""
        return {
            "model": model,
            "min_sizes": cfg.TEST.AUG.MIN_SIZES,
            "max_size": cfg.TEST.AUG.MAX_SIZE,
            "flip": cfg.TEST.AUG.FLIP,
            "image_format": cfg.INPUT.FORMAT,
        }

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Predict; the results have the form of the model's.

        Args:
            batched_inputs: Detectron2's dicts, with ``image`` uint8 (3, h, w), preferably at the
                size of the file, or ``file_name``; optionally ``height`` and ``width`` of the
                result.

        Raises:
            ValueError: the model is in training mode, or its results cannot be averaged.
        """
        if self.model.training:
            raise ValueError("test-time augmentation is for inference: call eval() first")
        return [self._infer(x) for x in batched_inputs]

    def _infer(self, x: dict[str, Any]) -> dict[str, Any]:
        if "image" not in x:
            x = self.read(x)
        height, width = x["image"].shape[-2:]
        size = x.get("height", height), x.get("width", width)
        views = (
            ({"image": image, "height": size[0], "width": size[1]}, flipped)
            for image, flipped in self.views(x["image"])
        )
        if isinstance(self.model, MaskFormer):
            return self._infer_queries(self.model, views, size)
        semantic = SemanticMean()
        for view, flipped in views:
            semantic.add(self._scores(view), flipped=flipped)
        return {"sem_seg": semantic.result()}

    def _infer_queries(
        self, model: MaskFormer, views: Iterable[tuple[dict[str, Any], bool]], size: Size
    ) -> dict[str, Any]:
        of_queries = [key for key in model.result_keys if key != "sem_seg"]
        semantic = SemanticMean()
        ensemble: QueryEnsemble | None = None
        for view, flipped in views:
            (prediction,) = model.predict([view])
            if model.semantic_on:
                # The scores have no name here: it would keep them alive while the next view runs.
                semantic.add(
                    model.results(prediction, size, ["sem_seg"])["sem_seg"], flipped=flipped
                )
            if ensemble is None:
                ensemble = QueryEnsemble(prediction)
            elif of_queries:
                ensemble.add(prediction, flipped=flipped)
        assert ensemble is not None
        results = model.results(ensemble.result(), size, of_queries)
        if model.semantic_on:
            results["sem_seg"] = semantic.result()
        return results

    def _scores(self, view: dict[str, Any]) -> Tensor:
        (result,) = self.model([view])
        if set(result) != {"sem_seg"}:
            raise ValueError(
                f"test-time augmentation cannot average {sorted(set(result) - {'sem_seg'})} of a "
                f"{type(self.model).__name__}: it supports MaskFormer, and models that return "
                "only 'sem_seg'. Set TEST.AUG.ENABLED False"
            )
        return result["sem_seg"]

    def views(self, image: Tensor) -> Iterator[tuple[Tensor, bool]]:
        """Yield views of an image (3, h, w), from large to small, and whether each is flipped."""
        array = image.permute(1, 2, 0).cpu().numpy()
        for size in self.min_sizes:
            resize = ResizeShortestEdge(size, self.max_size).get_transform(array)
            resized = np.ascontiguousarray(resize.apply_image(array).transpose(2, 0, 1))
            view = torch.from_numpy(resized)
            yield view, False
            if self.flip:
                yield view.flip(-1), True


class SemanticMean:
    """The mean of semantic scores; memory holds their sum and one view's scores at most."""

    def __init__(self) -> None:
        self.views = 0
        self._total: Tensor | None = None

    def add(self, scores: Tensor, *, flipped: bool) -> None:
        """Add scores (K, H, W), flipped back if `flipped`; later calls may change the first."""
        self.views += 1
        if self._total is None:
            self._total = scores.flip(-1) if flipped else scores
            return
        # Per class, so that flipping copies the scores of one class at a time.
        for total, score in zip(self._total, scores, strict=True):
            total += score.flip(-1) if flipped else score

    def result(self) -> Tensor:
        """Return the mean (K, H, W); it overwrites the sum, so call this once."""
        assert self._total is not None
        return self._total.div_(self.views)
