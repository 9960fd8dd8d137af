"""panopticapi's numbers, computed in this process.

It forks a pool of processes, which may hang where the process that forks has threads.
"""

from typing import Any
from unittest import mock

import pytest


def pq_compute(*arguments: Any, **options: Any) -> dict[str, Any]:
    """Do what panopticapi's function of this name does."""
    evaluation = pytest.importorskip("panopticapi.evaluation")

    def compute_here(matched: Any, *rest: Any) -> Any:
        return evaluation.pq_compute_single_core(0, matched, *rest)

    with mock.patch.object(evaluation, "pq_compute_multi_core", compute_here):
        return evaluation.pq_compute(*arguments, **options)
