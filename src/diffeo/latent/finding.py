"""Find the direction of each attribute in latent space, in one pass over the data."""

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
MAX_DIMS = 4_096  # of the largest covariance: 128 MiB in float64


def find_directions(
    flow: Flow,
    batches: Iterable[tuple[Tensor, Tensor, Tensor | None]],
    names: Sequence[str],
    kind: DirectionKind = "mean",
    *,
    shrinkage: float = 0.1,
) -> Directions:
    """The direction in z of each attribute a: how z changes as a goes from low to high.

        mean:          d = cov(z, a) / var(a) * span(a)
        partial:       d_i = row i of Cov(a)^-1 Cov(a, z), times span(a_i)
        discriminant:  d' = w (w . d) / (w . w),   w = W^-1 d

    The span of an attribute of two values is their distance, so that d is the mean of z with the
    larger value minus the mean with the smaller. That of a number of more values is two standard
    deviations; for two values equally frequent this is the same.

    "mean" includes whatever goes with the attribute in the data. "partial" regresses z on all
    attributes at once, so that each direction leaves the others as they are; where attributes
    determine each other, as the classes of one label do, it is the shortest solution.
    "discriminant" is Fisher's: the direction w that separates best, with the covariance W of z
    within the classes (for a number, of what a does not explain), and the length of d along it. W
    is shrunk towards a multiple of the identity:  (1 - shrinkage) W + shrinkage tr(W)/dims I.

    Args:
        flow: the model; each event is encoded once.
        batches: events `(n, *shape)`, their attributes `(n, k)` with NaN where one is not known,
            and their context or None. An event is left out for the attributes that it lacks; for
            "partial" and "discriminant", if it lacks any.
        names: of the k attributes. One that never varies gets no direction, but a note.
        kind: which formula.
        shrinkage: of the discriminant, above 0, which makes W invertible however few events there
            are, and up to 1, where the direction is that of "mean".

    Raises:
        ValueError: if no attribute varies, batches and names do not fit each other, or z is too
            wide for the discriminant's covariance.

    (Kingma & Dhariwal 2018, section 6; Fisher 1936; Friedman 1989 for the shrinkage)
    """
    if kind not in get_args(DirectionKind):
        raise ValueError(f"kind is {kind!r}: choose one of {', '.join(get_args(DirectionKind))}.")
    if kind == "discriminant" and flow.dims > MAX_DIMS:
        raise ValueError(
            f"z has {flow.dims:,} dimensions, and a discriminant takes at most {MAX_DIMS:,}: find "
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
        raise ValueError("with two events nothing varies inside a class: pass more of them.")
    if not varies.any():
        lacking = "" if kind == "mean" else " among the events that have them all"
        raise ValueError(
            f"of {', '.join(names)} none varies{lacking}: name attributes that differ from event "
            "to event, and are known."
        )
    note = "'{}' never varies where it is known: it has no direction."
    return Directions(
        names=[name for name, found in zip(names, varies, strict=True) if found],
        vectors=_vectors(sums, varies, two_valued, kind, shrinkage),
        present=torch.where(two_valued, sums.at_high, sums.count)[varies].long().tolist(),
        absent=torch.where(two_valued, sums.at_low, 0.0)[varies].long().tolist(),
        kind=kind,
        model=public_name(type(flow)),
        latent_shapes=flow.latent_shapes,
        notes=[note.format(name) for name, found in zip(names, varies, strict=True) if not found],
    )


class _Sums:
    """Over events, for each attribute: their number, the extremes, and sums of a, z and products.

    Attributes are counted from the first value seen, since a year or a large number would lose its
    variance in the difference of two large sums; z is standardized and needs no such care.
    """

    def __init__(self, attributes: int, dims: int, kind: DirectionKind) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64)

        self.kind = kind
        self.count, self.a, self.aa = zeros(attributes), zeros(attributes), zeros(*2 * [attributes])
        self.z, self.az = zeros(attributes, dims), zeros(attributes, dims)
        self.zz = zeros(dims, dims) if kind == "discriminant" else zeros(0, 0)
        self.origin = torch.full_like(self.a, torch.nan)
        self.low, self.minus_high = self.a + torch.inf, self.a + torch.inf
        self.at_low, self.at_high = zeros(attributes), zeros(attributes)

    @property
    def high(self) -> Tensor:
        """The largest value of each attribute."""
        return -self.minus_high

    def add(self, z: Float[Tensor, "n dims"], a: Float[Tensor, "n k"]) -> None:
        """Add the latents and attributes of more events."""
        seen = ~a.isnan()
        if self.kind != "mean":
            seen = seen.all(dim=1, keepdim=True).expand_as(a)
        self.low, self.at_low = _lowest(self.low, self.at_low, torch.where(seen, a, torch.inf))
        self.minus_high, self.at_high = _lowest(
            self.minus_high, self.at_high, torch.where(seen, -a, torch.inf)
        )
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


def _lowest(low: Tensor, count: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest of a value and more values of each column, and how many there are of it."""
    lowest = torch.minimum(low, values.amin(dim=0))
    return lowest, count * (low == lowest) + ((values == lowest) & values.isfinite()).sum(0)


def _vectors(
    sums: _Sums, varies: Tensor, two_valued: Tensor, kind: DirectionKind, shrinkage: float
) -> Float[Tensor, "k dims"]:
    """Evaluate the formulas of `find_directions` for the attributes that vary."""
    n = sums.count[varies]
    a, z = sums.a[varies] / n, sums.z[varies] / n[:, None]
    # For "mean" the counts differ between attributes, and only the diagonal of cov_aa is right.
    cov_aa = sums.aa[varies][:, varies] / n[:, None] - torch.outer(a, a)
    cov_az = sums.az[varies] / n[:, None] - a[:, None] * z
    var = cov_aa.diag()
    span = torch.where(two_valued[varies], (sums.high - sums.low)[varies], 2 * var.sqrt())
    if kind == "partial":
        # As correlations, so that units do not decide what counts as singular.
        std = var.sqrt()
        correlation = cov_aa / torch.outer(std, std)
        inverse = torch.linalg.pinv(correlation, rtol=1e-9, hermitian=True)
        return (span / std)[:, None] * (inverse @ (cov_az / std[:, None]))
    slope = cov_az / var[:, None]
    mean = slope * span[:, None]
    if kind == "mean":
        return mean
    cov_zz = sums.zz / n[0] - torch.outer(z[0], z[0])
    directions = []
    for v, s, d in zip(var, slope, mean, strict=True):
        unexplained = cov_zz - v * torch.outer(s, s)
        shrunk = (1 - shrinkage) * unexplained
        shrunk.diagonal().add_(shrinkage * unexplained.diagonal().mean())
        w = torch.linalg.solve(shrunk, d)
        directions.append(w * (w @ d) / (w @ w))
    return torch.stack(directions)
