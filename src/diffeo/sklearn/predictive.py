"""The distribution of one column of a table in many rows, whatever else is known of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import sici
from torch import Generator, Tensor

from diffeo.answers.spread import Spread, category_spread, given_all_others, parts_spread
from diffeo.data.tables.grids import Floats
from diffeo.mixed.growing import Growing, pick
from diffeo.mixed.marginals import Marginals, has_cells
from diffeo.mixed.posterior import MixturePosterior
from diffeo.mixed.scores import Scores
from diffeo.mixed.stack import MixedStack
from diffeo.mixed.tools import Tools
from diffeo.models.mixed import MixedFlow
from diffeo.schema import CategoryColumn, Column, NumberColumn

ROWS = 32  # at once, which stay near the processor on all their nodes
LISTED = 32  # combinations of values that are summed one by one, at most
PARTICLES, COPIES = 512, 16  # of a row with cells that are summed out


class Predictive:
    """p(column | rest) of n rows, in parts of a few rows each.

    Exact, by a sum over the values of a category or a grid, or by quadrature of numbers. A few
    values of categories that are not known are summed out one by one. Numbers are integrated out
    in closed form where all members are mixtures, which take the cell of a value for its middle.
    Otherwise by `COPIES` rows of those that the mixtures expect,
    weighted by the model: an estimate, the same each time.

    Args:
        flow: the model.
        table: rows, conditions first, whose cells of the column do not matter `(n, columns)`.
        place: of the column.
        unknown: cells that are summed out `(n, columns)`.
    """

    def __init__(self, flow: MixedFlow, table: Tensor, place: int, unknown: Tensor) -> None:
        self.stack: MixedStack = flow.stack
        self.table = table
        self.place = place
        self.unknown = unknown
        self.tools: Tools = Tools(flow.stack)
        layout = flow.stack.layout
        self.kind: Column = layout.columns[place]
        self.last: bool = layout.table_order[-1] == place
        self.unknown[:, place] = False
        self.closed: bool = flow.stack.networks is None and not flow.stack.conditions
        self._quick = self.tools
        if flow.stack.networks is not None and not self.last:
            # Where a network sees each row with each of many values: twice as fast in float32.
            light = copy.deepcopy(flow.stack)
            for part in light.children():
                if not isinstance(part, Marginals):
                    part.float()
            self._quick = Tools(light)

    def parts(self) -> Iterator[tuple[NDArray[np.int64], Part]]:
        """The rows of each part, and their distributions."""
        patterns, of = self.unknown.unique(dim=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            places = pattern.nonzero()[:, 0].tolist()
            counts = [self._count(place) for place in places]
            listed, closed = math.prod(counts) <= LISTED, self.closed and bool(places)
            copies = math.prod(counts) if listed else 1 if closed else COPIES
            for rows in (of == number).nonzero()[:, 0].split(max(1, ROWS // copies)):
                x, unknown = self.table[rows], None
                log_w = x.new_full((len(rows), copies), -math.log(copies))
                if listed and places:
                    x, log_w = self._listed(rows, places, counts)
                elif closed:
                    unknown = self.unknown[rows]
                elif places:
                    x = self._filled(rows)
                yield rows.cpu().numpy(), Part(self, x, log_w, unknown)

    def _count(self, place: int) -> int:
        """How many values a column has that may be listed."""
        column = self.stack.layout.columns[place]
        return column.count if isinstance(column, CategoryColumn) else LISTED + 1

    @torch.no_grad()
    def _listed(self, rows: Tensor, places: list[int], counts: list[int]) -> tuple[Tensor, Tensor]:
        """Each row with each value of what is not known, and the log-weights `(rows, values)`.

        p(y | known) = sum_v p(v | known) p(y | known, v)
        """
        values = torch.cartesian_prod(*(torch.arange(float(count)) for count in counts))
        values = values.reshape(-1, len(places)).to(self.table)
        x = self.table[rows].repeat_interleave(len(values), 0)
        x[:, places] = values.repeat(len(rows), 1)
        log_p = given_all_others(self._quick, x, self.place).log_total
        return x, log_p.unflatten(0, (len(rows), -1)).log_softmax(1)

    @torch.no_grad()
    def _filled(self, rows: Tensor) -> Tensor:
        """Equally likely rows with what is not known `(rows * COPIES, columns)`."""
        source = Generator().manual_seed(int(rows[0]))
        expected, _ = self._expected(self.table[rows], self.unknown[rows])
        x, log_q = expected.draw(PARTICLES, source, filled=True)
        # In the order of the column, of which the chosen ones are then spread evenly.
        order = x[..., self.place].argsort(1)
        x, log_q = x.gather(1, order[..., None].expand_as(x)), log_q.gather(1, order)
        log_p = self.stack.log_joint(x.flatten(0, 1)).view_as(log_q)
        w = (log_p - log_q).softmax(1).repeat_interleave(COPIES, 0)
        u = (torch.arange(COPIES) + torch.rand(len(rows), 1, generator=source)) / COPIES
        index = pick(w, u.flatten().to(w)) + PARTICLES * (torch.arange(len(w)) // COPIES).to(rows)
        return x.flatten(0, 1)[index]

    def _expected(self, x: Tensor, unknown: Tensor) -> tuple[MixturePosterior, int]:
        """What mixtures expect, and the place of the column among the numbers or categories."""
        known = ~unknown
        known[:, self.place] = False
        layout = self.stack.layout
        some = layout.numbers if isinstance(self.kind, NumberColumn) else layout.categories
        return MixturePosterior(self.tools, x, known), some.index(self.place)

    @torch.no_grad()
    def spread(self, x: Tensor, unknown: Tensor | None) -> Spread:
        """The distribution in rows of which all other cells are known, or in closed form."""
        if unknown is not None:
            expected, c = self._expected(x, unknown)
            if isinstance(self.kind, NumberColumn):
                return parts_spread(self.tools, c, expected.parts(c))
            return category_spread(expected.log_probabilities(c), self.kind.missing)
        if not self.last:
            return given_all_others(self._quick, x, self.place)
        rows = self._until(x)
        number, c = rows.next
        if number:
            return parts_spread(self.tools, c, rows.parts())
        return category_spread(rows.log_probabilities(), self.kind.missing)

    @torch.no_grad()
    def log_prob(self, x: Tensor, unknown: Tensor | None) -> Tensor:
        """Log p(column | rest) of such rows `(n,)`, over the step of a grid."""
        if self.last and unknown is None:
            return self._until(x).put(x[:, self.place])
        y = x[:, self.place]
        step = self.kind.step if isinstance(self.kind, NumberColumn) else 0.0
        width = ~y.isnan() * math.log(step or 1.0)
        if unknown is None:
            below = given_all_others(self._quick, x, self.place).log_total
            return self.stack.log_joint(x) - below - width
        expected, c = self._expected(x, unknown)
        if isinstance(self.kind, NumberColumn):
            found = [Scores(*(part[:, None] for part in s)) for s in self.tools.scores(c, y)]
            return expected.parts(c).log_prob(found)[:, 0] - width
        places = y.nan_to_num(self.kind.count).long()[:, None]
        return expected.log_probabilities(c).gather(1, places)[:, 0]

    def _until(self, x: Tensor) -> Growing:
        """Rows up to the last column."""
        rows = Growing(self.tools, len(x), known=x.clone())
        for _ in self.stack.layout.order[:-1]:
            rows.go_on()
        return rows


class Part:
    """The distributions of n rows, each of which stands several times.

    Args:
        whole: of all rows.
        x: the rows `(n * copies, columns)`.
        log_w: the log-weights of the copies of each `(n, copies)`.
        unknown: cells that are integrated out in closed form `(n, columns)`, or None.
    """

    def __init__(self, whole: Predictive, x: Tensor, log_w: Tensor, unknown: Tensor | None) -> None:
        self.whole = whole
        self.rows = x
        self.log_w = log_w
        self.unknown = unknown
        copies = log_w.shape[1]
        kind, layout = whole.kind, whole.stack.layout
        self.c: int = layout.numbers.index(whole.place) if isinstance(kind, NumberColumn) else -1
        spread = whole.spread(x, unknown)
        smooth = copies == 1 and isinstance(kind, NumberColumn) and not has_cells(kind)
        # Nodes are not at equal distances where others nearly determine the column.
        self.smooth: bool = smooth and not whole.tools.rules(self.c)
        self.spread: Spread = spread if copies == 1 else _mixed(spread, log_w)
        self.x: np.ndarray = self.spread.x.cpu().numpy()
        self.mass: np.ndarray = self.spread.mass.cpu().numpy()
        if self.smooth:
            # Nodes at equal distances on the scale of scores.
            self.t: Floats = self._score(self.x)
            self.h: np.ndarray = (self.t[:, -1:] - self.t[:, :1]) / (self.t.shape[1] - 1)

    def _score(self, x: Floats) -> Floats:
        scores = self.whole.tools.scores(self.c, torch.from_numpy(x.ravel()).to(self.rows))
        return scores[0].point.cpu().numpy().reshape(x.shape)

    def _below(self, s: Floats) -> Floats:
        """How much of each node is below scores `(n, 1)`.

        A density that is smooth is that of its nodes, each times sinc; so these are integrals of
        sinc, as exact as the sum of the nodes is.
        """
        found: Floats = 0.5 + sici(np.pi * (s - self.t) / self.h)[0] / np.pi
        return found

    def log_prob(self, y: Floats) -> Floats:
        """Log p(y | rest) of values of the column `(n,)`."""
        x = self.rows.clone()
        x[:, self.whole.place] = torch.from_numpy(y).to(x).repeat_interleave(self.log_w.shape[1])
        log_p = self.whole.log_prob(x, self.unknown).view_as(self.log_w)
        return np.asarray((log_p + self.log_w).logsumexp(1).cpu().numpy())

    def cdf(self, y: Floats) -> Floats:
        """P(column <= y) of values of the column `(n,)`."""
        if self.smooth:
            found = (self.mass * self._below(self._score(y[:, None]))).sum(1).clip(0, 1)
        else:
            found = self.spread.cdf(y)
        return np.where(np.isnan(y), np.nan, found)

    def quantile(self, q: float) -> Floats:
        """The q-quantile of each row, `(n,)`."""
        if not self.smooth:
            found = self.spread.quantile(q)
            kind = self.whole.kind
            if isinstance(kind, NumberColumn) and kind.step:
                found = kind.origin + kind.step * np.rint((found - kind.origin) / kind.step)
            return found
        level = self.mass.cumsum(1) - self.mass / 2
        place = (level < q).sum(1, keepdims=True).clip(1, level.shape[1] - 1)
        low, high = (np.take_along_axis(self.t, place + i, 1) for i in (-1, 0))
        s = (low + high) / 2
        for _ in range(6):  # of Newton's method
            gap = (self.mass * self._below(s)).sum(1, keepdims=True) - q
            slope = (self.mass * np.sinc((s - self.t) / self.h)).sum(1, keepdims=True) / self.h
            s = (s - gap / slope.clip(1e-12)).clip(low - self.h, high + self.h)
        x = self.whole.tools.inverse(0, self.c)(torch.from_numpy(s[:, 0]).to(self.rows))
        return np.asarray(x.cpu().numpy())

    def crps(self, y: Floats) -> Floats:
        """The continuous ranked probability score of values of the column `(n,)`.

        int (F(x) - 1[y <= x])^2 dx = E|X - y| - E|X - X'| / 2
        """
        m, x, y = self.mass, self.x, y[:, None]
        if self.smooth:
            mid = m @ (0.5 + sici(np.pi * _distances(m.shape[1]))[0] / np.pi)
            below = m * self._below(self._score(y))
            away = ((y - x) * (2 * below - m)).sum(1)
        else:
            mid = m.cumsum(1) - m / 2
            away = (m * np.abs(x - y)).sum(1)
        return np.asarray(away - (m * x * (2 * mid - 1)).sum(1))


def _distances(count: int) -> Floats:
    """From each node to each other one, of which it is the sum of what is below `(from, to)`."""
    places = np.arange(count, dtype=np.float64)
    return places - places[:, None]


def _mixed(spread: Spread, log_w: Tensor) -> Spread:
    """One distribution for each row, of copies with log-weights `(n, copies)`."""
    copies, weighted = log_w.shape[1], spread.mass * log_w.exp().to(spread.mass).view(-1, 1)

    def joined(part: Tensor) -> Tensor:
        return part.unflatten(0, (-1, copies)).flatten(1)

    if bool((spread.x == spread.x[:1]).all()):  # the same values
        mass = weighted.unflatten(0, (-1, copies)).sum(1)
        x, jumps = spread.x[::copies], spread.jumps[::copies]
    else:
        x, order = joined(spread.x).sort(1)
        mass = joined(weighted).gather(1, order)
        jumps = joined(spread.jumps.expand_as(spread.x)).gather(1, order)
    return Spread(x, mass, jumps, mass.clamp(min=1e-300).log(), None)
