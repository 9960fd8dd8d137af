"""Checking whether this machine has a device."""

import torch


def check_device(name: str, option: str = "") -> None:
    """Raise `ValueError` if PyTorch does not find the device.

    Args:
        name: the value of ``MODEL.DEVICE``, such as "cpu" or "cuda:0".
        option: what precedes config keys on the command line, such as "--opts ".
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"MODEL.DEVICE is {name!r}: such as cpu, cuda or cuda:1") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"MODEL.DEVICE is '{name}', but PyTorch finds no CUDA device here. "
            f"To run on the CPU, add: {option}MODEL.DEVICE cpu"
        )
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if device.type in ("cpu", "cuda") and (device.index or 0) >= count:
        raise ValueError(f"MODEL.DEVICE is {name!r}, but there are {count} {device.type} devices")
