"""The distribution of one column in each of some rows, on nodes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from diffeo.answers.nodes import edges, interval, nodes_at_jumps
from diffeo.data.tables.grids import Floats
from diffeo.mixed.parts import REACH, Parts
from diffeo.mixed.rows import Rows
from diffeo.mixed.scores import Scores
from diffeo.mixed.tools import Tools
from diffeo.schema import CategoryColumn

CELLS, ALL = 200, 4_096  # of a grid, that are summed one by one: in general, and of mixtures
ROUNDS = (49, 49, 121)  # nodes of each, on the interval that the one before found
ALONE = 481  # of the last, of one row
FINE, SHARP = 8_193, 48  # scores that are tried for narrow places, and nodes at each of them
NARROW = 4  # components whose places are nodes
CHUNK = 2**17  # rows with a node that are evaluated at once

# The log-density, by the score, of rows (n,) with values (n, nodes) of the column.
LogDensity = Callable[[Tensor, Tensor], Tensor]


class Spread:
    """The distribution of a column in n rows, given that its cells are not empty.

    Args:
        x: values in ascending order `(n, nodes)`; places of a category.
        mass: their probabilities.
        jumps: which have their mass on the value itself; others stand for the values around them.
        log_density: of the nodes, by the score of the column; the log-probability of a category.
        empty: the probability of an empty cell `(n,)`, or None where there may be none.
        log_total: the logarithm of the sum of what was normalized, empty cells included `(n,)`.
        below: which part of its mass is below each value `(n, nodes)`, where it is not half.
    """

    def __init__(
        self,
        x: Tensor,
        mass: Tensor,
        jumps: Tensor,
        log_density: Tensor,
        empty: Tensor | None,
        log_total: Tensor | None = None,
        below: Tensor | None = None,
    ) -> None:
        self.x = x
        self.jumps = jumps
        self.log_density = log_density
        self.log_total: Tensor = torch.zeros_like(x[:, 0]) if log_total is None else log_total
        self.mass: Tensor = mass / mass.sum(1, keepdim=True)
        self.empty = empty
        until = self.mass.cumsum(1)
        before = until - self.mass
        self.below: Tensor = torch.full_like(x, 0.5) if below is None else below
        middle = before + self.below * self.mass
        low, high = torch.where(jumps, before, middle), torch.where(jumps, until, middle)
        self.knots: np.ndarray = torch.stack((x, x), -1).flatten(1).cpu().numpy()
        self.levels: np.ndarray = torch.stack((low, high), -1).flatten(1).clamp(0, 1).cpu().numpy()

    @property
    def mean(self) -> Floats:
        """Of each row."""
        return np.asarray((self.x * self.mass).sum(1).cpu().numpy())

    @property
    def mode(self) -> Floats:
        """The likeliest value of each row; where not all have a mass, by the density of scores."""
        likely = self.mass if bool(self.jumps.all()) else self.log_density
        best = likely.argmax(1, keepdim=True)
        return np.asarray(self.x.gather(1, best)[:, 0].cpu().numpy())

    def quantile(self, q: float | Floats) -> Floats:
        """The q-quantiles of each row, `(n,)`."""
        q = np.broadcast_to(q, len(self.knots))
        return np.array([np.interp(*row) for row in zip(q, self.levels, self.knots, strict=True)])

    def cdf(self, value: float | Floats) -> Floats:
        """P(column <= value) of each row."""
        found = []
        for v, knots, levels in zip(
            np.broadcast_to(value, len(self.knots)), self.knots, self.levels, strict=True
        ):
            at = int(np.searchsorted(knots, v, side="right"))
            inside = 0 < at < len(knots)
            if inside and knots[at - 1] != v:
                found.append(np.interp(v, knots[at - 1 : at + 1], levels[at - 1 : at + 1]))
            else:
                found.append(levels[at - 1] if at else 0.0)
        return np.array(found, dtype=np.float64)

    def again(self, tools: Tools, c: int, parts: Parts) -> list[Spread]:
        """On the nodes of this one row, the distribution by each of other mixtures.

        Args:
            tools: of the model.
            c: the column, among those of numbers.
            parts: the mixtures `(n, ...)`.
        """
        x = self.x.expand(len(parts.gap), -1)
        log_f = _log_density(tools, c, parts, x)
        log_mass = self.mass.clamp(min=1e-300).log() - self.log_density + log_f
        return [
            Spread(
                x[i : i + 1],
                mass.softmax(0)[None],
                self.jumps,
                log_f[i : i + 1],
                gap[None],
                below=self.below,
            )
            for i, (mass, gap) in enumerate(zip(log_mass, parts.gap, strict=True))
        ]


def number_spread(
    tools: Tools,
    c: int,
    n: int,
    log_density: LogDensity,
    empty: Tensor | None = None,
    sharp: Tensor | None = None,
    cells: int = CELLS,
) -> Spread:
    """The distribution of a column of numbers, from a log-density that need not be normalized.

    A sum over the cells of a grid with few cells. Otherwise by the trapezoidal rule on the scale of
    scores, where densities are smooth and fall to nothing on both sides; atoms and cells count
    whole, and the interval of the nodes narrows to where the probability is.

    Args:
        tools: of the model.
        c: the column, among those of numbers.
        n: how many rows.
        log_density: of each value, by the score.
        empty: the log-probability of an empty cell on the same scale.
        sharp: scores `(n, M)` to add to the nodes, where the density may be narrower than the
            distances of those.
        cells: of a grid, that are summed one by one.
    """
    inverse = tools.inverse(0, c)
    index = torch.arange(n, device=inverse.x.device)
    inside = (inverse.high > -REACH) & (inverse.low < REACH)
    if inverse.grid and int(inside.sum()) <= cells and inverse.complete:
        x = inverse.x[inside].expand(n, -1)
        scores = inverse.scores(inverse.x[inside])
        log_f = log_density(index, x)
        log_mass = log_f + scores.log_width
        jumps = torch.ones_like(x, dtype=torch.bool)
        return _normalized(x, log_mass, jumps, log_f, empty)
    low = torch.full((n,), -REACH, dtype=torch.float64, device=inverse.x.device)
    high = -low
    rounds = (*ROUNDS[:-1], ALONE if n == 1 else ROUNDS[-1])
    extra = nodes_at_jumps(inverse).expand(n, -1)
    extra = extra if sharp is None else torch.cat((sharp, extra), 1)
    for number, count in enumerate(rounds):
        t = torch.linspace(0, 1, count, dtype=torch.float64, device=low.device)
        y = low[:, None] + (high - low)[:, None] * t
        y = torch.cat((y, extra), 1).sort(1).values
        x = inverse(y.flatten())
        scores = Scores(*(part.unflatten(0, y.shape) for part in inverse.scores(x)))
        x = x.unflatten(0, y.shape)
        log_f = log_density(index, x)
        cell = scores.high > scores.low
        ends = edges(y, scores, cell)
        widths = (ends[:, 1:] - ends[:, :-1]).clamp(min=0)
        log_mass = log_f + widths.clamp(min=1e-300).log()
        if number + 1 < len(rounds):
            low, high = interval(y, log_mass, (high - low) / (count - 1))
    # Where cells are about as narrow as nodes are apart, a node stands for its neighbours, too.
    apart = y.diff(dim=1)
    apart = torch.cat((apart[:, :1], (apart[:, 1:] + apart[:, :-1]) / 2, apart[:, -1:]), 1)
    jumps = cell & (scores.high - scores.low > 2 * apart)
    # Nodes are not equally far apart, and so not in the middle of what they stand for.
    below = ((y - ends[:, :-1]) / widths.clamp(min=1e-300)).clamp(0, 1)
    below = torch.where(cell, 0.5, below)
    return _normalized(x, log_mass, jumps, log_f, empty, below)


def _normalized(
    x: Tensor,
    log_mass: Tensor,
    jumps: Tensor,
    log_f: Tensor,
    empty: Tensor | None,
    below: Tensor | None = None,
) -> Spread:
    total = log_mass.logsumexp(1, keepdim=True)
    every = total[:, 0] if empty is None else torch.logaddexp(empty, total[:, 0])
    gap = None if empty is None else (empty - every).exp()
    return Spread(x, (log_mass - total).exp(), jumps, log_f - total, gap, every, below)


def category_spread(log_p: Tensor, missing: bool) -> Spread:
    """The distribution of a category of log-probabilities `(n, values)`, an empty cell last."""
    log_total = log_p.logsumexp(1)
    log_p = log_p.log_softmax(1)
    empty = log_p[:, -1].exp() if missing else None
    log_p = (log_p[:, :-1] if missing else log_p).log_softmax(1)
    x = torch.arange(log_p.shape[1], dtype=torch.float64, device=log_p.device)
    jumps = torch.ones_like(log_p, dtype=torch.bool)
    return Spread(x.expand_as(log_p), log_p.exp(), jumps, log_p, empty, log_total)


def parts_spread(tools: Tools, c: int, parts: Parts) -> Spread:
    """The distribution of a column of numbers by its mixture in each of n rows.

    Args:
        tools: of the model.
        c: the column, among those of numbers.
        parts: the mixtures.
    """

    def log_density(index: Tensor, x: Tensor) -> Tensor:
        return _log_density(tools, c, parts, x)

    empty = parts.gap.clamp(1e-300, 1 - 1e-12).log() if tools.stack.layout.gaps[c] else None
    sharp = parts.narrow(NARROW) if tools.rules(c) else None
    cells = CELLS if sharp is None else ALL
    return number_spread(tools, c, len(parts.gap), log_density, empty, sharp, cells)


def _log_density(tools: Tools, c: int, parts: Parts, x: Tensor) -> Tensor:
    """The log-density of values `(n, nodes)` by the score, empty cells apart."""
    found = tools.scores(c, x.flatten())
    scores = [Scores(*(part.unflatten(0, x.shape) for part in each)) for each in found]
    return parts.log_prob(scores) - scores[0].log_width


@torch.no_grad()
def given_all_others(tools: Tools, x: Tensor, column: int) -> Spread:
    """The distribution of one column given all other cells of rows x `(n, columns)`.

        p(x_i | all others) = p(x) / sum over x_i of p(x)

    Exact: a sum over the values of a category or a grid, and quadrature of numbers.
    """
    layout, n = tools.stack.layout, len(x)
    x = torch.where(torch.arange(x.shape[1], device=x.device) == column, math.nan, x)
    scales = tools.stack.read(x)
    index = torch.arange(n, device=x.device)
    kind = layout.columns[column]
    if isinstance(kind, CategoryColumn):
        g = layout.categories.index(column)
        places = torch.arange(layout.sizes[g], device=x.device).expand(n, -1)
        return category_spread(_joint(tools, x, scales, index, (False, g), places), kind.missing)
    c = layout.numbers.index(column)

    def log_density(index: Tensor, value: Tensor) -> Tensor:
        return _joint(tools, x, scales, index, (True, c), value)

    empty = None
    if layout.gaps[c]:
        gap = torch.full((n, 1), math.nan, dtype=torch.float64, device=x.device)
        empty = _joint(tools, x, scales, index, (True, c), gap)[:, 0]
    return number_spread(tools, c, n, log_density, empty, _sharp(tools, c, x))


def _sharp(tools: Tools, c: int, x: Tensor) -> Tensor | None:
    """Scores `(n, M)` of a column at which all that `Regressors` expect in rows x is near.

    Those are the narrow places of its distribution given all others; None where there are none.
    """
    rules, stack = tools.rules(c), tools.stack
    if not rules:
        return None
    regressors, marginals, place = stack.regressors, stack.marginals, stack.layout.numbers[c]
    assert regressors is not None
    inverse, found = tools.inverse(0, c), []
    if inverse.grid and inverse.complete:
        values = inverse.x  # so that all nodes are different cells
        y = inverse.scores(values).point.clamp(-REACH, REACH)
    else:
        y = torch.linspace(-REACH, REACH, FINE, dtype=torch.float64, device=x.device)
        values = inverse(y)
    count = len(y)
    for rows in x.split(max(1, CHUNK // count)):
        table, near = rows.repeat_interleave(count, 0), []
        table[:, place] = values.repeat(len(rows))
        for j in rules:
            target = regressors.targets[j]
            own = tools.score(0, target, table[:, stack.layout.numbers[target]]).point
            away = (regressors.one(j, marginals, table) - own).abs().view(-1, count)
            near.append(y[away.topk(min(SHARP, count), largest=False).indices])
        found.append(torch.cat(near, 1))
    return torch.cat(found)


@torch.no_grad()
def log_conditional(tools: Tools, x: Tensor, column: int) -> Tensor:
    """The log-density of rows `(n,)`, by the score of one column, as its spread has it in sum.

    Less `Spread.log_total` of the column, it is log p(x_i | all others), by the score.
    """
    layout = tools.stack.layout
    number = column in layout.numbers
    place = (layout.numbers if number else layout.categories).index(column)
    index, value = torch.arange(len(x), device=x.device), x[:, [column]]
    kind = layout.columns[column]
    if isinstance(kind, CategoryColumn):
        value = value.nan_to_num(float(kind.count)).long()
    return _joint(tools, x, tools.stack.read(x), index, (number, place), value)[:, 0]


def _joint(
    tools: Tools,
    x: Tensor,
    scales: list[Rows],
    index: Tensor,
    which: tuple[bool, int],
    values: Tensor,
) -> Tensor:
    """The log-density of rows with each of some values of a column `(n, nodes)`, by its score."""
    stack, (number, place), found = tools.stack, which, []
    layout = stack.layout
    rows_of = index.repeat_interleave(values.shape[1])
    flat = values.flatten()
    for start in range(0, len(flat), CHUNK):
        part, value = rows_of[start : start + CHUNK], flat[start : start + CHUNK]
        changed, width = [rows.take(part) for rows in scales], torch.zeros_like(value)
        if number:
            new_scores = tools.scores(place, value)
            width = new_scores[0].log_width
            for rows, scores in zip(changed, new_scores, strict=True):
                for own, new in zip(rows.scores, scores, strict=True):
                    own[:, place] = new
                rows.empty[:, place] = value.isnan()
        else:
            for rows in changed:
                rows.places[:, place] = value
        if layout.cycles or stack.regressors is not None:
            table = x[part]
            column = (layout.numbers if number else layout.categories)[place]
            table[:, column] = value if number else layout.category(place, value)
            changed[0] = stack.follow(changed[0], table)
        log_p = stack.member_log_prob(changed).double()
        found.append((stack.log_w.double() + log_p).logsumexp(1) - width)
    return torch.cat(found).unflatten(0, values.shape)
