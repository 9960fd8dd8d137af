"""One object for a model: load it, predict, train, evaluate, save it.

from mask2former import Mask2Former

model = Mask2Former.from_pretrained("output/mine")
result = model.predict("photo.jpg")
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from detectron2.config import CfgNode
from torch import nn

from . import model_zoo
from .checkpoint.huggingface.save import save_hf_folder
from .data.metadata import find_thresholds
from .inference.hub import upload_model
from .inference.images import open_images
from .inference.model_sources import ModelSource, find_model
from .inference.segmenters import LoadedModel, Segmenter, load_model
from .inference.tiling.grid import DEFAULT_OVERLAP, Tiling
from .inference.tiling.tiled import TiledSegmenter
from .structures import Classes
from .utils.device import check_device, choose_precision

if TYPE_CHECKING:
    from .export import Comparison


class Mask2Former:
    """A trained model.

    `from_pretrained` makes one. It can be used from several threads at once, pickled and copied
    with `copy.deepcopy`.

    Args:
        model: the model with its config and classes.
        start: where they come from, for `train` and `evaluate`.
        precision: see `from_pretrained`.
    """

    def __init__(
        self,
        model: LoadedModel | None,
        start: ModelSource,
        *,
        precision: str | torch.dtype | None = None,
    ):
        self._loaded = model
        self._start = start
        if model is not None:
            self._set_precision(precision)

    @classmethod
    def from_config(
        cls,
        config_file: str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        overrides: Sequence[object] = (),
    ) -> Mask2Former:
        """Return a model to `train`; it cannot do anything else before.

        Training starts from the weights that the config names, usually of an ImageNet backbone.

        Args:
            config_file: a YAML file, or the name of a config of this package, such as
                "quickstart/instance" or "coco/instance-segmentation/maskformer2_R50_bs16_50ep".
            device: see `from_pretrained`.
            overrides: ``[key, value, ...]`` of the config to change.

        Raises:
            ValueError: there is no such config.
        """
        path = os.fspath(config_file)
        if not os.path.exists(path):
            path = model_zoo.get_config_file(path)
        return cls(None, ModelSource(path, (*_device_override(device), *overrides)))

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
                - an exported file, ``.onnx``, ``.xml`` or ``.pt2``, whose network runs in its
                  runtime (needs ``pip install "mask2former[onnx]"`` or ``[openvino]``);
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
        where = _device_override(device)
        found = replace(found, overrides=(*found.overrides, *where, *overrides))
        model = load_model(
            found.config_file,
            found.overrides,
            task=task,
            allow_unsafe_config=allow_unsafe_config,
            allow_unsafe_weights=allow_unsafe_weights,
        )
        return cls(model, found, precision=precision)

    def predict(
        self,
        images: Any,
        *,
        task: str | None = None,
        threshold: float | None = None,
        channel_order: str = "RGB",
        stream: bool = False,
        allow_url: bool = False,
        tile: int | None = None,
        overlap: float = DEFAULT_OVERLAP,
    ) -> Any:
        """Find what is in images.

        Args:
            images: one of

                - the path of an image, a folder of images, a pattern such as ``"dir/*.jpg"``, or a
                  video (``.mp4``, ``.avi`` ...; needs ``pip install "mask2former[video]"``), also
                  an animated GIF or WebP file or a TIFF file of several pages (needs nothing more);
                - a Pillow image, whose pixels are taken as they are: unlike with a path, a
                  rotation in its EXIF data is not applied;
                - an array (H, W, 3), or (H, W) if it is grey. **Channels are RGB**, as Pillow,
                  matplotlib and imageio give them. OpenCV reads BGR: give `channel_order` "BGR".
                  Values are uint8, 0 to 255, or float, 0 to 1. For a model of images as they are
                  stored (``INPUT.FORMAT`` such as ``uint16``): (H, W, C) of that type;
                - a tensor (3, H, W), with channels and values like those of an array;
                - an array (B, H, W, 3), a tensor (B, 3, H, W), or a list or an iterator of any of
                  these.
            task: "panoptic", "instance" or "semantic"; by default `Mask2Former.task`.
            threshold: lowest score of the instances to keep (default: what
                ``evaluate(find_thresholds=True)`` found for each class, or 0.5), or lowest class
                probability of panoptic segments (default: as in the config). Semantic segmentation
                has none.
            channel_order: "RGB" or "BGR", for arrays and tensors.
            stream: give an iterator that predicts on an image when it is asked for the next
                result, so that memory holds one at a time.
            allow_url: whether a path may be the address (http, https) of an image on the web.
            tile: look at large images in square tiles of so many pixels a side, and join what is
                found; see the guide to large images. By default the model sees the whole image,
                resized.
            overlap: least share of a tile's side that it has in common with the next, 0 to 0.9.

        Returns:
            A `Prediction` for one image, a list of them for several, or an iterator for a video,
            an iterator of images, or with `stream`.

        Raises:
            ValueError: an image cannot be read (`ImageReadError`) or is of a wrong shape or type,
                or the model does not do the task.
            FloatingPointError: the model gives NaN or infinity.
        """
        segmenter = self.segmenter(task, threshold)
        find = segmenter.find
        if tile is not None:
            find = TiledSegmenter(segmenter, Tiling(tile, overlap)).find
        opened = open_images(
            images,
            channel_order=channel_order,
            allow_url=allow_url,
            stored=segmenter.stored,
        )
        return opened.results(find, stream=stream)

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
    def thresholds(self) -> list[float] | None:
        """The lowest score of each class's instances that `predict` keeps by default.

        None if ``evaluate(find_thresholds=True)`` did not find any, which means 0.5 for all.
        """
        return self._model.class_thresholds

    def train(
        self,
        data: str | os.PathLike[str] | None = None,
        *,
        output: str | os.PathLike[str],
        iterations: int | None = None,
        resume: bool = False,
        overrides: Sequence[object] = (),
        **arguments: Any,
    ) -> dict[str, Any]:
        """Train the model further, as ``train_net.py`` does, and become the trained model.

        Training starts from the weights that this model was loaded from. Where the data has other
        classes, the last layer starts anew. To train on several GPUs, use the command.

        Args:
            data: a folder of annotations and images (see the guide to your own data); None for
                files that `arguments` name, or for the data sets of the config.
            output: folder of the new run.
            iterations: length of the run; its schedule is scaled to it. By default it follows from
                `data`, or is that of the config.
            resume: continue the run in `output`.
            overrides: ``[key, value, ...]`` of the config to change.
            arguments: further arguments of ``train_net.py``, with underscores, such as
                ``train_json="train.json"``.

        Returns:
            The results of the last evaluation by task, such as ``{"segm": {"AP": 37.0, ...}}``;
            empty without data to evaluate on.

        Raises:
            ValueError: the data, the config or the folder does not fit; it is a `DatasetError` that
                lists all errors in the data.
            FloatingPointError: the losses became NaN or infinite.
            KeyboardInterrupt: after Ctrl-C, when a checkpoint has been saved.
        """
        from .engine.start import run_arguments, start

        self._start.refuse_exported("trained")
        changes: list[object] = [*self._start.overrides, "OUTPUT_DIR", os.fspath(output)]
        results = start(
            run_arguments(
                config_file=self._start.config_file,
                opts=_texts([*changes, *overrides]),
                data=None if data is None else os.fspath(data),
                resume=resume,
                iterations=iterations,
                **arguments,
            )
        )
        precision = None if self._loaded is None else self.precision
        trained = Mask2Former.from_pretrained(output, precision=precision)
        self._start, self._loaded = trained._start, trained._loaded
        return results

    def evaluate(
        self,
        data: str | os.PathLike[str] | None = None,
        *,
        output: str | os.PathLike[str] | None = None,
        overrides: Sequence[object] = (),
        **arguments: Any,
    ) -> dict[str, Any]:
        """Measure the accuracy of the model, as ``train_net.py --eval-only`` does.

        It computes in the precision of `predict`, and not in that of training.

        Args:
            data: a folder of annotations and images, whose validation set counts; None for files
                that `arguments` name, or for the data sets of the config.
            output: folder for the predictions; by default they are not kept.
            overrides: ``[key, value, ...]`` of the config to change, such as
                ``["DATASETS.TEST", ("coco_2017_val",)]``.
            arguments: further arguments of ``train_net.py``, with underscores, such as
                ``val_json="val.json"``, ``report="report"``, or ``find_thresholds=True`` with
                ``wanted_precision=0.9``.

        Returns:
            Results by task, in percent, such as ``{"segm": {"AP": 37.0, ...}}``.

        Raises:
            ValueError: the data or the config does not fit; it is a `DatasetError` that lists all
                errors in the data.
        """
        from .engine.start import run_arguments, start

        exported = self._start.exported
        if exported:  # it is opened already
            arguments.setdefault("allow_unsafe_weights", True)
        with tempfile.TemporaryDirectory() as temporary:
            folder = temporary if output is None else os.fspath(output)
            changes = [*self._start.overrides, "OUTPUT_DIR", folder]
            if not exported:
                changes += ["SOLVER.AMP.ENABLED", self.precision != torch.float32]
            args = run_arguments(
                config_file=self._start.config_file,
                opts=_texts([*changes, *overrides]),
                data=None if data is None else os.fspath(data),
                eval_only=True,
                **arguments,
            )
            results = start(args, None if exported else self.network.state_dict())
        if args.find_thresholds:
            found = find_thresholds(self._model.cfg, self._start.config_file)
            self._loaded = replace(self._model, thresholds=found)
        return results

    @property
    def _model(self) -> LoadedModel:
        if self._loaded is None:
            raise ValueError("this model is not trained: call train, or load one (from_pretrained)")
        return self._loaded

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
    def weights_sha256(self) -> str:
        """The SHA-256 of the weights, in hexadecimal, which an exported file keeps."""
        return self._model.weights_sha256

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.device  # type: ignore[return-value]

    @property
    def precision(self) -> torch.dtype:
        """What the network computes with; its weights are float32."""
        return self._model.predictor.precision or torch.float32

    def _set_precision(self, precision: str | torch.dtype | None) -> None:
        if self._start.exported and precision is not None:
            raise ValueError(
                f"{self._start.config_file} has the precision that it was exported with"
            )
        self._model.predictor.precision = choose_precision(precision, self.device)

    def to(self, device: str | torch.device) -> Mask2Former:
        """Move the network to a device, and return this model.

        Raises:
            ValueError: this machine does not have the device.
        """
        check_device(str(device))
        self.network.to(device)
        self._model.cfg.MODEL.DEVICE = str(device)
        self._start = replace(
            self._start, overrides=(*self._start.overrides, "MODEL.DEVICE", str(device))
        )
        if self.precision != torch.float32:
            self._set_precision(self.precision)
        return self

    def half(self) -> Mask2Former:
        """Compute with float16, on a GPU, from now on; return this model."""
        self._set_precision(torch.float16)
        return self

    def bfloat16(self) -> Mask2Former:
        """Compute with bfloat16, unless a CPU is not faster with it; return this model."""
        self._set_precision(torch.bfloat16)
        return self

    def float(self) -> Mask2Former:
        """Compute with float32 from now on; return this model."""
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
        self._start.refuse_exported("converted")
        state = self.network.state_dict()
        save_hf_folder(
            Path(folder),
            state,
            self.cfg,
            self.classes,
            thresholds=self._model.thresholds,
            overwrite=overwrite,
        )

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        format: str | None = None,
        precision: str = "fp32",
        operator: str | None = None,
        dynamic: Sequence[str] = ("batch", "size"),
        size: tuple[int, int] | None = None,
        opset: int | None = None,
        license: str | None = None,
        with_postprocessing: bool = False,
        images: Any = None,
        overwrite: bool = False,
    ) -> list[Comparison]:
        """Write the model for another runtime, and compare the file with the model.

        `from_pretrained` takes the file, and so does ``mask2former_runtime``, which needs neither
        PyTorch nor Detectron2. See the guide to deployment.

        Args:
            path: the file: ``.onnx``, ``.xml`` (OpenVINO, with a ``.bin`` beside it) or ``.pt2``.
            format: "onnx", "openvino", "pt2" (``torch.export``) or "aoti" (``.pt2``, compiled ahead
                of time); by default as the suffix says.
            precision: "fp32"; "fp16", with weights stored as float16 in ONNX and OpenVINO; "bf16"
                for OpenVINO and PyTorch's formats; "int8" for ONNX.
            operator: how deformable attention is computed: "gather" or "grid_sample", which every
                runtime can do, or "plugin", this project's own operator.
            dynamic: what is open: "batch", the number of images, and "size".
            size: (height, width) in pixels if it is not open, multiples of 32 for most models.
            opset: version of ONNX's operators, at least 18, or 20 for "grid_sample".
            license: of the weights, to be written into the file.
            with_postprocessing: give results instead of the logits of queries; such a file is for
                other programs, not for `from_pretrained`.
            images: pictures to compare on, as for `predict`; by default drawn ones.
            overwrite: replace an existing file.

        Returns:
            The differences between file and model for two batches.

        Raises:
            ValueError: the model cannot be exported like this, a package is missing, or the file
                differs from the model by more than its precision allows. No file is left then.
        """
        from .export import Options, export_model, fixed_sizes, format_of

        self._start.refuse_exported("exported again")

        file = Path(path)
        stored = self._model.predictor.stored
        opened = () if images is None else open_images(images, stored=stored).items
        options = Options(
            format=format or format_of(file),
            precision=precision,
            operator=operator,
            opset=opset,
            fixed=fixed_sizes(dynamic, size),
            license=license,
            with_postprocessing=with_postprocessing,
        )
        pictures = [image for image, _ in opened]
        return export_model(self._model, file, options, pictures=pictures, overwrite=overwrite)

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
        if self._loaded is None:
            return f"Mask2Former({self._start.config_file}: not trained)"
        precision = str(self.precision).removeprefix("torch.")
        return (
            f"Mask2Former({self._model.config_file}: {self.task} segmentation, "
            f"{len(self.classes)} classes, {self.device}, {precision})"
        )


def _device_override(device: str | torch.device | None) -> tuple[object, ...]:
    if device is not None:
        return ("MODEL.DEVICE", str(device))
    return () if torch.cuda.is_available() else ("MODEL.DEVICE", "cpu")


def _texts(overrides: Sequence[object]) -> list[str]:
    """Return overrides of a config as they would be typed."""
    return [str(part) for part in overrides]
