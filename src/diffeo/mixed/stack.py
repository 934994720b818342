"""The model of a mixed table as a bijection: marginals, then mixtures and networks with weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffeo.bijections.base import Bijection
from diffeo.bijections.quantiles import NOISE, log_ndtri
from diffeo.mixed.gaussians import Conditionals, GaussianMembers
from diffeo.mixed.marginals import Marginals
from diffeo.mixed.networks import NetworkMembers, logistic_scores
from diffeo.mixed.rows import Layout, Rows
from diffeo.mixed.scores import Scores
from diffeo.schema import Column, NumberColumn
from diffeo.utils.ranges import Count, Whole


class Parts(NamedTuple):
    """The mixture that a column of numbers has in each row, under all members.

    Attributes:
        normal: log-weights, means and log-scales of normal components of normal scores
            `(n, components)`.
        logistic: those of logistic components of logistic scores.
        gap: the probability of an empty cell `(n,)`.
    """

    normal: tuple[Tensor, Tensor, Tensor]
    logistic: tuple[Tensor, Tensor, Tensor]
    gap: Tensor

    def tails(self, scores: Scores, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """The probability below normal scores `low` and above `high`, `(n,)`, empty cells apart."""
        lower, upper = torch.zeros_like(low), torch.zeros_like(low)
        logistic = [torch.special.log_ndtr(y) - torch.special.log_ndtr(-y) for y in (low, high)]
        for name, parts, ends in (
            ("normal", self.normal, (low, high)),
            ("logistic", self.logistic, logistic),
        ):
            log_w, mean, log_s = parts
            rate, cdf = (-log_s).exp(), NOISE[name].cdf  # type: ignore[index]
            w = log_w.exp()
            lower = lower + (w * cdf((ends[0][:, None] - mean) * rate)).sum(1)
            upper = upper + (w * cdf((mean - ends[1][:, None]) * rate)).sum(1)
        return lower, upper


class MixedStack(Bijection):
    """A row of mixed columns as normal noise, column by column.

        z_i = Phi^-1(F(x_i | x_j before i)),   log|det dz/dx| = log p(x) - sum_i log N(z_i; 0, 1)
        p(x) = sum_m w_m p_m(x)

    where members m are mixtures and networks, each with exact conditional distributions, and p is
    the probability of discrete values and the density of continuous ones; of a column with a grid,
    the probability of the cell over its width. A value with a mass goes to the middle of its
    interval of noise, and each point of the interval comes back to it. An empty cell is NaN; it is
    the last interval of its column.

    Args:
        columns: those that are conditions first.
        conditions: how many are conditions; they come as context, in the form of x.
        levels: values with masses (see `Marginals`).
        mixtures: how many members are mixtures.
        mixture: components of each.
        networks: how many members are networks.
        hidden: width of the networks.
        blocks: residual blocks of the networks.
        components: of the distributions that networks predict.
    """

    cheap_inverse = False
    log_step: Tensor

    def __init__(
        self,
        columns: Sequence[Column],
        conditions: Whole = 0,
        levels: Whole = 1,
        mixtures: Count = 1,
        mixture: Count = 1,
        networks: Whole = 1,
        hidden: Count = 64,
        blocks: Whole = 1,
        components: Count = 8,
    ) -> None:
        super().__init__()
        self.conditions = conditions
        first = list(range(conditions))
        self.layout = layout = Layout(columns, first)
        numbers = [columns[i] for i in layout.numbers]
        self.marginals = Marginals([c for c in numbers if isinstance(c, NumberColumn)], levels)
        self.gaussians = GaussianMembers(len(numbers), layout.sizes, mixtures, mixture)
        self.networks = None
        if networks:
            self.networks = NetworkMembers(columns, first, networks, hidden, blocks, components)
        count = mixtures + networks
        self.log_w = nn.Buffer(torch.full((count,), -math.log(count)))
        self.register_buffer(
            "log_step",
            torch.tensor(
                [math.log(c.step) if c.step > 0 else 0.0 for c in self.marginals.columns],
                device="cpu",
            ),
            persistent=False,
        )

    # Probability --------------------------------------------------------------------------------

    def member_log_prob(self, rows: Rows, scores: Scores | None = None) -> Tensor:
        """The log-probability of each column under each member `(n, members, columns)`.

        The columns are in the order of prediction; conditions are not among them.
        """
        scores = logistic_scores(rows.scores) if scores is None else scores
        dtype = self.gaussians.mean.dtype
        rows = rows.to(dtype)
        found = self.gaussians.conditionals(rows, self.layout).log_prob()
        if self.networks is not None:
            networks = self.networks.log_prob(rows, scores.to(dtype)).movedim(0, 1)
            found = torch.cat((found, networks), 1)
        return found[..., self.conditions :]

    def running(self, log_p: Tensor) -> Tensor:
        """The logarithms of the members' weights before each column `(n, members, columns)`."""
        start = self.log_w[None, :, None].expand(len(log_p), -1, 1)
        before = torch.cat((start, start + log_p[..., :-1].cumsum(-1)), -1)
        return before.log_softmax(1)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The log-probability of each row `(n,)`."""
        return self._evaluate(x, context)[0]

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_p, rows, weights = self._evaluate(x, context)
        z = self._noise(rows, weights)
        log_phi = (-0.5 * z.square() - 0.5 * math.log(2 * math.pi)).sum(1)
        return z, log_p - log_phi

    def _evaluate(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Rows, Tensor]:
        """The log-probability, the rows as members read them, and the running weights."""
        own, rows = self.layout.rows(self.marginals, self._table(x, context))
        log_p = self.member_log_prob(rows)
        weights = self.running(log_p)
        total = (weights + log_p).logsumexp(1).to(x.dtype).sum(1)
        modelled = self._modelled_numbers()
        total = total - self.log_step[modelled].to(x.dtype).sum() + self._grid_gaps(rows)
        outside = (own[:, modelled] == -math.inf).any(1)
        return torch.where(outside, -math.inf, total), rows, weights

    def _modelled_numbers(self) -> list[int]:
        return [c for c, i in enumerate(self.layout.numbers) if i >= self.conditions]

    def _grid_gaps(self, rows: Rows) -> Tensor:
        """What empty cells of columns with a grid do not lose, since they have no width."""
        which = self._modelled_numbers()
        return (rows.empty[:, which] * self.log_step[which].to(rows.scores.point)).sum(1)

    def _table(self, x: Tensor, context: Tensor | None) -> Tensor:
        return x if context is None else torch.cat((context, x), 1)

    # Noise ---------------------------------------------------------------------------------------

    def _noise(self, rows: Rows, weights: Tensor) -> Tensor:
        walk = Walk(self, rows)
        z = rows.scores.point.new_zeros(len(rows), len(self.layout.columns) - self.conditions)
        for i, (number, place) in enumerate(self.layout.order):
            if i >= self.conditions:
                r = weights[..., i - self.conditions].to(z)
                column = self.layout.table_order[i] - self.conditions
                z[:, column] = walk.noise(number, place, r)
            walk.next()
        return z

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        columns = self.layout.columns
        x = y.new_full((len(y), len(columns)), math.nan)
        if context is not None:
            x[:, : self.conditions] = context
        weights = self.log_w.expand(len(y), -1).to(y)
        for i, (number, place) in enumerate(self.layout.order):
            if i < self.conditions:
                continue
            column = self.layout.table_order[i]
            rows = self.layout.rows(self.marginals, x)[1]
            walk = Walk(self, rows)
            for _ in range(i):
                walk.next()
            r = weights.log_softmax(1)
            x[:, column] = walk.value(number, place, r, y[:, column - self.conditions])
            rows = self.layout.rows(self.marginals, x)[1]
            weights = weights + self.member_log_prob(rows)[..., i - self.conditions].to(y)
        found = x[:, self.conditions :]
        return found, -self(found, context)[1]


class Walk:
    """The distributions of the columns of some rows, one after the other, under all members."""

    def __init__(self, stack: MixedStack, rows: Rows) -> None:
        self.stack, self.rows = stack, rows
        dtype = stack.gaussians.mean.dtype
        self.gaussians: Conditionals = stack.gaussians.conditionals(rows.to(dtype), stack.layout)
        self.networks = None
        if stack.networks is not None:
            numbers, self.gaps, self.categories = stack.networks(rows.to(dtype))
            self.networks = stack.networks.mixture(numbers)
        self.at = 0

    def next(self) -> None:
        """Go on to the next column."""
        self.gaussians._next(*self.stack.layout.order[self.at])
        self.at += 1

    def probabilities(self, g: int, r: Tensor) -> Tensor:
        """Those of the values of a category `(n, values)`, for weights r `(n, members)`."""
        table = self.stack.gaussians.category(g)
        log_p = (self.gaussians.log_r[..., None] + table).logsumexp(2)
        if self.networks is not None:
            log_p = torch.cat((log_p, self.categories[g].log_softmax(-1).movedim(0, 1)), 1)
        p = (r[..., None] + log_p.to(r)).logsumexp(1).exp()
        return p / p.sum(1, keepdim=True)

    def parts(self, c: int, r: Tensor) -> Parts:
        """The mixture of a number."""
        count = self.stack.gaussians.log_w.shape[0]
        has_gaps = self.stack.layout.gaps[c]
        gap = torch.zeros_like(r[:, 0])
        mean, log_scale = (part.to(r).flatten(1) for part in self.gaussians.at(c))
        log_w = self.gaussians.log_r.to(r) + r[:, :count, None]
        if has_gaps:
            table = self.stack.gaussians.log_gap[..., c, :].to(r)
            gap = gap + (log_w + table[..., 1]).exp().sum((1, 2))
            log_w = log_w + table[..., 0]
        normal = (log_w.flatten(1), mean, log_scale)
        if self.networks is None:
            none = log_w.flatten(1)[:, :0]
            return Parts(normal, (none, none, none), gap)
        log_v, place, spread = (part[..., c].movedim(0, 1).to(r) for part in self.networks)
        log_v = log_v + r[:, count:, None]
        if has_gaps:
            logit = self.gaps[..., sum(self.stack.layout.gaps[:c])].T.to(r)
            gap = gap + (r[:, count:].exp() * logit.sigmoid()).sum(1)
            log_v = log_v + F.logsigmoid(-logit)[..., None]
        return Parts(normal, (log_v.flatten(1), place.flatten(1), spread.flatten(1)), gap)

    def noise(self, number: bool, place: int, r: Tensor) -> Tensor:
        """The noise of the column of these rows `(n,)`, in the middle of what has a mass."""
        if not number:
            p = self.probabilities(place, r)
            index = self.rows.places[:, place, None]
            own = p.gather(1, index)[:, 0]
            lower = (p.cumsum(1).gather(1, index)[:, 0] - own).clamp(min=0)
            return quantile(lower + own / 2, 1 - lower - own / 2)
        parts = self.parts(place, r)
        scores = Scores(*(part[:, place] for part in self.rows.scores))
        below, above = parts.tails(scores, scores.low, scores.high)
        mass = (1 - parts.gap - below - above).clamp(min=0)
        mass = torch.where(scores.high > scores.low, mass, 0.0)
        empty = self.rows.empty[:, place]
        lower = torch.where(empty, 1 - parts.gap / 2, below + mass / 2)
        upper = torch.where(empty, parts.gap / 2, above + mass / 2 + parts.gap)
        return quantile(lower, upper)

    def value(self, number: bool, place: int, r: Tensor, z: Tensor) -> Tensor:
        """The value of the column whose noise is z `(n,)`."""
        p = NOISE["normal"].cdf(z)
        if not number:
            sums = self.probabilities(place, r).cumsum(1)
            index = torch.searchsorted(sums, p[:, None], right=True)[:, 0].clamp(
                max=sums.shape[1] - 1
            )
            column = self.stack.layout.columns[self.stack.layout.categories[place]]
            value = index.to(z)
            if column.missing:
                value = torch.where(index == sums.shape[1] - 1, math.nan, value)
            return value
        parts, q = self.parts(place, r), NOISE["normal"].cdf(-z)
        one = self.stack.marginals.one(place)

        def ends(x: Tensor) -> tuple[Tensor, Tensor]:
            scores = Scores(*(part[:, 0] for part in one(x[:, None])[1]))
            below, above = parts.tails(scores, scores.low, scores.high)
            above = above + parts.gap
            return quantile(below, 1 - below)[:, None], quantile(1 - above, above)[:, None]

        x = one.search(lambda x: ends(x[:, 0]), z[:, None])[:, 0]
        return torch.where(q < parts.gap, math.nan, x)


def quantile(lower: Tensor, upper: Tensor) -> Tensor:
    """Phi^-1 of a probability, from its smaller tail; at most 37 from 0."""
    small = torch.minimum(lower, upper)
    z = log_ndtri(small.clamp(min=1e-300, max=0.5).log())
    return torch.where(lower <= upper, z, -z)
