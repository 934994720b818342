"""Values of a column from their scores, by a table of the distribution function and few steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from diffeo.mixed.columns import Columns
from diffeo.mixed.parts import quantile
from diffeo.mixed.scores import Scores

CELLS = 4_096  # of a grid, that are all in the table
REACH = 9.0  # scores, and units of a component, that the table covers
LIKELY = 7.5  # scores
STEPS = 80  # at most
TOLERANCE = 1e-12  # of scores

# Where values (n,) of some of the rows lie on the scale of y.
Find = Callable[[Tensor, Tensor], Scores]


class ColumnInverse:
    """The inverse of the scores of one column.

        x(y) = the value whose cell contains y

    A table of values and the ends of their cells brackets each y; where no cell of the table
    contains it, Newton's method on the distribution function, or bisection of a grid, goes on from
    there.

    Args:
        marginals: of the column alone (`Marginals.one`).
    """

    def __init__(self, marginals: Columns) -> None:
        self.marginals = marginals
        self.grid: bool = bool(marginals.step[0] > 0)
        places = torch.linspace(
            -REACH, REACH, 73, dtype=torch.float64, device=marginals.mean.device
        )
        low, high = marginals.range()
        nodes = (marginals.mean[0][:, None] + marginals.scale[0][:, None] * places).flatten()
        wide = low + (high - low) * (places + REACH) / (2 * REACH)
        nodes = torch.cat((nodes, wide, low, high)).clamp(low, high)
        self.ends: Tensor = self._ends()
        x = torch.cat((marginals.from_scale(nodes[:, None])[:, 0], self.ends))
        x = torch.cat((x, marginals.values[0][marginals.values[0] < 1e299])).unique()
        x = x[(x >= marginals.least) & (x <= marginals.most)]
        scores = self.scores(x)
        self.complete: bool = False  # whether all cells that are likely are in the table
        if self.grid:
            inside = x[(scores.high > -LIKELY) & (scores.low < LIKELY)]
            index = marginals.index(inside[:, None])[:, 0]
            first, last = float(index.amin()), float(index.amax())
            self.complete = last - first < CELLS
            if self.complete:
                cells = torch.arange(last - first + 1, dtype=x.dtype, device=x.device) + first
                x = torch.cat((x, marginals.value(cells[:, None])[:, 0])).unique()
                scores = self.scores(x)
        self.x: Tensor = x
        self.low: Tensor = scores.low.cummax(0).values.contiguous()
        self.high: Tensor = scores.high.cummax(0).values.contiguous()
        # On the scale of the components: values, and their slopes by the score.
        s, log_slope = (part[:, 0] for part in marginals.scaled(x[:, None]))
        self.s: Tensor = s
        self.slope: Tensor = (log_slope - scores.log_width).exp()

    def _ends(self) -> Tensor:
        """The values between two pieces, at which the density jumps."""
        ends = self.marginals.ends
        inner = ends[0][(ends[0] > 0) & (ends[0] < 1)]
        if not len(inner):
            return inner
        whole = ends.new_tensor([[0.0, 1.0]])
        mixture = replace(self.marginals, cells=False, ends=whole, below=whole)
        return ColumnInverse(mixture)(quantile(inner, 1 - inner))

    def scores(self, x: Tensor) -> Scores:
        """Where values `(n,)` lie."""
        return Scores(*(part[:, 0] for part in self.marginals(x[:, None])[1]))

    def __call__(self, y: Tensor) -> Tensor:
        """The values `(n,)` of scores y."""
        place = torch.searchsorted(self.high, y).clamp(max=len(self.x) - 1)
        found, before = self.x[place], (place - 1).clamp(min=0)
        rest = ((y < self.low[place]) & (place > 0)).nonzero()[:, 0]
        if len(rest):
            low, high, y = before[rest], place[rest], y[rest]
            x = self.marginals.from_scale(self._guess(y, low, high)[:, None])[:, 0]
            values = self._search(lambda x, at: self.scores(x), y, low, high, x)
            found = found.index_put((rest,), values)
        return found

    def search(self, find: Find, y: Tensor) -> Tensor:
        """The values `(n,)` whose cells contain y on another scale, on which `find` has them."""
        low = torch.zeros_like(y, dtype=torch.long)
        high, at = low + len(self.x) - 1, torch.arange(len(y), device=y.device)
        for _ in range(len(self.x).bit_length()):
            middle = (low + high) // 2
            above = y > find(self.x[middle], at).high
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return self._search(find, y, low, high, self.x[high])

    def _search(self, find: Find, y: Tensor, low: Tensor, high: Tensor, x: Tensor) -> Tensor:
        """The values between two of the table, whose scores are below and above y, from x on."""
        one, found = self.marginals, x.clone()
        a, b = self.s[low], self.s[high]
        at = torch.arange(len(y), device=y.device)
        for _ in range(STEPS):
            scores = find(x, at)
            found[at] = x
            below = y < scores.low - TOLERANCE
            above = y > scores.high + TOLERANCE
            s = self._scale(x)
            a, b = torch.where(above, s, a), torch.where(below, s, b)
            middle = (a + b) / 2
            more = (below | above) & (b - a > 1e-15 * (a.abs() + b.abs()) + 1e-300)
            if self.grid:
                more = more & ((b - a).abs() > 1e-13 * (1 + s.abs()))
            if not bool(more.any()):
                break
            following = one.from_scale(middle[:, None])[:, 0]
            if not self.grid:
                step = (y - scores.point) * (-scores.log_width).exp()
                newton = x + step
                inside = (self._scale(newton) > a) & (self._scale(newton) < b)
                following = torch.where(inside & newton.isfinite(), newton, following)
            y, a, b, x, at = y[more], a[more], b[more], following[more], at[more]
        return found

    def _guess(self, y: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """By the cubic between two values with their slopes; in the middle if it is not between."""
        a, b, width = self.s[low], self.s[high], self.low[high] - self.high[low]
        t = (y - self.high[low]) / width.clamp(min=1e-300)
        turn_a, turn_b = width * self.slope[low] - (b - a), (b - a) - width * self.slope[high]
        s = a + t * (b - a) + t * (1 - t) * ((1 - t) * turn_a + t * turn_b)
        return torch.where((s > a) & (s < b) & ~torch.tensor(self.grid), s, (a + b) / 2)

    def _scale(self, x: Tensor) -> Tensor:
        return self.marginals.scaled(x[:, None])[0][:, 0]
