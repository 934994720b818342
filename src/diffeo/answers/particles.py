"""Weighted rows that agree with what is given: sequential importance sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Generator, Tensor

from diffeo.answers.spread import Spread, category_spread, parts_spread
from diffeo.data.tables.grids import Floats
from diffeo.mixed.growing import Growing, pick
from diffeo.mixed.parts import Parts
from diffeo.mixed.posterior import MixturePosterior
from diffeo.mixed.tools import Tools
from diffeo.schema import CategoryColumn

GROUPS = 16  # independent samplers, whose differences are the standard error
SOME = 32  # particles of a group whose distributions are averaged


@dataclass
class Particles:
    """Rows with weights, in groups that are independent.

    Attributes:
        tools: of the model.
        x: the rows `(groups, particles, columns)`, conditions first.
        log_w: logarithms of their weights `(groups, particles)`.
        log_z: the logarithm of the density of what is given, by each group `(groups,)`.
        least: the smallest effective number of particles on the way.
        saved: the distributions of columns that come after all that is given: those of a category,
            or the mixture of a number, of a part of the particles, and the weights of these.
        first: the column that comes right after what is given, if nothing was drawn before.
    """

    tools: Tools
    x: Tensor
    log_w: Tensor
    log_z: Tensor
    least: float
    saved: dict[int, tuple[Tensor | Parts, Tensor]] = field(default_factory=dict)
    first: int | None = None

    @property
    def shares(self) -> Floats:
        """The weight of each group."""
        return np.asarray(self.log_z.detach().softmax(0).cpu().numpy())

    @property
    def effective(self) -> float:
        """As many equally weighted rows would know as much, at most."""
        return self.least

    @property
    def log_evidence(self) -> tuple[float, float]:
        """The log-density of what is given, and its standard error."""
        total = float(self.log_z.logsumexp(0)) - math.log(len(self.log_z))
        z = (self.log_z - total).exp()
        return total, float(z.std() / len(z) ** 0.5)

    def draw(self, n: int, generator: Generator | None) -> Tensor:
        """So many rows by their weights."""
        w = (self.log_w.log_softmax(1) + self.log_z.log_softmax(0)[:, None]).flatten().exp()
        u = torch.rand(n, generator=generator, dtype=torch.float64).to(w)
        return self.x.flatten(0, 1)[pick(w[None].expand(n, -1), u)]

    def spread(self, place: int) -> tuple[Spread, list[Spread]]:
        """The distribution of a column, and that of each group; of none if it is exact."""
        layout = self.tools.stack.layout
        column = layout.columns[place]
        shares = self.log_z.log_softmax(0)
        if place in self.saved:
            what, log_w = self.saved[place]
            joint = (log_w.log_softmax(1) + shares[:, None]).exp()
            exact = place == self.first
            if isinstance(what, Tensor):
                assert isinstance(column, CategoryColumn)
                by_group = (log_w.log_softmax(1)[..., None] + what).logsumexp(1)
                log_p = (by_group + shares[:, None]).logsumexp(0)[None]
                whole = category_spread(log_p, column.missing)
                parts = [category_spread(part[None], column.missing) for part in by_group]
                return whole, [] if exact else parts
            c = layout.numbers.index(place)
            if exact:
                return parts_spread(self.tools, c, what.take(slice(0, 1))), []
            whole = parts_spread(self.tools, c, what.weighted(joint.flatten()[None]))
            each = whole.again(self.tools, c, what.weighted(log_w.softmax(1)))
            return whole, each
        log_w = self.log_w.log_softmax(1)
        values = self.x[..., place]
        whole = _weighted(values.flatten()[None], (log_w + shares[:, None]).flatten()[None], column)
        each = [_weighted(v[None], w[None], column) for v, w in zip(values, log_w, strict=True)]
        return whole, each


def _weighted(values: Tensor, log_w: Tensor, column: object) -> Spread:
    """The distribution of values with weights `(1, n)`."""
    w, gap = log_w.softmax(1), values.isnan()
    empty = (w * gap).sum(1)
    if isinstance(column, CategoryColumn):
        size = column.count
        mass = torch.zeros(1, size, dtype=w.dtype, device=w.device)
        places = values.nan_to_num(0.0).long()
        mass = mass.scatter_add(1, places, torch.where(gap, 0.0, w)) + 1e-300
        x = torch.arange(size, dtype=w.dtype, device=w.device)[None]
    else:
        x, index, mass = values[~gap][None], None, w[~gap][None] + 1e-300
        if not x.shape[1]:
            x, mass = torch.zeros(1, 1).to(w), torch.ones(1, 1).to(w)
        x, index = x.sort(1)
        mass = mass.gather(1, index)
        if column.step:  # type: ignore[attr-defined]
            x, place = x.unique(return_inverse=True)
            x = x[None]
            mass = torch.zeros_like(x).scatter_add(1, place, mass)
    return Spread(x, mass, torch.ones_like(x, dtype=torch.bool), mass.log(), empty)


def by_order(
    tools: Tools,
    row: Tensor,
    known: Tensor,
    draws: int,
    generator: Generator,
    *,
    smooth: bool = True,
) -> Particles:
    """Particles in the order of prediction, resampled where few of them carry the weight.

    Unknown columns are drawn from their distributions given those before, and the weight of a
    particle is multiplied by the probability of each given value (Doucet & Johansen 2011).
    """
    stack = tools.stack
    size = max(2, draws // GROUPS)
    rows = Growing(tools, GROUPS * size)
    log_w = torch.zeros(GROUPS, size, dtype=torch.float64, device=row.device)
    log_z, least = log_w[:, 0].clone(), float(GROUPS * size)
    order = stack.layout.table_order
    last = max((i for i, place in enumerate(order) if bool(known[0, place])), default=-1)
    saved: dict[int, tuple[Tensor | Parts, Tensor]] = {}
    first, drawn = None, False
    some = slice(0, min(SOME, size))
    index = torch.arange(GROUPS * size, device=row.device).unflatten(0, log_w.shape)[:, some]
    while rows.at < len(order):
        place = rows.column
        if bool(known[0, place]):
            found = rows.put(row[0, place].expand(len(rows)))
            number, own = stack.layout.order[rows.at - 1]
            if number and rows.at > stack.conditions and not bool(row[0, place].isnan()):
                found = found + stack.log_step[own].to(found)
            log_w = log_w + found.unflatten(0, log_w.shape)
            effective = _effective(log_w)
            least = min(least, float(effective.sum()))
            if bool((effective < size / 2).any()):
                log_z = log_z + log_w.logsumexp(1) - math.log(size)
                rows.take(_systematic(log_w, generator))
                log_w = torch.zeros_like(log_w)
            continue
        if rows.at > last and (smooth or not drawn):
            flat = index.flatten()
            what: Tensor | Parts
            if stack.layout.order[rows.at][0]:
                what = rows.parts().take(flat)
            else:
                what = rows.log_probabilities()[flat].unflatten(0, index.shape)
            saved[place] = what, log_w[:, some]
            first = first if drawn else place
        drawn = True
        rows.put(rows.draw(generator))
    log_z = log_z + log_w.logsumexp(1) - math.log(size)
    return Particles(tools, rows.x.unflatten(0, log_w.shape), log_w, log_z, least, saved, first)


def by_mixtures(posterior: MixturePosterior, draws: int, generator: Generator) -> Particles:
    """Particles that the mixtures of a model expect, with weights for the whole model."""
    size = max(2, draws // GROUPS)
    x, log_q = posterior.draw(GROUPS * size, generator)
    x = x[0]
    log_w = (posterior.tools.stack.log_joint(x) - log_q[0]).unflatten(0, (GROUPS, size))
    log_z = log_w.logsumexp(1) - math.log(size)
    least = float(_effective(log_w.flatten()[None]))
    return Particles(posterior.tools, x.unflatten(0, log_w.shape), log_w, log_z, least)


def _effective(log_w: Tensor) -> Tensor:
    return 1 / log_w.softmax(1).square().sum(1)


def _systematic(log_w: Tensor, generator: Generator) -> Tensor:
    """Indices of particles of each group, by their weights and one number of each group."""
    groups, size = log_w.shape
    u = torch.rand(groups, 1, generator=generator, dtype=torch.float64).to(log_w)
    points = (torch.arange(size, device=log_w.device) + u) / size
    index = torch.searchsorted(log_w.softmax(1).cumsum(1), points).clamp(max=size - 1)
    start = torch.arange(groups, device=log_w.device)[:, None] * size
    return (index + start).flatten()
