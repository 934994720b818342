"""Draw the noise of some levels again, or decode one noise at many temperatures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Generator, Tensor

from diffeo.context import Context
from diffeo.flow import Flow
from diffeo.latent.coding import decode, encode, repeat_row


def resample(
    flow: Flow,
    x: Shaped[Tensor, "n *shape"],
    levels: Sequence[int],
    temperature: float = 1.0,
    *,
    variants: int = 1,
    context: Context | None = None,
    generator: Generator | None = None,
) -> Shaped[Tensor, "n variants *shape"]:
    """Variants of each event that differ from it in some levels alone, `(n, variants, *shape)`.

        z' = z outside of the levels,   temperature * noise inside

    What changes is what those levels hold. Level 1 is the finest, the first of
    `flow.latent_shapes`; at temperature 0 a level takes its most likely value.

    Raises:
        ValueError: if there is no such level, or temperature or variants is out of its range.

    (after Dinh et al. 2017, appendix D)
    """
    _check_temperatures([temperature])
    if variants < 1:
        raise ValueError(f"variants is {variants}: ask for at least one.")
    z = encode(flow, x, context).repeat_interleave(variants, dim=0)
    noise = flow.noise(len(z), generator).to(z.device) * temperature
    z = torch.where(in_levels(flow, levels).to(z.device), noise, z)
    if context is not None:
        context = repeat_row(context, len(x)).repeat_interleave(variants, dim=0)
    return decode(flow, z, context).unflatten(0, (len(x), variants))


def in_levels(flow: Flow, levels: Sequence[int]) -> Bool[Tensor, " dims"]:
    """Which dimensions of z lie in some levels, numbered from 1.

    Raises:
        ValueError: if the flow has no such level.
    """
    count = len(flow.latent_shapes)
    for level in levels:
        if not 1 <= level <= count:
            raise ValueError(f"there is no level {level}: this flow has levels 1 to {count}.")
    sizes = torch.tensor([math.prod(shape) for shape in flow.latent_shapes])
    number = torch.arange(1, count + 1).repeat_interleave(sizes)
    return torch.isin(number, torch.tensor(list(levels)))


def at_temperatures(
    flow: Flow,
    noise: int | Float[Tensor, "n dims"],
    temperatures: Sequence[float],
    *,
    context: Context | None = None,
    generator: Generator | None = None,
) -> Shaped[Tensor, "n temperatures *shape"]:
    """One noise at many temperatures, `(n, temperatures, *shape)`.

        x = decode(temperature * noise)

    Every level of z is plain noise, so one factor scales all of them. At 0 there is one event,
    whatever the noise; below 1 samples are more typical. `noise` is points of the base density, or
    how many to draw.

    Raises:
        ValueError: if a temperature is negative or not finite, or there is none.

    (Kingma & Dhariwal 2018, section 6)
    """
    _check_temperatures(temperatures)
    if isinstance(noise, int):
        noise = flow.noise(noise, generator)
    n, count = len(noise), len(temperatures)
    factors = torch.tensor(list(temperatures), dtype=noise.dtype, device=noise.device)
    z = (noise[:, None] * factors[:, None]).flatten(0, 1)
    if context is not None:
        context = repeat_row(context, n).repeat_interleave(count, dim=0)
    return decode(flow, z, context).unflatten(0, (n, count))


def _check_temperatures(temperatures: Sequence[float]) -> None:
    if not temperatures or not all(0 <= value < math.inf for value in temperatures):
        raise ValueError(
            f"temperatures must be 0 or more and finite, not {list(temperatures) or 'none at all'}."
        )
