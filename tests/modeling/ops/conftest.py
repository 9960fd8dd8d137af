"""The devices that the operator's tests run on."""

import pytest
import torch

from mask2former.modeling.ops.library import implementation


def served_devices():
    """The CPU and a GPU if there is one, unless the implementation that is forced cannot."""
    found = []
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        try:
            implementation(device)
        except RuntimeError:
            continue
        found.append(device)
    return found


@pytest.fixture(params=served_devices())
def device(request):
    return request.param
