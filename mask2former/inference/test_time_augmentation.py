"""Inference on resized and flipped views of an image, brought together.

Shapes:
    K: classes, H, W: size of the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..data.mapper import SegmentationMapper
from ..modeling.meta_arch import MaskFormer
from ..utils.size import Size
from .query_ensemble import QueryEnsemble


class InferenceWithTTA(nn.Module):
    """A model that is asked about several views of each image. It is called as the model is.

    Semantic scores are averaged over the views at the size of the result, one view at a time, so
    that there are never more than two maps of them. Instances and panoptic segments come from the
    mean queries (`QueryEnsemble`) at the resolution of the largest view.

    Args:
        model: a MaskFormer, or a model that returns ``sem_seg`` (K, H, W) and nothing else.
        min_sizes: of each view the length of the shorter side, pixels.
        max_size: limit of the longer side; the image is resized to less where it would be more.
        flip: whether each view is also seen in a mirror.
        image_format: of files, such as "RGB".
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
        # The first view's masks are the grid of all: the finest one loses nothing.
        self.min_sizes = sorted((int(size) for size in min_sizes), reverse=True)
        self.max_size = int(max_size)
        self.flip = flip
        self.read = SegmentationMapper(False, augmentations=[], image_format=image_format)

    @classmethod
    def from_config(cls, cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
        """Constructor arguments from a config."""
        return {
            "model": model,
            "min_sizes": cfg.TEST.AUG.MIN_SIZES,
            "max_size": cfg.TEST.AUG.MAX_SIZE,
            "flip": cfg.TEST.AUG.FLIP,
            "image_format": cfg.INPUT.FORMAT,
        }

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Results for each image, as of the model.

        Args:
            batched_inputs: Detectron2's dicts: ``image`` uint8 (3, h, w), best as large as the file
                has it, or else ``file_name``; optionally ``height`` and ``width`` of the result.

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
                # no name for the scores, which would keep them while the next ones are made
                semantic.add(
                    model.results(prediction, size, ["sem_seg"])["sem_seg"], flipped=flipped
                )
            if ensemble is None:
                ensemble = QueryEnsemble(prediction)
            elif of_queries:
                ensemble.add(prediction, flipped=flipped)
        assert ensemble is not None
        results = {"sem_seg": semantic.result()} if model.semantic_on else {}
        return {**results, **model.results(ensemble.result(), size, of_queries)}

    def _scores(self, view: dict[str, Any]) -> Tensor:
        (result,) = self.model([view])
        if set(result) != {"sem_seg"}:
            raise ValueError(
                f"test-time augmentation cannot average {sorted(set(result) - {'sem_seg'})} of a "
                f"{type(self.model).__name__}: it knows MaskFormer, and models that return "
                "'sem_seg' alone. Set TEST.AUG.ENABLED False"
            )
        return result["sem_seg"]

    def views(self, image: Tensor) -> Iterator[tuple[Tensor, bool]]:
        """The views of an image (3, h, w), from large to small, and whether each is flipped."""
        array = image.permute(1, 2, 0).cpu().numpy()
        for size in self.min_sizes:
            resize = T.ResizeShortestEdge(size, self.max_size).get_transform(array)
            resized = np.ascontiguousarray(resize.apply_image(array).transpose(2, 0, 1))
            view = torch.from_numpy(resized)
            yield view, False
            if self.flip:
                yield view.flip(-1), True


class SemanticMean:
    """The mean of semantic scores, summed up in place: two maps of scores at most."""

    def __init__(self) -> None:
        self.views = 0
        self._total: Tensor | None = None

    def add(self, scores: Tensor, *, flipped: bool) -> None:
        """Take scores (K, H, W) in, flipped back if they are flipped; the first may be kept."""
        self.views += 1
        if self._total is None:
            self._total = scores.flip(-1) if flipped else scores
            return
        for total, score in zip(self._total, scores, strict=True):  # one class more in memory
            total += score.flip(-1) if flipped else score

    def result(self) -> Tensor:
        """The mean (K, H, W), which is made of the sum."""
        assert self._total is not None
        return self._total.div_(self.views)
