"""The distribution function of each column of numbers, and its values on the scale of noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from diffeo.bijections.quantiles import log_ndtri
from diffeo.mixed.scores import Scores

NEVER = 1e300  # in place of values that are not there
LINEAR, ARSINH, LOG = 0, 1, 2  # scales on which components are normal


@dataclass(frozen=True)
class Columns:
    """The parameters of some columns of `Marginals`, and what they make of values.

    Args:
        cells: whether values are cells of noise, and no points.
    """

    cells: bool
    step: Tensor
    origin: Tensor
    least: Tensor
    most: Tensor
    log_w: Tensor
    mean: Tensor
    scale: Tensor
    kind: Tensor
    place: Tensor
    unit: Tensor
    ends: Tensor
    below: Tensor
    share: Tensor
    values: Tensor
    masses: Tensor

    def __call__(self, x: Tensor) -> tuple[Tensor, Scores]:
        """Log-probability or -density of each value of x `(n, D)`, and where it lies.

        NaN has a log-probability of 0 and a score of 0.
        """
        empty, outside = x.isnan(), self.outside(x)
        x = torch.where(empty, self.place, x)
        log_p, scores = (self._cells if self.cells else self._points)(x, outside)
        log_p = torch.where(outside, -math.inf, log_p)
        scores = Scores(*(torch.where(empty, 0.0, part) for part in scores))
        return torch.where(empty, 0.0, log_p), scores

    def outside(self, x: Tensor) -> Tensor:
        """Which values `(n, D)` a column cannot have."""
        return (x < self.least) | (x > self.most)

    def _points(self, x: Tensor, outside: Tensor) -> tuple[Tensor, Scores]:
        v, log_slope = self._standard(x)
        lower, upper, log_piece = self._pieced(*self._limited(*self._tails(v)))
        log_p = self._log_density(v) + log_slope + log_piece
        point = _score(lower, upper)
        width = torch.where(outside, 0.0, log_p) - _log_phi(point)
        return log_p, Scores(point, point, point, width)

    def _cells(self, x: Tensor, outside: Tensor) -> tuple[Tensor, Scores]:
        index = self.index(x)
        value = self.value(index)
        low = (value - self.step / 2).maximum(self.least)
        high = (value + self.step / 2).minimum(self.most)
        below, mass = self._masses(index)
        tails = [self._tails(self._standard(end)[0]) for end in (low, high)]
        (f_low, g_low), (f_high, g_high) = tails
        # The smooth part: of a grid the probability of a cell, otherwise the density.
        v, log_slope = self._standard(x)
        density = self._log_density(v) + log_slope
        lower = f_low + f_high < 1
        part = torch.where(lower, f_high - f_low, g_low - g_high)
        # A difference keeps too few digits where the cell is narrow.
        narrow = part < 1e-7 * torch.where(lower, f_high, g_low)
        by_density = density + torch.where(self.step > 0, self.step, 1.0).log()
        log_part = part.clamp(min=1e-300).log() - self._log_inside
        log_part = torch.where(narrow | (part <= 0), by_density, log_part)
        (f_low, g_low, log_piece), (f_high, g_high, _) = (
            self._pieced(*self._limited(*pair)) for pair in tails
        )
        log_smooth = torch.where(self.step > 0, log_part, density + log_piece)
        smooth, atom = (1 - self.share), self.share * mass
        is_atom = (self.step == 0) & (atom > 0)
        log_p = torch.where(
            is_atom,
            atom.clamp(min=1e-300).log(),
            torch.logaddexp(smooth.clamp(min=1e-300).log() + log_smooth, atom.log()),
        )
        above = 1 - below - mass
        # Rounding leaves 1e-16 beyond the last mass, and so scores that never reach their limit.
        above = torch.where(above < 1e-12, 0.0, above)
        f_low, f_high = (
            smooth * f + self.share * m for f, m in ((f_low, below), (f_high, below + mass))
        )
        g_low, g_high = (
            smooth * g + self.share * m for g, m in ((g_low, above + mass), (g_high, above))
        )
        start, end = _score(f_low, g_low), _score(f_high, g_high)
        # The middle of a cell is where half of its probability is below.
        point = _score((f_low + f_high) / 2, (g_low + g_high) / 2)
        cell = ((self.step > 0) | is_atom) & (end - start > 1e-6)
        width = torch.where(outside, 0.0, log_p) - _log_phi(point)
        width = torch.where(cell, (end - start).clamp(min=1e-300).log(), width)
        start, end = torch.where(cell, start, point), torch.where(cell, end, point)
        return log_p, Scores(point, start, end, width)

    # Values and cells -----------------------------------------------------------------------------

    def index(self, x: Tensor) -> Tensor:
        """Which cell of the grid a value is in; of a continuous column the value."""
        grid = ((x - self.origin) / torch.where(self.step > 0, self.step, 1.0)).round()
        return torch.where(self.step > 0, grid, x)

    def value(self, index: Tensor) -> Tensor:
        """The values of cells."""
        return torch.where(self.step > 0, self.origin + index * self.step, index)

    def mass(self, index: Tensor) -> Tensor:
        """The mass of values by their cells, given that they have one."""
        return self._masses(index)[1]

    def _masses(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The mass of values below, and of the value itself, both given that it has one."""
        sums = torch.cat((self.masses.new_zeros(len(self.masses), 1), self.masses.cumsum(1)), 1)
        rows = index.T.contiguous()
        left = torch.searchsorted(self.values, rows)
        right = torch.searchsorted(self.values, rows, right=True)
        below, until = sums.gather(1, left).T, sums.gather(1, right).T
        return below, until - below

    # Scales ---------------------------------------------------------------------------------------

    def scaled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values on the scale on which components are normal, and the log of the slope."""
        u = (x - self.place) / self.unit
        log = u.clamp(min=1e-300).log()
        arsinh = torch.asinh(u)
        y = torch.where(self.kind == LOG, log, torch.where(self.kind == ARSINH, arsinh, u))
        slope = torch.where(
            self.kind == LOG,
            -log,
            torch.where(self.kind == ARSINH, -0.5 * torch.log1p(u * u), 0.0),
        )
        return y, slope - self.unit.log()

    def unscaled(self, y: Tensor) -> Tensor:
        """The values that `scaled` maps to y."""
        u = torch.where(
            self.kind == LOG, y.exp(), torch.where(self.kind == ARSINH, torch.sinh(y), y)
        )
        return self.place + self.unit * u

    def range(self) -> tuple[Tensor, Tensor]:
        """Where all values of each column lie on its scale `(D,)`."""
        reach = (self.mean.abs() + 40 * self.scale).amax(1)
        first, _ = self.scaled(self.least[None].clamp(min=-1e300))
        last, _ = self.scaled(self.most[None].clamp(max=1e300))
        return (-reach).maximum(first[0]), reach.minimum(last[0])

    def from_scale(self, y: Tensor) -> Tensor:
        """The values `(n, D)` that the columns can have, at or near y on their scales."""
        x = self.unscaled(y)
        on_grid = self.value(self.index(x))
        x = torch.where(self.step > 0, on_grid, x)
        lowest, highest = self.least + self.step / 2, self.most - self.step / 2
        x = x.maximum(lowest).minimum(highest)
        return self._snapped(x) if self.cells else x

    def _snapped(self, x: Tensor) -> Tensor:
        """Values at an atom up to rounding, as the atom."""
        rows = x.T.contiguous()
        place = torch.searchsorted(self.values, rows).clamp(max=self.values.shape[1] - 1)
        for neighbour in (place, (place - 1).clamp(min=0)):
            atom = self.values.gather(1, neighbour).T
            near = (
                (self.step == 0)
                & (atom < NEVER)
                & ((x - atom).abs() <= 1e-12 * (atom.abs() + self.unit))
            )
            x = torch.where(near, atom, x)
        return x

    # The smooth part ------------------------------------------------------------------------------

    def _standard(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values in units of each component `(K, n, D)`, and the log of the slope `(n, D)`."""
        y, log_slope = self.scaled(x)
        return (y - self.mean.T[:, None]) / self.scale.T[:, None], log_slope

    def _log_density(self, v: Tensor) -> Tensor:
        """The log-density on the scale of the components, within the limits."""
        constant = self.log_w.T[:, None] - self.scale.T[:, None].log() - 0.5 * math.log(2 * math.pi)
        return (constant - 0.5 * v * v).logsumexp(0) - self._log_inside

    def _tails(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """What is below and above, without limits."""
        w, small = self.log_w.exp().T[:, None] / 2, torch.erfc(v.abs() * math.sqrt(0.5))
        left, large = v < 0, 2 - small
        below, above = torch.where(left, small, large), torch.where(left, large, small)
        return (w * below).sum(0), (w * above).sum(0)

    def _limited(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """What is below and above, of what is within the limits."""
        (least, _), (_, most_up) = self._limits
        inside = self._log_inside.exp()
        return ((lower - least) / inside).clamp(0, 1), ((upper - most_up) / inside).clamp(0, 1)

    def _pieced(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is below and above after the pieces, and the log-density of the piece."""
        if self.ends.shape[1] == 2:
            return lower, upper, torch.zeros_like(lower)
        inner = self.ends[:, 1:].contiguous()
        place = torch.searchsorted(inner, lower.T.contiguous())
        start, end, below, until = (
            part.gather(1, places).T
            for part in (self.ends, self.below)
            for places in (place, place + 1)
        )
        slope = (until - below) / (end - start)
        lower, upper = below + (lower - start) * slope, (1 - until) + (upper - (1 - end)) * slope
        return lower.clamp(0, 1), upper.clamp(0, 1), slope.log()

    def smooth_cdf(self, x: Tensor) -> Tensor:
        """What a mixture alone has below values, before the pieces."""
        return self._limited(*self._tails(self._standard(x)[0]))[0]

    @cached_property
    def _limits(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Both tails of the mixture at the limits."""
        ends = []
        for limit, tails in ((self.least, (0.0, 1.0)), (self.most, (1.0, 0.0))):
            there = torch.where(limit.isfinite(), limit, self.place)[None]
            lower, upper = self._tails(self._standard(there)[0])
            ends.append(
                (
                    torch.where(limit.isfinite(), lower[0], tails[0]),
                    torch.where(limit.isfinite(), upper[0], tails[1]),
                )
            )
        return ends[0], ends[1]

    @cached_property
    def _log_inside(self) -> Tensor:
        """The logarithm of the probability within the limits."""
        (least, least_up), (most, most_up) = self._limits
        inside = torch.where(least < 0.5, most - least, least_up - most_up)
        return inside.clamp(min=1e-300).log()


def _score(lower: Tensor, upper: Tensor) -> Tensor:
    """Phi^-1 of a probability, from its smaller tail; beyond all scores for 0 and 1."""
    small = torch.minimum(lower, upper)
    z = log_ndtri(small.clamp(min=1e-300, max=0.5).log())
    z = torch.where(small <= 0, -40.0, z)
    return torch.where(lower <= upper, z, -z)


def _log_phi(z: Tensor) -> Tensor:
    return -0.5 * z * z - 0.5 * math.log(2 * math.pi)
