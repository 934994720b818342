"""Encode events, change their latents or their context, and decode them again.

Any number of events passes in chunks, in eval mode and without gradients. Results are on the device
of the input. A context has one row for each event, or one row for all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import Generator, Tensor

from diffeo.flow import Flow, eval_mode
from diffeo.utils.machine import widest
from diffeo.utils.modules import in_chunks
from diffeo.utils.ranges import Count, NonNegative, Range, Whole, checked

PathKind = Literal["linear", "spherical"]
Frames = Annotated[int, Range(2)]  # of a path, its two ends included
MIN_ANGLE = 1e-6  # radians from parallel or opposite; below it the plane of rotation is undefined


def encode(flow: Flow, x: Tensor, context: Tensor | None = None) -> Tensor:
    """`flow.encode` of x `(n, *shape)`: `(n, dims)`."""
    context = repeat_row(context, len(x))
    with eval_mode(flow):
        return in_chunks(flow.encode, x, context, flow.chunk, flow.device).to(x.device)


def decode(flow: Flow, z: Tensor, context: Tensor | None = None, **options: Any) -> Tensor:
    """`flow.decode` of z `(n, dims)`, with further arguments of it: `(n, *shape)`."""
    context = repeat_row(context, len(z))
    decoded = partial(flow.decode, **options)
    with eval_mode(flow):
        return in_chunks(decoded, z, context, flow.chunk, flow.device).to(z.device)


def repeat_row(context: Tensor | None, n: int) -> Tensor | None:
    """A context with one row for each of n events: itself, or its only row n times."""
    if context is None or context.ndim != 2 or len(context) != 1:
        return context
    return context.expand(n, -1)


def recondition(flow: Flow, x: Tensor, context: Tensor, other: Tensor) -> Tensor:
    """Events as they would be under another context, `(n, *shape)`.

        x' = decode(encode(x; context); other)

    The noise, which holds everything that the context does not, stays the same. Under the same
    context the event comes back unchanged: an image bit for bit, in the bits that the flow models.
    """
    return decode(flow, encode(flow, x, context), other)


# Paths ------------------------------------------------------------------------------------------


@checked
def interpolate(
    flow: Flow,
    start: Tensor,
    end: Tensor,
    frames: Frames,
    kind: PathKind = "spherical",
    context: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Paths from `start` to `end` `(n, *shape)`, both included: `(n, frames, *shape)`.

        linear:     z(t) = (1 - t) a + t b
        spherical:  z(t) = ((1 - t) |a| + t |b|) slerp(a/|a|, b/|b|; t)

    with a and b the latents of the ends, and t from 0 to 1 in equal steps. The ends come back as
    `decode(encode(x))` does: bit for bit for images, in the bits that the flow models. Noise of
    many dimensions has nearly one length, sqrt(dims); a linear path dips to about 0.7 of it
    half-way, and a spherical one does not. Where latents are parallel, opposite or zero, no
    rotation is defined and the spherical path is the linear one (Shoemake 1985).

    `context` is that of the starts and that of the ends; it changes linearly along the path.

    Raises:
        ValueError: if frames is below 2, kind is unknown, or the events do not fit each other.
    """
    if start.shape != end.shape:
        raise ValueError(
            f"start is of shape {tuple(start.shape)} and end of {tuple(end.shape)}: pass as many "
            "of each."
        )
    n, (first, last) = len(start), context or (None, None)
    z = path(encode(flow, start, first), encode(flow, end, last), frames, kind)
    between, (first, last) = None, (repeat_row(first, n), repeat_row(last, n))
    if first is not None and last is not None:
        between = path(first, last, frames, "linear").flatten(0, 1)
    return decode(flow, z.flatten(0, 1), between).unflatten(0, (n, frames))


@checked
def between_four(
    flow: Flow,
    corners: Tensor,
    rows: Frames,
    columns: Frames,
    kind: PathKind = "spherical",
    context: Tensor | None = None,
) -> Tensor:
    """The surface between four events `(4, *shape)`, its corners: `(rows, columns, *shape)`.

        z(s, t) = path(path(a, b; t), path(c, d; t); s)

    with a upper left, b upper right, c lower left and d lower right, and s and t from 0 to 1. It is
    bilinear where `path` is linear, and so is the context. As in `interpolate`, corners come back
    exactly.

    Raises:
        ValueError: if there are not four corners, rows or columns is below 2, or kind is unknown.
    """
    if len(corners) != 4:
        raise ValueError(f"there are {len(corners)} corners: pass four events.")
    z = _surface(encode(flow, corners, context), rows, columns, kind)
    context = repeat_row(context, 4)
    if context is not None:
        context = _surface(context, rows, columns, "linear")
    return decode(flow, z, context).unflatten(0, (rows, columns))


def path(a: Tensor, b: Tensor, frames: int, kind: PathKind) -> Tensor:
    """Paths from vectors a to vectors b `(n, dims)`, both included: `(n, frames, dims)`.

        z(t) = from_a(t) a + from_b(t) b

    as in `interpolate`. The weights are 1 and 0 at the ends, which are a and b to the last bit.
    """
    wide = widest(a.device)  # since angles between near vectors are small
    t = torch.linspace(0, 1, frames, dtype=wide, device=a.device)
    u, v = a.to(wide)[:, None], b.to(wide)[:, None]  # (n, 1, dims) against (frames, 1)
    from_a, from_b = (1 - t)[:, None], t[:, None]
    if kind == "spherical":
        length_a, length_b = u.norm(dim=2, keepdim=True), v.norm(dim=2, keepdim=True)
        angle = _angle(u / length_a, v / length_b)
        length = from_a * length_a + from_b * length_b
        arc_a = length / length_a * ((from_a * angle).sin() / angle.sin())
        arc_b = length / length_b * ((from_b * angle).sin() / angle.sin())
        # The angle to a zero is NaN, for which both comparisons are false.
        rotates = (angle > MIN_ANGLE) & (angle < torch.pi - MIN_ANGLE)
        from_a = torch.where(rotates, arc_a, from_a)
        from_b = torch.where(rotates, arc_b, from_b)
    return (from_a * u + from_b * v).to(a.dtype)


def _angle(u: Tensor, v: Tensor) -> Tensor:
    """The angle between unit vectors, accurate where it is small too (Kahan 2006)."""
    return 2 * torch.atan2((u - v).norm(dim=2, keepdim=True), (u + v).norm(dim=2, keepdim=True))


def _surface(corners: Tensor, rows: int, columns: int, kind: PathKind) -> Tensor:
    """`(rows * columns, dims)` between four vectors `(4, dims)`, row by row."""
    top, bottom = path(corners[::2], corners[1::2], columns, kind)
    return path(top, bottom, rows, kind).transpose(0, 1).flatten(0, 1)


# Noise ------------------------------------------------------------------------------------------


@checked
def resample(
    flow: Flow,
    x: Tensor,
    levels: Sequence[Count],
    temperature: NonNegative = 1.0,
    *,
    variants: Count = 1,
    context: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Variants of events x `(n, *shape)` in some levels alone: `(n, variants, *shape)`.

        z' = z outside of the levels,   temperature * noise inside

    What changes is what those levels hold. Level 1 is the finest, the first of
    `flow.latent_shapes`; at temperature 0 a level takes its most likely value.

    Raises:
        ValueError: if there is no such level, or temperature or variants is out of its range.

    (after Dinh et al. 2017, appendix D)
    """
    z = encode(flow, x, context).repeat_interleave(variants, dim=0)
    noise = flow.base.scaled(flow.noise(len(z), generator).to(z.device), temperature)
    z = torch.where(in_levels(flow, levels, z.device), noise, z)
    return decode(flow, z, _repeat_each(context, variants)).unflatten(0, (len(x), variants))


def in_levels(
    flow: Flow, levels: Sequence[int], device: torch.device | str | None = None
) -> Tensor:
    """Which dimensions of z `(dims,)` are in some levels, numbered from 1.

    Raises:
        ValueError: if the flow has no such level.
    """
    count = len(flow.latent_shapes)
    for level in levels:
        if not 1 <= level <= count:
            raise ValueError(f"there is no level {level}: this flow has levels 1 to {count}.")
    parts = [
        torch.full((math.prod(shape),), level in levels, device=device)
        for level, shape in enumerate(flow.latent_shapes, start=1)
    ]
    return torch.cat(parts)


@checked
def at_temperatures(
    flow: Flow,
    noise: Whole | Tensor,
    temperatures: Sequence[NonNegative],
    *,
    context: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """One noise at many temperatures, `(n, temperatures, *shape)`.

        x = decode(temperature * noise)

    Every level of z is plain noise, so one factor scales all of them. At 0 there is one event,
    whatever the noise; below 1 samples are more typical. `noise` is points of the base density
    `(n, dims)`, or how many to draw.

    Raises:
        ValueError: if a temperature is negative or not finite, or there is none.

    (Kingma & Dhariwal 2018, section 6)
    """
    if not len(temperatures):
        raise ValueError("temperatures is empty: choose some, such as 0.5 and 1.")
    if isinstance(noise, int):
        noise = flow.noise(noise, generator)
    scaled = [flow.base.scaled(noise, temperature) for temperature in temperatures]
    z = torch.stack(scaled, dim=1).flatten(0, 1)
    context = _repeat_each(context, len(temperatures))
    return decode(flow, z, context).unflatten(0, (len(noise), len(temperatures)))


def _repeat_each(context: Tensor | None, times: int) -> Tensor | None:
    """Each row of a context so many times; a single row serves any number of events as it is."""
    if context is None or len(context) == 1:
        return context
    return context.repeat_interleave(times, dim=0)
