"""The meta-architecture: images in, losses or Detectron2 results out."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone, build_sem_seg_head
from detectron2.structures import ImageList
from torch import Tensor, nn

from ...tasks import TASKS
from ...utils.size import Size
from ..backbone.folding import fold_norms
from ..criterion import SetCriterion
from ..draws import draws_per_image
from ..matcher import HungarianMatcher
from ..pixel_decoder.base import LastUse
from ..postprocessing import instance_inference, panoptic_inference, semantic_inference
from ..query_prediction import QueryPrediction
from ..targets import image_target


@META_ARCH_REGISTRY.register()
class MaskFormer(nn.Module):
    """Mask classification: a set of (class, mask) predictions per image.

    Args:
        backbone: gives feature maps by name.
        sem_seg_head: from feature maps to predictions.
        criterion: from predictions and targets to weighted losses; None if the model is only used.
        size_divisibility: inputs are padded to multiples of this, or of the backbone's own number
            if this is negative.
        pixel_mean: per channel, in the order of ``INPUT.FORMAT``; C values, usually 3.
        pixel_std: per channel.
        max_detections: instances per image.
        instance_on: whether inference returns ``instances``.
        semantic_on: whether it returns ``sem_seg``.
        panoptic_on: whether it returns ``panoptic_seg``.
        semantic_resize_first: see `semantic_inference`.
        object_mask_threshold: see `panoptic_inference`.
        overlap_threshold: see `panoptic_inference`.
        mask_nms: see `instance_inference`; 1 keeps all instances.
        thing_classes: which of the classes, from 0, are things. ``panoptic_seg`` needs them, and
            ``instances`` are of these only; None, without ``panoptic_seg``, is for ``instances`` of
            all classes.
        piloted: whether the head is given the targets in training, for mask-piloted training.
        ignore_regions: whether pixels that nobody labelled are left out of training.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        sem_seg_head: nn.Module,
        criterion: SetCriterion | None,
        size_divisibility: int,
        pixel_mean: list[float],
        pixel_std: list[float],
        max_detections: int,
        instance_on: bool = True,
        semantic_on: bool = False,
        panoptic_on: bool = False,
        semantic_resize_first: bool = False,
        object_mask_threshold: float = 0.8,
        overlap_threshold: float = 0.8,
        mask_nms: float = 1.0,
        thing_classes: Collection[int] | None = None,
        piloted: bool = False,
        ignore_regions: bool = False,
    ):
        super().__init__()
        if not (instance_on or semantic_on or panoptic_on):
            raise ValueError(
                "the model would predict nothing: set at least one of INSTANCE_ON, SEMANTIC_ON and "
                "PANOPTIC_ON of MODEL.MASK_FORMER.TEST"
            )
        if len(pixel_mean) != len(pixel_std):
            raise ValueError(
                f"MODEL.PIXEL_MEAN has {len(pixel_mean)} values and MODEL.PIXEL_STD "
                f"{len(pixel_std)}: give one of each per channel"
            )
        if panoptic_on and thing_classes is None:
            raise ValueError("panoptic_on needs thing_classes: which of the classes are things")
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.criterion = criterion
        if size_divisibility < 0:
            size_divisibility = int(backbone.size_divisibility)  # type: ignore[arg-type]
        self.size_divisibility = size_divisibility
        self.max_detections = max_detections
        self.instance_on = instance_on
        self.semantic_on = semantic_on
        self.panoptic_on = panoptic_on
        self.semantic_resize_first = semantic_resize_first
        self.object_mask_threshold = object_mask_threshold
        self.overlap_threshold = overlap_threshold
        self.mask_nms = mask_nms
        self.thing_classes = thing_classes
        self.piloted = piloted
        self.ignore_regions = ignore_regions
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return constructor arguments from a config.

        Raises:
            ValueError: with ``PANOPTIC_ON``, if it is not known which classes are things, or if
                they are not among the model's classes.
        """
        mask_former = cfg.MODEL.MASK_FORMER
        backbone = build_backbone(cfg)
        fold_norms(backbone)
        weights = {
            "class": mask_former.CLASS_WEIGHT,
            "mask": mask_former.MASK_WEIGHT,
            "dice": mask_former.DICE_WEIGHT,
        }
        matcher = HungarianMatcher(
            **{f"cost_{key}": weight for key, weight in weights.items()},
            num_points=mask_former.TRAIN_NUM_POINTS,
        )
        criterion = SetCriterion(
            cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            matcher=matcher,
            weight_dict={
                "loss_ce": weights["class"],
                "loss_mask": weights["mask"],
                "loss_dice": weights["dice"],
            },
            deep_supervision=mask_former.DEEP_SUPERVISION,
            no_object_weight=mask_former.NO_OBJECT_WEIGHT,
            class_weights=mask_former.CLASS_LOSS_WEIGHTS or None,
            num_points=mask_former.TRAIN_NUM_POINTS,
            oversample_ratio=mask_former.OVERSAMPLE_RATIO,
            importance_sample_ratio=mask_former.IMPORTANCE_SAMPLE_RATIO,
        )
        return {
            "backbone": backbone,
            "sem_seg_head": build_sem_seg_head(cfg, backbone.output_shape()),
            "criterion": criterion,
            "size_divisibility": mask_former.SIZE_DIVISIBILITY,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            **inference_arguments(cfg),
            "thing_classes": _thing_classes(cfg),
            "piloted": mask_former.PILOTED.GROUPS > 0,
            "ignore_regions": mask_former.IGNORE_REGIONS,
        }

    @property
    def result_keys(self) -> tuple[str, ...]:
        """Names of the results that are switched on."""
        return tuple(t.output for t in TASKS.values() if getattr(self, t.switch.lower()))

    def only(
        self,
        task: str,
        *,
        semantic_resize_first: bool = False,
        object_mask_threshold: float | None = None,
    ) -> MaskFormer:
        """Return a model that shares all parameters, for inference of one result.

        Args:
            task: one of `TASKS`.
            semantic_resize_first: see `semantic_inference`.
            object_mask_threshold: see `panoptic_inference`; None keeps that of this model.

        Raises:
            ValueError: the task is panoptic, and it is not known which classes are things.
        """
        if task == "panoptic" and self.thing_classes is None:
            raise ValueError("panoptic_on needs thing_classes: which of the classes are things")
        view = copy.copy(self)
        for other in TASKS.values():
            setattr(view, other.switch.lower(), other.name == task)
        view.semantic_resize_first = semantic_resize_first
        if object_mask_threshold is not None:
            view.object_mask_threshold = object_mask_threshold
        return view

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Compute losses in training mode, results otherwise.

        Args:
            batched_inputs: Detectron2's dicts: ``image`` uint8 (3, H, W) in ``INPUT.FORMAT``,
                or float32 (C, H, W) of images as they are stored;
                ``instances`` with ``gt_classes`` and ``gt_masks`` (PackedMasks, BitMasks,
                PolygonMasks or a tensor) in training, and optionally ``seed``, the seed of the
                image's random draws, and with `ignore_regions` ``ignored_mask``, see
                `find_labelled_region`; optionally ``height`` and ``width`` of the output.

        Returns:
            In training a dict of weighted losses; otherwise for each image a dict of what is
            switched on, each of the output's size: ``instances``, ``sem_seg`` (K, H, W) and
            ``panoptic_seg`` (a map and a list of segments).
        """
        if self.training:
            with draws_per_image(batched_inputs, self.device):
                return self._losses(batched_inputs)
        outputs, batch = self._outputs(batched_inputs)
        return [
            self.results(
                prediction,
                (
                    x.get("height", prediction.image_size[0]),
                    x.get("width", prediction.image_size[1]),
                ),
            )
            for x, prediction in zip(batched_inputs, _predictions(outputs, batch), strict=True)
        ]

    def _losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        assert self.criterion is not None
        batch = self._batch(batched_inputs)
        targets = [
            image_target(
                x,
                num_classes=self.criterion.num_classes,
                padded_size=_padded_size(batch),
                device=self.device,
                ignore_regions=self.ignore_regions,
            )
            for x in batched_inputs
        ]
        features = self.backbone(batch.tensor)
        outputs = (
            self.sem_seg_head(features, targets) if self.piloted else self.sem_seg_head(features)
        )
        return self.criterion(outputs, targets)

    def predict(self, batched_inputs: list[dict[str, Any]]) -> list[QueryPrediction]:
        """Predict the queries of each image, at the resolution of the network, for `results`."""
        return _predictions(*self._outputs(batched_inputs))

    def results(
        self, prediction: QueryPrediction, output_size: Size, keys: Collection[str] | None = None
    ) -> dict[str, Any]:
        """Turn the queries of an image into Detectron2's results.

        Args:
            prediction: of `predict`.
            output_size: (H, W) of the results.
            keys: which results to make; None is for `result_keys`.
        """
        results: dict[str, Any] = {}
        for key in self.result_keys if keys is None else keys:
            if key == "sem_seg":
                results[key] = semantic_inference(
                    prediction, output_size, resize_first=self.semantic_resize_first
                )
            elif key == "panoptic_seg":
                assert self.thing_classes is not None
                results[key] = panoptic_inference(
                    prediction,
                    output_size,
                    object_mask_threshold=self.object_mask_threshold,
                    overlap_threshold=self.overlap_threshold,
                    thing_classes=self.thing_classes,
                )
            elif key == "instances":
                results[key] = instance_inference(
                    prediction,
                    output_size,
                    max_detections=self.max_detections,
                    thing_classes=self.thing_classes,
                    mask_nms=self.mask_nms,
                )
        return results

    def _outputs(self, batched_inputs: list[dict[str, Any]]) -> tuple[dict[str, Any], ImageList]:
        """Return the network's output for a batch, and the batch.

        Raises:
            FloatingPointError: the output contains NaN or infinity.
        """
        batch = self._batch(batched_inputs)
        features = self.backbone(batch.tensor)
        # An exported file takes the place of both, and is given the images.
        if isinstance(features, dict) and not torch.compiler.is_compiling():
            features = LastUse(features)
        outputs = self.sem_seg_head(features)
        # No comparison holds for NaN, so that nothing would be found. float16 could not hold a sum.
        sums = [outputs[key].sum(dtype=torch.float32) for key in ("pred_logits", "pred_masks")]
        if not torch.stack(sums).isfinite().all():
            raise FloatingPointError(
                f"the network gives NaN or infinity for images of {_padded_size(batch)} pixels: "
                "its weights are damaged, or its precision cannot hold its values"
            )
        return outputs, batch

    def _batch(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Return the normalised images, padded to one size."""
        images = [
            (x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs
        ]
        return ImageList.from_tensors(images, self.size_divisibility)


def inference_arguments(cfg: CfgNode) -> dict[str, Any]:
    """Return those of `MaskFormer`'s arguments that say which results it makes, and how."""
    test = cfg.MODEL.MASK_FORMER.TEST
    return {
        "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
        "instance_on": test.INSTANCE_ON,
        "semantic_on": test.SEMANTIC_ON,
        "panoptic_on": test.PANOPTIC_ON,
        # As published: a model of several tasks takes all of them from the same resized masks.
        "semantic_resize_first": test.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE
        or test.PANOPTIC_ON
        or test.INSTANCE_ON,
        "object_mask_threshold": test.OBJECT_MASK_THRESHOLD,
        "overlap_threshold": test.OVERLAP_THRESHOLD,
        "mask_nms": cfg.TEST.MASK_NMS,
    }


def _padded_size(batch: ImageList) -> Size:
    height, width = batch.tensor.shape[-2:]
    return height, width


def _predictions(outputs: dict[str, Any], batch: ImageList) -> list[QueryPrediction]:
    return [
        QueryPrediction(logits, masks, _padded_size(batch), size)
        for logits, masks, size in zip(
            outputs["pred_logits"], outputs["pred_masks"], batch.image_sizes, strict=True
        )
    ]


def _thing_classes(cfg: CfgNode) -> list[int] | None:
    """Return the contiguous ids of the thing classes of the data set that the model is trained on.

    Without ``PANOPTIC_ON``, None if the data set does not tell things from stuff among as many
    classes as the model has, as panoptic ones do.
    """
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]  # an evaluation may name no training set
    metadata = MetadataCatalog.get(names[0]) if names else None
    ids = metadata.get("thing_dataset_id_to_contiguous_id") if metadata else None
    num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if not cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON:
        classes = metadata.get("stuff_classes") if metadata else None
        if ids is None or classes is None or len(classes) != num_classes:
            return None
    if ids is None:
        source = f"data set {names[0]!r}" if names else "DATASETS.TRAIN, which is empty,"
        raise ValueError(
            "MODEL.MASK_FORMER.TEST.PANOPTIC_ON needs to know which classes are things, but "
            f"{source} does not say: name a registered panoptic data set in DATASETS.TRAIN, set "
            "its MetadataCatalog entry's thing_dataset_id_to_contiguous_id (from ids in the "
            "annotations to classes, of things only), or set PANOPTIC_ON False"
        )
    things = sorted(ids.values())
    if things and things[-1] >= num_classes:
        raise ValueError(
            f"class {things[-1]} is a thing by the data set {names[0]!r}, but "
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}: name the data set that the model is "
            "of in DATASETS.TRAIN"
        )
    return things
