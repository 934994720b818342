"""Which device computes: one option of the commands, the training loop and the estimators."""

from __future__ import annotations

from typing import Literal, get_args

import torch

Device = Literal["auto", "cpu", "cuda", "mps"]


def find_device(device: Device = "auto") -> torch.device:
    """The device of a name; for "auto" a GPU where there is one (CUDA, then MPS), else the CPU.

    Raises:
        ValueError: if the name is unknown, or this machine has no such device.
    """
    if device not in get_args(Device):
        choices = ", ".join(get_args(Device))
        raise ValueError(f"there is no device {device!r}: choose one of {choices}.")
    found = [
        *(["cuda"] if torch.cuda.is_available() else []),
        *(["mps"] if torch.backends.mps.is_available() else []),
        "cpu",
    ]
    if device != "auto" and device not in found:
        raise ValueError(f"this machine has no {device} device: choose {', '.join(found)}.")
    return torch.device(found[0] if device == "auto" else device)
