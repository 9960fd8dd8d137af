"""Check that ground truth has only classes that the model has."""

from __future__ import annotations

import numpy as np

from mask2former_runtime.text import some_of

_LISTED = 8  # labels in a message


def check_class(category_id: int, num_classes: int | None) -> None:
    """Raise `ValueError`, whose message is the reason alone, for a class that the model lacks.

    Args:
        category_id: contiguous id of the class.
        num_classes: classes are below this; None does not check.
    """
    if num_classes is not None and not 0 <= category_id < num_classes:
        raise ValueError(
            f"class {category_id}, but MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}: classes "
            f"are 0 to {num_classes - 1}"
        )


def present_classes(labels: np.ndarray, ignore_label: int, num_classes: int | None) -> list[int]:
    """Return the classes in a label map (H, W), ascending.

    Args:
        labels: (H, W) classes and `ignore_label`.
        ignore_label: value of pixels without a class.
        num_classes: classes are below this; None does not check.

    Raises:
        ValueError: there are other values; the message is the reason alone.
    """
    classes = [int(value) for value in distinct_values(labels) if value != ignore_label]
    wrong = [c for c in classes if c < 0 or (num_classes is not None and c >= num_classes)]
    if wrong:
        known = "0 or more" if num_classes is None else f"0 to {num_classes - 1}"
        raise ValueError(
            f"it has labels {some_of(wrong, _LISTED)}, but classes are {known} "
            f"(MODEL.SEM_SEG_HEAD.NUM_CLASSES) and pixels without a class {ignore_label} "
            "(ignore_label of the data set's metadata). Correct the file, the ignore_label or the "
            "number of classes"
        )
    return classes


def distinct_values(labels: np.ndarray) -> np.ndarray:
    """Return the different values of a map (H, W), ascending."""
    if labels.dtype in (np.uint8, np.uint16):
        return np.flatnonzero(np.bincount(labels.reshape(-1)))
    return np.unique(labels)
