"""Directions of z that belong to attributes: finding them, edits along them, and their file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffeo.flow import Flow
from diffeo.latent.arithmetic import decode, encode
from diffeo.utils.config import public_name
from diffeo.utils.files import atomic_write, parse_json
from diffeo.utils.ranges import Finite, Range, checked

DirectionKind = Literal["mean", "partial", "discriminant"]
MAX_DIMS = 4_096  # of the largest covariance: 128 MiB in float64


@dataclass(frozen=True, eq=False)
class Directions:
    """For each attribute, the step of z from events without it to events with it."""

    names: list[str]
    vectors: Tensor  # [k, dims], float64
    present: list[int]  # events that had the attribute; or that it was known of, if a number
    absent: list[int]  # those that did not have it; 0 for a number
    kind: str  # see `find_directions`
    model: str  # the class of the flow
    latent_shapes: list[tuple[int, ...]]
    notes: list[str] = field(default_factory=list)  # sentences for the user

    def __getitem__(self, name: str) -> Tensor:
        """The direction of one attribute, `(dims,)`: a ValueError if there is none."""
        if name not in self.names:
            raise ValueError(
                f"there is no direction of '{name}': choose from {', '.join(self.names)}."
            )
        return self.vectors[self.names.index(name)]

    def check(self, flow: Flow) -> None:
        """Refuse a flow of another class or with other latents by a ValueError."""
        model = public_name(type(flow))
        if (model, flow.latent_shapes) != (self.model, self.latent_shapes):
            raise ValueError(
                f"these directions are of a {self.model} with latents {self.latent_shapes}, and "
                f"this model is a {model} with latents {flow.latent_shapes}: find its own with "
                "`diffeo directions`."
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one .safetensors file: the vectors, and all else as JSON in its header."""
        path = _checked(path)
        names = [part.name for part in fields(self) if part.name != "vectors"]
        header = {name: json.dumps(getattr(self, name)) for name in names}
        with atomic_write(path) as partial:
            save_file({"vectors": self.vectors.cpu().contiguous()}, partial, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file of `save`.

        Raises:
            ValueError: if the file is missing, damaged, or holds something else.
        """
        path = _checked(path)
        if not path.is_file():
            raise ValueError(f"{path} is missing: make it with `diffeo directions`.")
        try:
            with safe_open(path, framework="pt") as file:
                header = {name: parse_json(text) for name, text in (file.metadata() or {}).items()}
                header["latent_shapes"] = [tuple(shape) for shape in header["latent_shapes"]]
                found = cls(vectors=file.get_tensor("vectors"), **header)
                found._check_contents()
        except OSError:
            raise
        except Exception as error:  # safetensors raises its own for a dtype that torch lacks
            raise ValueError(
                f"{path} is damaged or holds no directions: make it again with `diffeo directions`."
            ) from error
        return found

    def _check_contents(self) -> None:
        """Refuse contents that a damaged or hostile file may have."""
        k, dims = len(self.names), sum(map(math.prod, self.latent_shapes))
        for name, kind in {"names": str, "present": int, "absent": int, "notes": str}.items():
            values = getattr(self, name)
            if not isinstance(values, list) or not all(type(value) is kind for value in values):
                raise ValueError(f"{name} is no list of {kind.__name__}")
        if not (k == len(self.present) == len(self.absent) and self.vectors.shape == (k, dims)):
            raise ValueError("there is not one vector for each name")
        if not self.vectors.is_floating_point() or not self.vectors.isfinite().all():
            raise ValueError("the vectors are no finite numbers")


@checked
def edit(
    flow: Flow,
    x: Tensor,
    directions: Directions,
    strengths: Mapping[str, Finite],
    context: Tensor | None = None,
) -> Tensor:
    """Events x `(n, *shape)` with more or less of some attributes, by name.

        x' = decode(encode(x) + sum_i strength_i direction_i)

    At strength 0 the event comes back as `decode(encode(x))` does: an image bit for bit, in the
    bits that the flow models. At 1 it has moved as far as events without the attribute are from
    those with it. (Kingma & Dhariwal 2018, section 6)

    Raises:
        ValueError: if the directions are of another model, or lack a name.
    """
    directions.check(flow)
    z = encode(flow, x, context)
    for name, strength in strengths.items():
        z = z + strength * directions[name].to(z)
    return decode(flow, z, context)


@checked
def find_directions(
    flow: Flow,
    batches: Iterable[tuple[Tensor, Tensor, Tensor | None]],
    names: Sequence[str],
    kind: DirectionKind = "mean",
    *,
    shrinkage: Annotated[float, Range(0, 1, above=True)] = 0.1,
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
    if kind == "discriminant" and flow.dims > MAX_DIMS:
        raise ValueError(
            f"z has {flow.dims:,} dimensions, and a discriminant takes at most {MAX_DIMS:,}: find "
            "directions of kind mean or partial."
        )
    k, dims = len(names), flow.dims if kind == "discriminant" else 0
    z_sum, az_sum = torch.zeros(2, k, flow.dims, dtype=torch.float64)
    zz_sum = torch.zeros(dims, dims, dtype=torch.float64)
    attributes = [torch.full((1, k), math.nan, dtype=torch.float64)]
    origin = None
    for x, a, context in batches:
        if a.shape != (len(x), k):
            raise ValueError(
                f"attributes are of shape {tuple(a.shape)}: pass one row for each of {len(x)} "
                f"events, with {k} columns, as there are names."
            )
        z, a = encode(flow, x, context).cpu().double(), a.cpu().double()
        if origin is None:  # else a year would lose its variance in the difference of large sums
            origin = a.nanmean(0).nan_to_num()
        known = ~a.isnan()
        if kind != "mean":
            known = known.all(dim=1, keepdim=True).expand_as(a)
        a = torch.where(known, a - origin, math.nan)
        attributes.append(a)
        z_sum += known.double().T @ z
        az_sum += a.nan_to_num().T @ z
        if kind == "discriminant":
            z = z[known[:, 0]]
            zz_sum += z.T @ z

    a = torch.cat(attributes)
    known = ~a.isnan()
    n = known.sum(0)
    low = torch.where(known, a, math.inf).amin(0)
    high = torch.where(known, a, -math.inf).amax(0)
    at_low, at_high = (a == low).sum(0), (a == high).sum(0)
    varies, two_valued = high > low, at_low + at_high == n
    if kind == "discriminant" and 0 < n.max() < 3:
        raise ValueError("with two events nothing varies inside a class: pass more of them.")
    if not varies.any():
        lacking = "" if kind == "mean" else " among the events that have them all"
        raise ValueError(
            f"of {', '.join(names)} none varies{lacking}: name attributes that differ from event "
            "to event, and are known."
        )
    # For "mean" the counts differ between attributes, and only the diagonal of cov_aa is right.
    a, count = a[:, varies].nan_to_num(), n[varies, None]
    mean_a, mean_z = a.sum(0) / count[:, 0], z_sum[varies] / count
    cov_aa = a.T @ a / count - torch.outer(mean_a, mean_a)
    cov_az = az_sum[varies] / count - mean_a[:, None] * mean_z
    std = cov_aa.diag().sqrt()
    span = torch.where(two_valued[varies], (high - low)[varies], 2 * std)[:, None]
    if kind == "partial":
        # As correlations, so that units do not decide what counts as singular.
        correlation = cov_aa / torch.outer(std, std)
        inverse = torch.linalg.pinv(correlation, rtol=1e-9, hermitian=True)
        vectors = span / std[:, None] * (inverse @ (cov_az / std[:, None]))
    else:
        vectors = cov_az / std.square()[:, None] * span
    if kind == "discriminant":
        cov_zz = zz_sum / count[0] - torch.outer(mean_z[0], mean_z[0])
        vectors = _discriminants(vectors, cov_zz, std / span[:, 0], shrinkage)
    pairs = list(zip(names, varies.tolist(), strict=True))
    return Directions(
        names=[name for name, found in pairs if found],
        vectors=vectors,
        present=torch.where(two_valued, at_high, n)[varies].tolist(),
        absent=torch.where(two_valued, at_low, 0)[varies].tolist(),
        kind=kind,
        model=public_name(type(flow)),
        latent_shapes=flow.latent_shapes,
        notes=[
            f"'{name}' never varies where it is known: it has no direction."
            for name, found in pairs
            if not found
        ],
    )


def _discriminants(means: Tensor, cov_zz: Tensor, ratios: Tensor, shrinkage: float) -> Tensor:
    """Fisher's directions from those of kind "mean", and the ratios std(a) / span(a)."""
    directions = []
    for d, ratio in zip(means, ratios, strict=True):
        unexplained = cov_zz - ratio**2 * torch.outer(d, d)
        shrunk = (1 - shrinkage) * unexplained
        shrunk.diagonal().add_(shrinkage * unexplained.diagonal().mean())
        w = torch.linalg.solve(shrunk, d)
        directions.append(w * (w @ d) / (w @ w))
    return torch.stack(directions)


def _checked(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is no file of directions: its name has to end in .safetensors.")
    return path
