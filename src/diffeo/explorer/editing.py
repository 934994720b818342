"""Images edited by an attribute or a condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffeo.explorer.mixing import Slot
from diffeo.explorer.subject import Subject
from diffeo.latent.arithmetic import decode

FURTHEST = 3.0  # strength, up or down


def by_condition(subject: Subject) -> bool:
    """Whether attributes are what the model is conditional on, and not directions of z."""
    return bool(subject.conditions)


def rest(subject: Subject, slot: Slot) -> list[Any]:
    """What the controls show of an image that is not edited."""
    if slot.context is not None:
        return subject.conditions.values(slot.context)
    return [0.0] * len(subject.attributes)


def edit(subject: Subject, slot: Slot, values: Sequence[Any]) -> Tensor:
    """The image `(1, C, H, W)` with these values.

        by condition:  x' = decode(z; the context of these values)
        by direction:  x' = decode(z + sum_i strength_i direction_i)

    With the values of `rest` it comes back bit for bit.

    Raises:
        ValueError: if there are no attributes, or a value is none.
    """
    if values == rest(subject, slot):
        return decode(subject.flow, slot.z, slot.context)
    if by_condition(subject):
        assert slot.context is not None
        context = slot.context.clone()
        controls = subject.conditions.controls
        for control, value, own in zip(controls, values, rest(subject, slot), strict=True):
            if value != own:  # a number that is shown is rounded
                control.write(context, value)
        return decode(subject.flow, slot.z, context)
    directions, z = subject.directions, slot.z
    for name, strength in zip(subject.attributes, values, strict=True):
        if strength:
            z = z + max(-FURTHEST, min(FURTHEST, strength)) * directions[name].to(z)
    return decode(subject.flow, z)


def changed(before: Tensor, after: Tensor) -> str:
    """The difference of two images in words."""
    apart = (before != after).flatten(1).any(1) if before.ndim == 4 else before != after
    if not bool(apart.any()):
        return "bit for bit the same"
    mean = (before.to(torch.int16) - after.to(torch.int16)).abs().double().mean()
    return f"{float(mean):.1f} grey levels apart on average"
