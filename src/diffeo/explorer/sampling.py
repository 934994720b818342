"""Samples whose noise is held or drawn anew, level by level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffeo.explorer.subject import Subject, generator
from diffeo.latent.arithmetic import decode, in_levels

SIDES = (1, 2, 3, 4, 6, 8)  # images along a side of the grid
HOTTEST = 1.5
GUIDANCE, STRONGEST = 1.0, 4.0  # at first, and at most


def noise(subject: Subject, n: int, seeds: Sequence[int]) -> Tensor:
    """Noise `(n, dims)` whose level i is that of `seeds[i]`.

    With one seed for all it is the noise of `diffeo sample --seed`.
    """
    flow = subject.flow
    z = flow.noise(n, generator(seeds[0]))
    for level, seed in enumerate(seeds[1:], start=2):
        if seed != seeds[0]:
            other = flow.noise(n, generator(seed))
            z = torch.where(in_levels(flow, [level], z.device), other, z)
    return z.detach().cpu()


def reseed(seeds: Sequence[int], held: Sequence[int], seed: int) -> list[int]:
    """The seed of each level under a new one; levels that are held, from 1 on, keep theirs."""
    return [old if i in held else seed for i, old in enumerate(seeds, start=1)]


def sample(
    subject: Subject,
    n: int,
    seeds: Sequence[int],
    temperature: float,
    values: Sequence[Any],
    guidance: float = 0.0,
) -> tuple[Tensor, Tensor | None]:
    """Events `(n, *shape)` at a temperature, and their contexts.

    Args:
        subject: the model.
        n: how many.
        seeds: of each level.
        temperature: 0 to HOTTEST.
        values: one for each variable of the context, or ANY.
        guidance: 0 to STRONGEST, of a flow that can be guided.

    Raises:
        ValueError: if the temperature or the guidance is out of range, or a value is none.
    """
    if not 0 <= guidance <= STRONGEST:
        raise ValueError(f"the guidance is {guidance}: choose it from 0 to {STRONGEST}.")
    if not 0 <= temperature <= HOTTEST:
        raise ValueError(f"the temperature is {temperature}: choose it from 0 to {HOTTEST}.")
    context = subject.conditions.draw(n, seeds[0], values)
    z = subject.flow.base.scaled(noise(subject, n, seeds), temperature)
    options = {"guidance": guidance} if guidance else {}
    return decode(subject.flow, z, context, **options), context


def finite_only(
    subject: Subject, x: Tensor, context: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor | None, str]:
    """The samples that can be drawn, their contexts, and a sentence on those that are amiss.

    Above temperature 1 a model may leave what it has learned, and images of noise come out, whose
    pixels are as finite as others: they are known by their likelihood.

    Raises:
        ValueError: if none is finite.
    """
    count, lines = len(x), []
    finite = torch.isfinite(x).flatten(1).all(1)
    if not bool(finite.any()):
        raise ValueError(f"no sample is finite at temperature {temperature:g}: choose a lower one.")
    if lost := count - int(finite.sum()):
        lines.append(f"{lost:,} of {count:,} samples are not finite and are not drawn.")
        x, context = x[finite], None if context is None else context[finite]
    if temperature > 1:
        nats, _ = subject.score(x, context)
        reference = subject.reference
        if unlikely := int((~(nats >= reference.nats[0])).sum()):
            lines.append(
                f"At this temperature {unlikely:,} of {len(x):,} samples are less likely than all "
                f"{reference.source}."
            )
    return x, context, " ".join(lines)


def level_names(subject: Subject) -> list[str]:
    """What the levels are called, the finest first."""
    shapes = subject.flow.latent_shapes
    names = []
    for i, shape in enumerate(shapes, start=1):
        size = " x ".join(map(str, shape))
        share = 100 * math.prod(shape) / subject.flow.dims
        rank = "finest" if i == 1 else "coarsest" if i == len(shapes) else ""
        names.append(f"level {i}" + (f", {rank}" if rank else "") + f" ({size}, {share:.0f} %)")
    return names
