"""Read a pipeline of Albumentations from a file, as data: ``INPUT.ALBUMENTATIONS``.

``albumentations.save`` writes such files. Here a file can name transforms of Albumentations and
their numbers, and nothing else: neither functions nor classes of other packages.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mask2former_runtime.files import is_special, read_json
from mask2former_runtime.text import one_line

from ...utils.schema import shown

KEY = "INPUT.ALBUMENTATIONS"
_MOST_TRANSFORMS = 1000
_MOST_LEVELS = 100

_NEEDS_BOXES = "needs boxes, which are made from the masks later"
_MODEL_DOES = "is what the model does with its input itself"
# Transforms that do not move pixels together with their labels, with the reason.
_REFUSED = {
    **dict.fromkeys(("Normalize", "ToFloat", "FromFloat", "ToTensorV2", "ToTensor3D"), _MODEL_DOES),
    **dict.fromkeys(
        ("AtLeastOneBBoxRandomCrop", "BBoxSafeRandomCrop", "RandomSizedBBoxSafeCrop"), _NEEDS_BOXES
    ),
    **dict.fromkeys(
        ("ConstrainedCoarseDropout", "CropNonEmptyMaskIfExists", "MaskDropout"),
        "depends on a single mask, but an image has many",
    ),
    "Morphological": "changes outlines, and objects that touch would overlap",
    "ReplayCompose": "records what it did; use Compose",
    "Lambda": "runs a function, which a file cannot hold",
}


def read_pipeline(path: str) -> Any:
    """Return the ``albumentations.Compose`` in a JSON or YAML file.

    Labels are moved by a map of positions, which is 0 where there is none: the interpolation and
    the fill value of masks are set to what that needs.

    Raises:
        ValueError: the file is missing or invalid, or a transform does not suit masks; the message
            names the file and the transform.
        ImportError: Albumentations is not installed.
    """
    content = _read(path)
    if not isinstance(content, dict) or not isinstance(content.get("transform"), dict):
        raise _error(path, "it is not a pipeline: write it with albumentations.save")
    A = _import()
    for node in _nodes(path, content["transform"]):
        _check_node(path, node)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unknown arguments, an error below
            pipeline = A.from_dict(content)
        if not isinstance(pipeline, A.Compose):
            pipeline = A.Compose([pipeline])
    except Exception as error:  # what the constructors of 130 classes raise for wrong values
        raise _error(path, f"albumentations {A.__version__} cannot use it: {error}") from error
    for transform in leaves(pipeline):
        _prepare(path, transform)
    return pipeline


def leaves(pipeline: Any) -> Iterator[Any]:
    """Yield the transforms of a pipeline without those that only combine others."""
    for transform in pipeline.transforms:
        if hasattr(transform, "transforms"):
            yield from leaves(transform)
        else:
            yield transform


def moves_pixels(pipeline: Any) -> bool:
    """Return whether a transform of a pipeline can move pixels, so that labels must follow."""
    return any("mask" in transform.available_keys for transform in leaves(pipeline))


def _import() -> Any:
    # It would ask a server for its newest version whenever it is imported.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    try:
        import albumentations
        import cv2
    except ImportError as error:
        raise ImportError(
            f'{KEY} needs Albumentations: pip install "mask2former[albumentations]"'
        ) from error
    # Workers are forked processes, in which threads that OpenCV started before do not exist.
    cv2.setNumThreads(0)
    return albumentations


def _error(path: str, reason: str) -> ValueError:
    return ValueError(one_line(f"{KEY} {path}: {reason}"))


def _read(path: str) -> Any:
    suffix = Path(path).suffix.lower()
    if suffix not in (".json", ".yaml", ".yml"):
        raise _error(path, "the name of a pipeline ends with .json, .yaml or .yml")
    if suffix == ".json":
        try:
            return read_json(path)
        except ValueError as error:
            raise ValueError(f"{KEY} {error}") from error
    if is_special(path):
        raise _error(path, "it is not a regular file")
    try:
        text = Path(path).read_text(encoding="utf-8")
        depth = 0
        for event in yaml.parse(text):
            # Aliases could make a small file huge; albumentations.save does not write any.
            if isinstance(event, yaml.AliasEvent):
                raise _error(path, "a pipeline may not have aliases (*name)")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _MOST_LEVELS:
                raise _error(path, "it is nested too deeply")
        return yaml.safe_load(text)
    except OSError as error:
        raise _error(path, f"it cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _error(path, f"it is not YAML: {error}") from error


def _nodes(path: str, root: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all transforms in a file, those that combine others included."""
    found: list[dict[str, Any]] = []
    pending: list[Any] = [root]
    while pending:
        node = pending.pop()
        name = node.get("__class_fullname__") if isinstance(node, dict) else None
        if not isinstance(name, str):
            raise _error(path, f"{shown(node)} is not a transform with its __class_fullname__")
        children = node.get("transforms", [])
        if not isinstance(children, list):
            raise _error(path, f"the transforms of {name} are not a list")
        found.append(node)
        pending += children
        if len(found) > _MOST_TRANSFORMS:
            raise _error(path, f"it has more than {_MOST_TRANSFORMS} transforms")
    return found


def _check_node(path: str, node: dict[str, Any]) -> None:
    """Check that a transform is one of Albumentations, and one that masks can follow."""
    from albumentations import BaseCompose, BasicTransform
    from albumentations.core.serialization import SERIALIZABLE_REGISTRY, shorten_class_name

    name = shorten_class_name(node["__class_fullname__"])
    if name in _REFUSED:
        raise _error(path, f"{name} {_REFUSED[name]}: leave it out")
    kind = SERIALIZABLE_REGISTRY.get(name, object)
    own = kind.__module__.startswith("albumentations.")  # other packages can register classes
    if not own or not issubclass(kind, (BasicTransform, BaseCompose)):
        raise _error(path, f"albumentations does not have {shown(name)}")
    for key in ("bbox_params", "keypoint_params", "additional_targets"):
        if node.get(key):
            raise _error(path, f"{name} has {key}, but a pipeline here moves an image and masks")
    if node.pop("always_apply", False):  # of older versions, which wrote it for every transform
        raise _error(path, f"{name} has always_apply, which is no more: use p: 1.0")


def _prepare(path: str, transform: Any) -> None:
    """Check a transform, and have it move a map of positions exactly."""
    import cv2

    name = type(transform).__name__
    # albumentations.save also writes arguments of base classes, which the class does not take.
    unknown = sorted(set(transform.invalid_args) - set(transform.get_transform_init_args_names()))
    if unknown:
        raise _error(path, f"{name} does not have the argument {unknown[0]}")
    needed = set(transform.targets_as_params) - {"image"}
    if needed:
        raise _error(path, f"{name} needs more than an image ({', '.join(sorted(needed))})")
    if "image" not in transform.available_keys:
        raise _error(path, f"{name} is not for images")
    if getattr(transform, "mask_drop_value", None) is not None:
        raise _error(path, f"{name} drops single pixels of masks: set mask_drop_value to null")
    if getattr(transform, "fill_mask", None) is not None:
        transform.fill_mask = 0
    if hasattr(transform, "mask_interpolation"):
        # Between neighbours, positions are interpolated exactly. At the seam of an image that
        # repeats itself, neighbours are far apart.
        wraps = getattr(transform, "border_mode", None) == cv2.BORDER_WRAP
        transform.mask_interpolation = cv2.INTER_NEAREST if wraps else cv2.INTER_LINEAR
