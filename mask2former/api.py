"""One object for a model: load it, predict, train, evaluate, save it.

from mask2former import Mask2Former

model = Mask2Former.from_pretrained("output/mine")
result = model.predict("photo.jpg")
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn

from .checkpoint.huggingface.save import save_hf_folder
from .inference.hub import upload_model
from .inference.images import open_images
from .inference.model_sources import find_model
from .inference.segmenters import LoadedModel, Segmenter, load_model
from .structures import Classes
from .utils.device import check_device, choose_precision


class Mask2Former:
    """A trained model.

    `from_pretrained` makes one. It can be used from several threads at once, pickled and copied
    with `copy.deepcopy`.

    Args:
        model: the model with its config and classes.
        precision: see `from_pretrained`.
    """

    def __init__(self, model: LoadedModel, *, precision: str | torch.dtype | None = None):
        self._model = model
        self._set_precision(precision)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        task: str | None = None,
        device: str | torch.device | None = None,
        precision: str | torch.dtype | None = None,
        config_file: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        overrides: Sequence[object] = (),
        allow_unsafe_config: bool = False,
        allow_unsafe_weights: bool = False,
    ) -> Mask2Former:
        """Load a model.

        The network is used only if `source` is the name of a published model, the id of a model on
        the Hugging Face Hub or an address, and the files are not in the cache.

        Args:
            source: one of

                - the folder of a training run, such as "output/mine";
                - a file of weights, ``.pth``, ``.pkl`` or ``.safetensors``, with its config beside
                  it or as `config_file`;
                - a Hugging Face folder, or the id of a model on the Hub, such as
                  "facebook/mask2former-swin-base-coco-instance" (needs
                  ``pip install "mask2former[hub]"``);
                - the name of a published model (see `mask2former.model_zoo`), such as
                  "coco/instance-segmentation/maskformer2_R50_bs16_50ep".
            task: what to predict by default: "panoptic", "instance" or "semantic". A panoptic model
                can do all three. By default it is what the model was trained for.
            device: such as "cpu" or "cuda:1". By default that of the config if PyTorch finds a GPU,
                or else the CPU.
            precision: "float32" (the default), "bfloat16", "float16" (only on a GPU) or "auto", the
                fastest of them. On a CPU that is not faster with bfloat16, float32 is used instead.
            config_file: the config of a file or an address of weights.
            revision: branch, tag or commit of a model on the Hub.
            overrides: ``[key, value, ...]`` of the config to change, such as
                ``["INPUT.MIN_SIZE_TEST", 640]``.
            allow_unsafe_config: let YAML tags in the config run Python code.
            allow_unsafe_weights: let a pickle of weights run Python code.

        Raises:
            ValueError: the model cannot be found, read or used as asked; the message says what to
                do. It is a `WeightsError` if the weights are the reason.
        """
        found = find_model(source, config_file=config_file, revision=revision)
        where: tuple[object, ...] = ()
        if device is not None:
            where = ("MODEL.DEVICE", str(device))
        elif not torch.cuda.is_available():
            where = ("MODEL.DEVICE", "cpu")
        model = load_model(
            found.config_file,
            [*found.overrides, *where, *overrides],
            task=task,
            allow_unsafe_config=allow_unsafe_config,
            allow_unsafe_weights=allow_unsafe_weights,
        )
        return cls(model, precision=precision)

    def predict(
        self,
        images: Any,
        *,
        task: str | None = None,
        threshold: float | None = None,
        channel_order: str = "RGB",
        stream: bool = False,
        allow_url: bool = False,
    ) -> Any:
        """Find what is in images.

        Args:
            images: one of

                - the path of an image, a folder of images, a pattern such as "dir/*.jpg", or a
                  video (``.mp4``, ``.avi`` ...; needs ``pip install "mask2former[video]"``);
                - a Pillow image, whose pixels are taken as they are: unlike with a path, a
                  rotation in its EXIF data is not applied;
                - an array (H, W, 3), or (H, W) if it is grey. **Channels are RGB**, as Pillow,
                  matplotlib and imageio give them. OpenCV reads BGR: give `channel_order` "BGR".
                  Values are uint8, 0 to 255, or float, 0 to 1;
                - a tensor (3, H, W), with channels and values like those of an array;
                - an array (B, H, W, 3), a tensor (B, 3, H, W), or a list or an iterator of any of
                  these.
            task: "panoptic", "instance" or "semantic"; by default `Mask2Former.task`.
            threshold: lowest score of the instances to keep (default: 0.5), or lowest class
                probability of panoptic segments (default: as in the config). Semantic segmentation
                has none.
            channel_order: "RGB" or "BGR", for arrays and tensors.
            stream: give an iterator that predicts on an image when it is asked for the next
                result, so that memory holds one at a time.
            allow_url: whether a path may be the address (http, https) of an image on the web.

        Returns:
            A `Prediction` for one image, a list of them for several, or an iterator for a video,
            an iterator of images, or with `stream`.

        Raises:
            ValueError: an image cannot be read (`ImageReadError`) or is of a wrong shape or type,
                or the model does not do the task.
        """
        segmenter = self.segmenter(task, threshold)
        opened = open_images(images, channel_order=channel_order, allow_url=allow_url)
        results = (segmenter.find(image, source) for image, source in opened.items)
        if stream or opened.number == "stream":
            return results
        return list(results) if opened.number == "many" else next(results)

    def segmenter(self, task: str | None = None, threshold: float | None = None) -> Segmenter:
        """Return what `predict` runs on each image, for callers that hold arrays already.

        Args:
            task: see `predict`.
            threshold: see `predict`.

        Raises:
            ValueError: the model does not do the task, or the task has no threshold.
        """
        return self._model.segmenter(task, threshold)

    @property
    def tasks(self) -> list[str]:
        """All tasks that the model does."""
        return self._model.tasks

    @property
    def task(self) -> str:
        """What `predict` finds by default: "panoptic", "instance" or "semantic"."""
        return self._model.task

    @property
    def classes(self) -> Classes:
        """The model's classes, in the order of the labels of predictions."""
        return self._model.classes

    @property
    def names(self) -> list[str]:
        """The names of the model's classes, in the order of the labels of predictions."""
        return list(self.classes.names)

    @property
    def cfg(self) -> CfgNode:
        """A copy of the model's config."""
        return self._model.cfg.clone()

    @property
    def network(self) -> nn.Module:
        """The network, in evaluation mode; it takes Detectron2's list of dicts."""
        return self._model.predictor.model

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    @property
    def precision(self) -> torch.dtype:
        """What the network computes with; its weights are float32."""
        return self._model.predictor.precision or torch.float32

    def _set_precision(self, precision: str | torch.dtype | None) -> None:
        self._model.predictor.precision = choose_precision(precision, self.device)

    def to(self, device: str | torch.device) -> Mask2Former:
        """Move the network to a device.

        Raises:
            ValueError: this machine does not have the device.
        """
        check_device(str(device))
        self.network.to(device)
        self._model.cfg.MODEL.DEVICE = str(device)
        if self.precision != torch.float32:
            self._set_precision(self.precision)
        return self

    def half(self) -> Mask2Former:
        """Compute with float16, on a GPU."""
        self._set_precision(torch.float16)
        return self

    def bfloat16(self) -> Mask2Former:
        """Compute with bfloat16, unless the device is a CPU that is not faster with it."""
        self._set_precision(torch.bfloat16)
        return self

    def float(self) -> Mask2Former:
        """Compute with float32."""
        self._set_precision(None)
        return self

    def save_pretrained(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the model as a Hugging Face folder.

        `transformers` loads it with ``Mask2FormerForUniversalSegmentation.from_pretrained``, and
        `from_pretrained` here loads it too.

        Args:
            folder: the folder, which need not exist.
            overwrite: replace existing files.

        Raises:
            WeightsError: Hugging Face's Mask2Former cannot be such a model, or a file exists.
        """
        state = self.network.state_dict()
        save_hf_folder(Path(folder), state, self.cfg, self.classes, overwrite=overwrite)

    def push_to_hub(self, repository: str, *, private: bool = False) -> str:
        """Upload the files of `save_pretrained` to a model on the Hugging Face Hub.

        Needs ``pip install "mask2former[hub]"`` and a login (``hf auth login`` or ``HF_TOKEN``).

        Args:
            repository: "owner/name"; the model is created unless it exists.
            private: whether a new model is visible to you only.

        Returns:
            The address of the model's page.

        Raises:
            ValueError: `huggingface_hub` is missing, the Hub refuses, or see `save_pretrained`.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return upload_model(folder, repository, private)

    def __repr__(self) -> str:
        precision = str(self.precision).removeprefix("torch.")
        return (
            f"Mask2Former({self._model.config_file}: {self.task} segmentation, "
            f"{len(self.classes)} classes, {self.device}, {precision})"
        )
