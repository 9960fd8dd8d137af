"""A trained model as a function from one image to its predictions."""

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge, ResizeTransform
from detectron2.modeling import build_model
from detectron2.structures import Instances
from torch import nn
from torch.nn import functional as F

from ..checkpoint import load_weights
from ..modeling.postprocessing import CHUNK_PIXELS


class Predictor:
    """Resizes an image as in evaluation, runs the model on it, returns what the model returns.

    Like Detectron2's `DefaultPredictor`, but it refuses weights that do not fill the whole model,
    and very thin images do not vanish in the resizing.
    """

    def __init__(self, model: nn.Module, *, min_size: int, max_size: int, image_format: str):
        """
        Args:
            model: takes Detectron2's list of dicts; it is put into evaluation mode.
            min_size: length in pixels to resize the shorter side to, 0 for no resizing.
            max_size: limit of the longer side, which has precedence.
            image_format: order of the channels that the model takes, "RGB" or "BGR".
        """
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"INPUT.FORMAT must be RGB or BGR, got {image_format!r}")
        self.model = model.eval()
        self.min_size = min_size
        self.max_size = max_size
        self.image_format = image_format

    @classmethod
    def from_config(cls, cfg: CfgNode, allow_unsafe_weights: bool = False) -> "Predictor":
        """Build the model that `cfg` describes and load `MODEL.WEIGHTS`.

        Raises:
            ValueError: the weights are missing or do not fit the model.
        """
        if not cfg.MODEL.WEIGHTS:
            raise ValueError(
                "the config names no weights; add: --opts MODEL.WEIGHTS path/to/model_final.pth"
            )
        model = build_model(cfg)
        load_weights(model, cfg.MODEL.WEIGHTS, allow_unsafe=allow_unsafe_weights)
        return cls(
            model,
            min_size=cfg.INPUT.MIN_SIZE_TEST,
            max_size=cfg.INPUT.MAX_SIZE_TEST,
            image_format=cfg.INPUT.FORMAT,
        )

    def __call__(self, image: np.ndarray) -> dict[str, Any]:
        """Predict.

        Args:
            image: (H, W, 3) uint8, BGR as OpenCV and `DefaultPredictor` have it.

        Returns:
            what the model returns for the image, such as `{"instances": Instances}` of size (H, W).
        """
        return self._predict(image, (image.shape[0], image.shape[1]))

    def labels(self, image: np.ndarray) -> np.ndarray:
        """The class with the highest score at each pixel, of a model with `sem_seg`.

        Where the model's last step is to enlarge the scores, that is done here for a few classes at
        a time: for a photograph, the scores of all together would take gigabytes.

        Args:
            image: (H, W, 3) uint8, BGR.

        Returns:
            (H, W) int32.
        """
        size = image.shape[0], image.shape[1]
        enlarged_within = getattr(self.model, "semantic_resize_first", False)
        scores_size = size if enlarged_within else self._network_size(*size)
        return best_classes(self._predict(image, scores_size)["sem_seg"], size).cpu().numpy()

    def _predict(self, image: np.ndarray, output_size: tuple[int, int]) -> dict[str, Any]:
        if self.image_format == "RGB":
            image = image[:, :, ::-1]
        image = ResizeTransform(
            *image.shape[:2], *self._network_size(*image.shape[:2])
        ).apply_image(np.ascontiguousarray(image))
        tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        height, width = output_size
        with torch.inference_mode():
            return self.model([{"image": tensor, "height": height, "width": width}])[0]

    def _network_size(self, height: int, width: int) -> tuple[int, int]:
        if self.min_size == 0:
            return height, width
        size = ResizeShortestEdge.get_output_shape(height, width, self.min_size, self.max_size)
        return max(1, size[0]), max(1, size[1])


def best_classes(
    scores: torch.Tensor, size: tuple[int, int], chunk_pixels: int = CHUNK_PIXELS
) -> torch.Tensor:
    """The class with the highest score at each pixel.

    Args:
        scores: (K, h, w).
        size: (H, W) to resize the scores to, bilinearly as models do it.
        chunk_pixels: resize as many classes at a time as fit into so many pixels, but one at least.

    Returns:
        (H, W) int32.
    """
    best = scores.new_full(size, -torch.inf, dtype=torch.float32)
    labels = torch.zeros(size, dtype=torch.int32, device=scores.device)
    chunk = max(1, chunk_pixels // (size[0] * size[1]))
    for first in range(0, len(scores), chunk):
        part = scores[None, first : first + chunk].float()
        if part.shape[-2:] != size:
            part = F.interpolate(part, size=size, mode="bilinear", align_corners=False)
        values, classes = part[0].max(0)
        better = values > best
        labels[better] = classes[better].int() + first
        torch.maximum(best, values, out=best)
    return labels


def confident(instances: Instances, threshold: float) -> Instances:
    """The instances with a score of at least `threshold` and a mask that is not empty, on the CPU.

    They come in descending order of score.
    """
    kept = (instances.scores >= threshold) & instances.pred_masks.flatten(1).any(1)
    instances = instances[kept]
    return instances[instances.scores.argsort(descending=True, stable=True)].to("cpu")
