"""Which way each attribute lies in latent space, from one pass over the data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from diffeo.flow import Flow
from diffeo.latent.coding import encode
from diffeo.latent.directions import Directions
from diffeo.utils.config import public_name

DirectionKind = Literal["mean", "partial", "discriminant"]
WIDEST = 4_096  # dims of the largest covariance: 128 MiB in float64


def find_directions(
    flow: Flow,
    batches: Iterable[tuple[Tensor, Tensor, Tensor | None]],
    names: Sequence[str],
    kind: DirectionKind = "mean",
    *,
    shrinkage: float = 0.1,
) -> Directions:
    """The direction in z of each attribute a: how z moves as a goes from low to high.

        mean:          d = cov(z, a) / var(a) * span(a)
        partial:       d_i = row i of Cov(a)^-1 Cov(a, z), times span(a_i)
        discriminant:  d' = w (w . d) / (w . w),   w = W^-1 d

    The span of an attribute of two values is their distance, which makes d the mean of z with the
    larger value less the mean with the smaller. That of a number of more values is two standard
    deviations; for two values equally frequent this is the same.

    "mean" takes along whatever goes with the attribute in the data. "partial" regresses z on all
    attributes at once, so that each direction leaves the others as they are; where attributes
    determine each other, as the classes of one label do, it is the shortest solution.
    "discriminant" is Fisher's: the direction w that separates best, with the covariance W of z
    within the classes (of what a leaves unexplained, for a number), as long as d reaches along it.
    W is shrunk towards a multiple of the identity:  (1 - shrinkage) W + shrinkage tr(W)/dims I.

    Only sums are kept, in float64, and each event is encoded once.

    Args:
        flow: the model.
        batches: events `(n, *shape)`, their attributes `(n, k)` with NaN where one is not known,
            and their context or None. An event is left out for the attributes that it lacks; for
            "partial" and "discriminant", if it lacks any.
        names: of the k attributes. One that never varies gets no direction, but a note.
        kind: "mean", "partial" or "discriminant".
        shrinkage: of the discriminant, above 0, which gives W an inverse however few events there
            are, and up to 1, where the direction is that of "mean".

    Raises:
        ValueError: if no attribute varies, batches and names do not fit each other, or z is too
            wide for the discriminant's covariance.

    (Kingma & Dhariwal 2018, section 6; Fisher 1936; Friedman 1989 for the shrinkage)
    """
    if kind not in get_args(DirectionKind):
        raise ValueError(f"kind is {kind!r}: choose one of {', '.join(get_args(DirectionKind))}.")
    if kind == "discriminant" and flow.dims > WIDEST:
        raise ValueError(
            f"z has {flow.dims:,} dimensions, and a discriminant takes at most {WIDEST:,}: find "
            "directions of kind mean or partial."
        )
    if not 0 < shrinkage <= 1:
        raise ValueError(f"shrinkage is {shrinkage}: choose it above 0 and up to 1.")
    sums = _Sums(len(names), flow.dims, kind)
    for x, attributes, context in batches:
        if attributes.shape != (len(x), len(names)):
            raise ValueError(
                f"attributes are of shape {tuple(attributes.shape)}: pass one row for each of "
                f"{len(x)} events, with {len(names)} columns, as there are names."
            )
        sums.add(encode(flow, x, context).double().cpu(), attributes.double().cpu())
    varies = sums.high > sums.low
    two_valued = sums.at_low + sums.at_high == sums.count
    if kind == "discriminant" and 0 < sums.count.max() < 3:
        raise ValueError("two events have nothing that varies within a class: pass more of them.")
    if not varies.any():
        lacking = "" if kind == "mean" else " among the events that have them all"
        raise ValueError(
            f"of {', '.join(names)} none varies{lacking}: name attributes that differ from event "
            "to event, and are known."
        )
    notes = [
        f"'{name}' never varies where it is known: it has no direction."
        for name, moves in zip(names, varies, strict=True)
        if not moves
    ]
    return Directions(
        names=[name for name, moves in zip(names, varies, strict=True) if moves],
        vectors=_vectors(sums, varies, two_valued, kind, shrinkage),
        present=torch.where(two_valued, sums.at_high, sums.count)[varies].long().tolist(),
        absent=torch.where(two_valued, sums.at_low, 0.0)[varies].long().tolist(),
        kind=kind,
        model=public_name(type(flow)),
        latent_shapes=flow.latent_shapes,
        notes=notes,
    )


class _Sums:
    """Over events, for each attribute: how many, its ends, and sums of a, z, a a', a z' and z z'.

    Attributes are counted from the first value met, since a year or a large number would lose its
    variance in the difference of two large sums; z is standardized, and needs no such care.
    """

    def __init__(self, attributes: int, dims: int, kind: DirectionKind) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64)

        self.kind = kind
        self.count, self.a, self.aa = zeros(attributes), zeros(attributes), zeros(*2 * [attributes])
        self.z, self.az = zeros(attributes, dims), zeros(attributes, dims)
        self.zz = zeros(dims, dims) if kind == "discriminant" else zeros(0, 0)
        self.origin = torch.full_like(self.a, torch.nan)
        self.low, self.high = self.a + torch.inf, self.a - torch.inf
        self.at_low, self.at_high = zeros(attributes), zeros(attributes)

    def add(self, z: Float[Tensor, "n dims"], a: Float[Tensor, "n k"]) -> None:
        """Take in the latents and attributes of some more events."""
        seen = ~a.isnan()
        if self.kind != "mean":
            seen = seen.all(dim=1, keepdim=True).expand_as(a)
        low, at_low = _lowest(torch.where(seen, a, torch.inf))
        high, at_high = _lowest(torch.where(seen, -a, torch.inf))
        self.low, self.at_low = _lower(self.low, self.at_low, low, at_low)
        self.high, self.at_high = _lower(-self.high, self.at_high, high, at_high)
        self.high = -self.high
        first = a.gather(0, seen.int().argmax(dim=0, keepdim=True))[0]
        self.origin = torch.where(self.origin.isnan() & seen.any(0), first, self.origin)

        a, weight = torch.where(seen, a - self.origin, 0.0), seen.double()
        self.count += weight.sum(0)
        self.a += a.sum(0)
        self.aa += a.T @ a
        self.z += weight.T @ z
        self.az += a.T @ z
        if self.kind == "discriminant":
            z = z[seen[:, 0]]
            self.zz += z.T @ z


def _lowest(a: Tensor) -> tuple[Tensor, Tensor]:
    """The least value of each column, and how many rows have it."""
    low = a.amin(dim=0)
    return low, ((a == low) & low.isfinite()).sum(0).double()


def _lower(low: Tensor, count: Tensor, other: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """The lower of two lowest values, and how many have it."""
    least = torch.minimum(low, other)
    return least, count * (low == least) + others * (other == least)


def _vectors(
    sums: _Sums, varies: Tensor, two_valued: Tensor, kind: DirectionKind, shrinkage: float
) -> Float[Tensor, "k dims"]:
    """The formulas of `find_directions`, for the attributes that vary."""
    n = sums.count[varies]
    a, z = sums.a[varies] / n, sums.z[varies] / n[:, None]
    # For "mean", whose counts differ between attributes, only the diagonal of cov_aa has a meaning.
    cov_aa = sums.aa[varies][:, varies] / n[:, None] - torch.outer(a, a)
    cov_az = sums.az[varies] / n[:, None] - a[:, None] * z
    var = cov_aa.diag()
    span = torch.where(two_valued[varies], (sums.high - sums.low)[varies], 2 * var.sqrt())
    if kind == "partial":
        # In units of each attribute's standard deviation, so that units do not decide what is
        # counted as singular.
        std = var.sqrt()
        correlation = cov_aa / torch.outer(std, std)
        inverse = torch.linalg.pinv(correlation, rtol=1e-9, hermitian=True)
        return (span / std)[:, None] * (inverse @ (cov_az / std[:, None]))
    slope = cov_az / var[:, None]
    mean = slope * span[:, None]
    if kind == "mean":
        return mean
    cov_zz = sums.zz / n[0] - torch.outer(z[0], z[0])
    return torch.stack(
        [
            _discriminant(cov_zz - v * torch.outer(s, s), d, shrinkage)
            for v, s, d in zip(var, slope, mean, strict=True)
        ]
    )


def _discriminant(
    within: Float[Tensor, "dims dims"], d: Float[Tensor, " dims"], shrinkage: float
) -> Float[Tensor, " dims"]:
    """Fisher's: w (w . d) / (w . w) with w = W^-1 d, for the shrunk W."""
    shrunk = (1 - shrinkage) * within
    shrunk.diagonal().add_(shrinkage * within.diagonal().mean())
    w = torch.linalg.solve(shrunk, d)
    return w * (w @ d) / (w @ w)
