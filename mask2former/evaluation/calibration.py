"""How well scores agree with how often they are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Calibration:
    """Predictions by their score, in B bins of equal width from 0 to 1.

    Attributes:
        counts: (B,) predictions per bin.
        scores: (B,) their mean score, NaN for an empty bin.
        accuracies: (B,) the share of them that is right, NaN for an empty bin.
    """

    counts: np.ndarray
    scores: np.ndarray
    accuracies: np.ndarray

    @classmethod
    def from_bins(cls, bins: Sequence[Mapping[str, Any]]) -> Calibration:
        """Convert the bins of hotcoco."""
        counts = np.array([b["count"] for b in bins])
        scores, accuracies = (
            np.where(counts > 0, [b[key] for b in bins], np.nan)
            for key in ("avg_confidence", "avg_accuracy")
        )
        return cls(counts, scores, accuracies)

    @property
    def error(self) -> float:
        """Expected calibration error (Guo et al., arXiv 1706.04599, equation 3), 0 to 1.

        It is the mean over predictions of the distance between score and accuracy of their bin; NaN
        without predictions.
        """
        if not self.counts.any():
            return float("nan")
        gaps = np.nan_to_num(np.abs(self.scores - self.accuracies))
        return float(gaps @ self.counts / self.counts.sum())
