"""Paths between events, and the surface between four of them."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from diffeo.context import Context
from diffeo.flow import Flow
from diffeo.latent.coding import decode, encode, repeat_row

PathKind = Literal["linear", "spherical"]
MIN_ANGLE = 1e-6  # radians from parallel or opposite; below it the plane of rotation is undefined


def interpolate(
    flow: Flow,
    start: Shaped[Tensor, "n *shape"],
    end: Shaped[Tensor, "n *shape"],
    frames: int,
    kind: PathKind = "linear",
    context: tuple[Tensor, Tensor] | None = None,
) -> Shaped[Tensor, "n frames *shape"]:
    """Paths from `start` to `end`, both included, `(n, frames, *shape)`.

        linear:     z(t) = (1 - t) a + t b
        spherical:  z(t) = ((1 - t) |a| + t |b|) slerp(a/|a|, b/|b|; t)

    with a and b the latents of the ends, and t from 0 to 1 in equal steps. The ends come back as
    `decode(encode(x))` does: bit for bit for images, in the bits that the flow models. Noise of
    many dimensions has nearly one length, sqrt(dims); a linear path dips to about 0.7 of it
    half-way, and a spherical one does not. Where latents are parallel, opposite or zero, no
    rotation is defined and the spherical path is the linear one (Shoemake 1985).

    `context` is that of the starts and that of the ends, `(n, context_features)` each or one row;
    it changes linearly along the path.

    Raises:
        ValueError: if frames is below 2, kind is unknown, or the events do not fit each other or
            the flow.
    """
    _check(kind, frames=frames)
    if start.shape != end.shape:
        raise ValueError(
            f"start is of shape {tuple(start.shape)} and end of {tuple(end.shape)}: pass as many "
            "of each."
        )
    n, (first, last) = len(start), context or (None, None)
    z = path(encode(flow, start, first), encode(flow, end, last), frames, kind)
    between = None
    if first is not None and last is not None:
        between = path(repeat_row(first, n), repeat_row(last, n), frames, "linear").flatten(0, 1)
    return decode(flow, z.flatten(0, 1), between).unflatten(0, (n, frames))


def between_four(
    flow: Flow,
    corners: Shaped[Tensor, "4 *shape"],
    rows: int,
    columns: int,
    kind: PathKind = "linear",
    context: Context | None = None,
) -> Shaped[Tensor, "rows columns *shape"]:
    """The surface between four events, `(rows, columns, *shape)`, which are its corners.

        z(s, t) = path(path(a, b; t), path(c, d; t); s)

    with a upper left, b upper right, c lower left and d lower right, and s and t from 0 to 1. It is
    bilinear where `path` is linear. As in `interpolate`, corners come back exactly. The context,
    `(4, context_features)` or one row, is bilinear between them.

    Raises:
        ValueError: if there are not four corners, rows or columns is below 2, or kind is unknown.
    """
    _check(kind, rows=rows, columns=columns)
    if len(corners) != 4:
        raise ValueError(f"there are {len(corners)} corners: pass four events.")
    z = _surface(encode(flow, corners, context), rows, columns, kind)
    if context is not None:
        context = _surface(repeat_row(context, 4), rows, columns, "linear")
    return decode(flow, z, context).unflatten(0, (rows, columns))


def path(
    a: Float[Tensor, "n dims"], b: Float[Tensor, "n dims"], frames: int, kind: PathKind
) -> Float[Tensor, "n frames dims"]:
    """Paths from vectors a to vectors b, both included: `(n, frames, dims)`; see `interpolate`.

        z(t) = from_a(t) a + from_b(t) b

    The weights are 1 and 0 at the ends, so that these are a and b to the last bit.
    """
    t = torch.linspace(0, 1, frames, dtype=torch.float64, device=a.device)
    # (n, 1, dims) against (frames, 1); in float64, since angles between near vectors are small.
    u, v = a.double()[:, None], b.double()[:, None]
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
    top, bottom = path(corners[[0, 2]], corners[[1, 3]], columns, kind)
    return path(top, bottom, rows, kind).transpose(0, 1).flatten(0, 1)


def _check(kind: str, **counts: int) -> None:
    if kind not in get_args(PathKind):
        raise ValueError(f"a path is {kind!r}: choose {' or '.join(get_args(PathKind))}.")
    for name, count in counts.items():
        if count < 2:
            raise ValueError(f"{name} is {count}: a path needs 2 or more, its two ends included.")
