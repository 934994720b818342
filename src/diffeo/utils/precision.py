"""The precision of networks: one option of training, evaluation, sampling and scoring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch

Precision = Literal["auto", "float32", "bf16"]


def networks_dtype(precision: Precision) -> torch.dtype | None:
    """What `Flow.set_precision` takes, to use a model: bfloat16 if it is asked for, or else None.

    "auto" is float32 on every machine, so that no reported figure depends on where it was computed:
    bfloat16 networks were measured to change the bits/dim of trained models by up to 0.026.

    Raises:
        ValueError: if there is no such precision.
    """
    if precision not in get_args(Precision):
        choices = ", ".join(get_args(Precision))
        raise ValueError(f"there is no precision {precision!r}: choose one of {choices}.")
    return torch.bfloat16 if precision == "bf16" else None


def training_dtype(
    precision: Precision, images: bool, device: torch.device | str
) -> torch.dtype | None:
    """The same to train a flow of images or of tables.

    "auto" is bfloat16 for images if the device computes it. Validation and the saved model are
    float32 all the same.

    Raises:
        ValueError: if there is no such precision.
    """
    if precision == "auto" and images and has_bfloat16(device):
        return torch.bfloat16
    return networks_dtype(precision)


def has_bfloat16(device: torch.device | str) -> bool:
    """Whether a device multiplies bfloat16 by instructions of its own, and does not emulate them.

    Known of x86 processors and of GPUs; False for all others.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return False
    # The oldest torch that is supported has no such function.
    known: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
