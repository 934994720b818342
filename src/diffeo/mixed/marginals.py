"""The distribution of each column of numbers on its own, and its values on the scale of noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffeo.bijections.quantiles import log_ndtri
from diffeo.mixed.scores import Scores
from diffeo.schema import NumberColumn
from diffeo.utils.config import Configurable
from diffeo.utils.ranges import Count, Whole

NEVER = 1e300  # in place of values that are not there
LINEAR, ARSINH, LOG = 0, 1, 2  # scales on which components are normal


class Marginals(Configurable, nn.Module):
    """The distribution functions of columns of numbers, as normal scores of their values.

        F(x) = (1 - m) S(x) + m A(x),   y = Phi^-1(F(x))

    S is a mixture of normal distributions of x, of arsinh(x) or of log(x), whichever is likeliest
    by BIC, within the limits of the column. A puts masses on single values: on those that are
    atoms, and of a column with a grid on all that were seen. m is the share that is likeliest where
    each row is left out in turn, so values that repeat more than chance would have them get a mass
    of their own, and others that of the smooth part.

    (Liu et al. 2009, for normal scores of columns)

    Args:
        columns: numbers and dates.
        levels: how many values with masses there is room for, in the column that has most.
        components: how many components there is room for.
    """

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
    share: Tensor
    values: Tensor
    masses: Tensor

    def __init__(
        self, columns: Sequence[NumberColumn], levels: Whole = 1, components: Count = 12
    ) -> None:
        super().__init__()
        self.columns = list(columns)
        count = len(self.columns)

        def fixed(read: Any) -> Tensor:
            values = [float(read(column)) for column in self.columns]
            # With its numbers also where a model is made without storage, to be loaded.
            return torch.tensor(values, dtype=torch.float64, device="cpu")

        inf = math.inf
        for name, values in {
            "step": fixed(lambda c: c.step),
            "origin": fixed(lambda c: c.origin),
            "least": fixed(lambda c: -inf if c.low is None else c.low - c.step / 2),
            "most": fixed(lambda c: inf if c.high is None else c.high + c.step / 2),
        }.items():
            self.register_buffer(name, values, persistent=False)
        for name, shape in {
            "log_w": (count, components),
            "mean": (count, components),
            "scale": (count, components),
            "kind": (count,),
            "place": (count,),
            "unit": (count,),
            "share": (count,),
        }.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        size = (count, max(1, levels))
        self.register_buffer("values", torch.full(size, NEVER, dtype=torch.float64))
        self.register_buffer("masses", torch.zeros(size, dtype=torch.float64))
        self.scale.fill_(1.0)
        self.unit.fill_(1.0)
        self.log_w.fill_(-math.log(components))

    # Evaluation ---------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> tuple[Tensor, Scores]:
        """Log-probability or -density of each value of x `(n, D)`, and where it lies.

        NaN has a log-probability of 0 and a score of 0.
        """
        empty = x.isnan()
        x = torch.where(empty, self.place, x)
        index = self._index(x)
        low, high = self._cell(x)
        below, mass = self._masses(index)
        log_cell = self._log_smooth(x, low, high)  # of the smooth part: density or probability
        smooth, atom = (1 - self.share), self.share * mass
        is_atom = (self.step == 0) & (atom > 0)
        log_p = torch.where(
            is_atom,
            atom.clamp(min=1e-300).log(),
            torch.logaddexp(smooth.clamp(min=1e-300).log() + log_cell, atom.log()),
        )
        outside = self.outside(x)
        log_p = torch.where(outside, -math.inf, log_p)
        lower, upper = self._both_tails(low, high, below, mass)
        start, end = self._score(lower, upper)
        # The middle of a cell is where half of its probability is below.
        point = self._score(lower.mean(0), upper.mean(0))
        cell = ((self.step > 0) | is_atom) & (end - start > 1e-6)
        log_phi = -0.5 * point * point - 0.5 * math.log(2 * math.pi)
        finite = torch.where(outside, 0.0, log_p)
        log_width = torch.where(cell, (end - start).clamp(min=1e-300).log(), finite - log_phi)
        scores = Scores(
            point, torch.where(cell, start, point), torch.where(cell, end, point), log_width
        )
        scores = Scores(*(torch.where(empty, 0.0, part) for part in scores))
        return torch.where(empty, 0.0, log_p), scores

    def outside(self, x: Tensor) -> Tensor:
        """Which values `(n, D)` a column cannot have."""
        return (x < self.least) | (x > self.most)

    def _both_tails(
        self, low: Tensor, high: Tensor, below: Tensor, mass: Tensor
    ) -> tuple[Tensor, Tensor]:
        """F and 1 - F at both ends of cells `(2, n, D)`."""
        ends = torch.stack((low, high))
        f, g = self._smooth_cdf(ends.flatten(0, 1))
        smooth, above = 1 - self.share, 1 - below - mass
        # Rounding leaves 1e-16 beyond the last mass, and so scores that never reach their limit.
        above = torch.where(above < 1e-12, 0.0, above)
        lower = smooth * f.unflatten(0, (2, -1)) + self.share * torch.stack((below, below + mass))
        upper = smooth * g.unflatten(0, (2, -1)) + self.share * torch.stack((above + mass, above))
        return lower, upper

    def _index(self, x: Tensor) -> Tensor:
        """Which cell of the grid a value is in; of a continuous column the value."""
        grid = ((x - self.origin) / torch.where(self.step > 0, self.step, 1.0)).round()
        return torch.where(self.step > 0, grid, x)

    def value(self, index: Tensor) -> Tensor:
        """The values of cells."""
        return torch.where(self.step > 0, self.origin + index * self.step, index)

    def _cell(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value = self.value(self._index(x))
        low, high = value - self.step / 2, value + self.step / 2
        return low.maximum(self.least), high.minimum(self.most)

    def _masses(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The mass of values below, and of the value itself, both given that it has one."""
        sums = torch.cat((self.masses.new_zeros(len(self.masses), 1), self.masses.cumsum(1)), 1)
        rows = index.T.contiguous()
        left = torch.searchsorted(self.values, rows)
        right = torch.searchsorted(self.values, rows, right=True)
        below, until = sums.gather(1, left).T, sums.gather(1, right).T
        return below, until - below

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

    def _standard(self, x: Tensor) -> Tensor:
        """Values in units of each component `(K, n, D)`."""
        y, _ = self.scaled(x)
        return (y - self.mean.T[:, None]) / self.scale.T[:, None]

    def _smooth_cdf(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """S and 1 - S, within the limits."""
        lower, upper = self._tails(x)
        (least, least_up), (most, most_up) = self._limits()
        inside = torch.where(least < 0.5, most - least, least_up - most_up).clamp(min=1e-300)
        f = (lower - least) / inside
        g = (upper - most_up) / inside
        return f.clamp(0, 1), g.clamp(0, 1)

    def _tails(self, x: Tensor) -> tuple[Tensor, Tensor]:
        v, w = self._standard(x) * math.sqrt(0.5), self.log_w.exp().T[:, None]
        return (w * torch.erfc(-v)).sum(0) / 2, (w * torch.erfc(v)).sum(0) / 2

    def _limits(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Both tails of the mixture at the limits."""
        ends = []
        for limit, tails in ((self.least, (0.0, 1.0)), (self.most, (1.0, 0.0))):
            there = torch.where(limit.isfinite(), limit, self.place)[None]
            lower, upper = self._tails(there)
            ends.append(
                (
                    torch.where(limit.isfinite(), lower[0], tails[0]),
                    torch.where(limit.isfinite(), upper[0], tails[1]),
                )
            )
        return ends[0], ends[1]

    def _log_smooth(self, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The log-probability of a cell, or log-density of a value, of the smooth part."""
        y, log_slope = self.scaled(x)
        v = (y - self.mean.T[:, None]) / self.scale.T[:, None]
        constant = self.log_w.T[:, None] - self.scale.T[:, None].log() - 0.5 * math.log(2 * math.pi)
        log_density = (constant - 0.5 * v * v).logsumexp(0) + log_slope
        (least, least_up), (most, most_up) = self._limits()
        inside = torch.where(least < 0.5, most - least, least_up - most_up).clamp(min=1e-300).log()
        f_low, g_low = self._tails(low)
        f_high, g_high = self._tails(high)
        mass = torch.where(f_low + f_high < 1, f_high - f_low, g_low - g_high)
        # A difference keeps too few digits where the cell is narrow.
        narrow = mass < 1e-7 * torch.where(f_low + f_high < 1, f_high, g_low)
        by_density = log_density + torch.where(self.step > 0, self.step, 1.0).log()
        log_mass = torch.where(narrow | (mass <= 0), by_density, mass.clamp(min=1e-300).log())
        return torch.where(self.step > 0, log_mass, log_density) - inside

    @staticmethod
    def _score(lower: Tensor, upper: Tensor) -> Tensor:
        """Phi^-1 of a probability, from its smaller tail; beyond all scores for 0 and 1."""
        small = torch.minimum(lower, upper)
        z = log_ndtri(small.clamp(min=1e-300, max=0.5).log())
        z = torch.where(small <= 0, -40.0, z)
        return torch.where(lower <= upper, z, -z)

    def load_levels(self, other: Marginals) -> None:
        """Take the numbers of marginals with fewer levels."""
        state = other.state_dict()
        more = self.values.shape[1] - state["values"].shape[1]
        for name, fill in (("values", NEVER), ("masses", 0.0)):
            state[name] = torch.nn.functional.pad(state[name], (0, more), value=fill)
        self.load_state_dict(state)

    def one(self, i: int) -> Marginals:
        """The distribution of one column."""
        one = Marginals([self.columns[i]], self.values.shape[1], self.log_w.shape[1])
        one = one.to(device=self.log_w.device, dtype=self.log_w.dtype)
        state = self.state_dict()
        one.load_state_dict({name: tensor[i : i + 1] for name, tensor in state.items()})
        return one

    # The inverse ----------------------------------------------------------------------------------

    def range(self) -> tuple[Tensor, Tensor]:
        """Where all values of each column lie on its scale `(D,)`."""
        reach = (self.mean.abs() + 40 * self.scale).amax(1)
        first, _ = self.scaled(self.least[None].clamp(min=-1e300))
        last, _ = self.scaled(self.most[None].clamp(max=1e300))
        return (-reach).maximum(first[0]), reach.minimum(last[0])

    def from_scale(self, y: Tensor) -> Tensor:
        """The values `(n, D)` that the columns can have, at or near y on their scales."""
        x = self.unscaled(y)
        on_grid = self.value(self._index(x))
        x = torch.where(self.step > 0, on_grid, x)
        lowest, highest = self.least + self.step / 2, self.most - self.step / 2
        x = x.maximum(lowest).minimum(highest)
        return self._snapped(x)

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
