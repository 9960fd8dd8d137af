"""What an exported file says about its model: everything but the network."""

from __future__ import annotations

from mask2former_runtime.metadata import InputSpec, Metadata, Rules

from .. import __version__
from ..inference.segmenters import DEFAULT_THRESHOLD, LoadedModel
from ..modeling.meta_arch import MaskFormer
from .program import Fixed


def describe(
    model: LoadedModel,
    *,
    fixed: Fixed,
    precision: str,
    operator: str,
    license: str | None,
    outputs: str,
) -> Metadata:
    """Return the metadata of an export.

    Args:
        model: the model with its config and classes.
        fixed: the dimensions of the input that are not open.
        precision: "fp32", "fp16", "bf16" or "int8".
        operator: see `trace`.
        license: of the weights, if it is known.
        outputs: "queries" or "results".
    """
    predictor, network = model.predictor, model.predictor.model
    assert isinstance(network, MaskFormer)
    test = model.cfg.MODEL.MASK_FORMER.TEST
    return Metadata(
        task=model.task,
        tasks=model.tasks,
        classes=model.classes,
        input=InputSpec(
            channel_order=predictor.image_format,
            mean=network.pixel_mean.flatten().tolist(),
            std=network.pixel_std.flatten().tolist(),
            size_divisibility=max(network.size_divisibility, 1),
            min_size=predictor.min_size,
            max_size=predictor.max_size,
            batch=fixed.batch,
            height=fixed.height,
            width=fixed.width,
        ),
        postprocessing=Rules(
            max_detections=network.max_detections,
            object_mask_threshold=network.object_mask_threshold,
            overlap_threshold=network.overlap_threshold,
            semantic_resize_first=test.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE,
            threshold=DEFAULT_THRESHOLD,
            thresholds=model.class_thresholds,
            mask_nms=network.mask_nms,
        ),
        producer=f"mask2former {__version__}",
        outputs=outputs,
        precision=precision,
        operator=operator,
        license=license,
        weights_sha256=model.weights_sha256,
        config=model.cfg.dump(),
    )
