"""Noise drawn anew, level by level, and one noise at many temperatures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Generator, Tensor

from diffeo.context import Context
from diffeo.flow import Flow
from diffeo.latent.coding import decode, encode, spread


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
    """Variants of each event, `(n, variants, *shape)`, that differ from it in some levels alone.

        z' = z outside of the levels,   temperature * noise inside

    What changes is what those levels hold. (after Dinh et al. 2017, appendix D)

    Args:
        flow: the model.
        x: events `(n, *shape)`.
        levels: which to draw anew; 1 is the finest, the first of `flow.latent_shapes`.
        temperature: of the new noise; at 0 the level is left at its most likely value.
        variants: how many of each event.
        context: `(n, context_features)` for a conditional flow, or one row.
        generator: source of the noise; torch's global one if none is given.

    Raises:
        ValueError: if there is no such level, or temperature or variants is out of its range.
    """
    _check_temperatures([temperature])
    if variants < 1:
        raise ValueError(f"variants is {variants}: ask for at least one.")
    z = encode(flow, x, context).repeat_interleave(variants, dim=0)
    noise = flow.noise(len(z), generator).to(z.device) * temperature
    z = torch.where(in_levels(flow, levels).to(z.device), noise, z)
    if context is not None:
        context = spread(context, len(x)).repeat_interleave(variants, dim=0)
    return decode(flow, z, context).unflatten(0, (len(x), variants))


def in_levels(flow: Flow, levels: Sequence[int]) -> Tensor:
    """Which dimensions of z lie in some levels, numbered from 1: bool `(dims,)`.

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

    Since every level of z is plain noise, one factor cools all of them. At 0 there is one event,
    whatever the noise; below 1 samples are more typical. (Kingma & Dhariwal 2018, section 6)

    Args:
        flow: the model.
        noise: points of the base density `(n, dims)`, or how many to draw.
        temperatures: 0 or more.
        context: `(n, context_features)` for a conditional flow, or one row.
        generator: source of the noise; torch's global one if none is given.

    Raises:
        ValueError: if a temperature is negative or not finite, or there is none.
    """
    _check_temperatures(temperatures)
    if isinstance(noise, int):
        noise = flow.noise(noise, generator)
    n, count = len(noise), len(temperatures)
    factors = torch.tensor(list(temperatures), dtype=noise.dtype, device=noise.device)
    z = (noise[:, None] * factors[:, None]).flatten(0, 1)
    if context is not None:
        context = spread(context, n).repeat_interleave(count, dim=0)
    return decode(flow, z, context).unflatten(0, (n, count))


def _check_temperatures(temperatures: Sequence[float]) -> None:
    if not temperatures or not all(0 <= value < math.inf for value in temperatures):
        raise ValueError(
            f"temperatures must be 0 or more and finite, not {list(temperatures) or 'none at all'}."
        )
