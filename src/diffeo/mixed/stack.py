"""The model of a mixed table as a bijection: marginals, then mixtures and networks with weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffeo.bijections.base import Bijection
from diffeo.bijections.quantiles import NOISE, Shape, log_ndtri
from diffeo.mixed.gaussians import Conditionals, GaussianMembers
from diffeo.mixed.marginals import Marginals
from diffeo.mixed.networks import NetworkMembers, logistic_scores, logit_of_normal
from diffeo.mixed.rows import Layout, Rows
from diffeo.schema import Column
from diffeo.utils.ranges import Count, Whole

Ends = tuple[Tensor, Tensor]


class Parts(NamedTuple):
    """The mixture that a column of numbers has in each row, under all members.

    Attributes:
        groups: of members, the noise that their components are of, whose scores they are a mixture
            of (0: of the marginals, 1: of the plain ones), and log-weights, means and log-scales
            `(n, components)`.
        gap: the probability of an empty cell `(n,)`.
    """

    groups: list[tuple[Shape, int, Tensor, Tensor, Tensor]]
    gap: Tensor

    def tails(self, ends: Sequence[Ends]) -> Ends:
        """The probability below and above cells `(n,)`, those of empty ones apart.

        Args:
            ends: the lower and upper ends of the cells, on the scale of each of the marginals.
        """
        lower, upper = torch.zeros_like(self.gap), torch.zeros_like(self.gap)
        for shape, scale, log_w, mean, log_s in self.groups:
            low, high = ends[scale]
            if shape == "logistic":
                low, high = logit_of_normal(low), logit_of_normal(high)
            rate, w, cdf = (-log_s).exp(), log_w.exp(), NOISE[shape].cdf
            lower = lower + (w * cdf((low[:, None] - mean) * rate)).sum(1)
            upper = upper + (w * cdf((mean - high[:, None]) * rate)).sum(1)
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
        plain: how many members are mixtures of plain numbers, whose marginals are normal.
        plain_mixture: components of each.
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
        plain: Whole = 0,
        plain_mixture: Count = 1,
    ) -> None:
        super().__init__()
        self.conditions = conditions
        first = list(range(conditions))
        self.layout = layout = Layout(columns, first)
        kinds, numbers = layout.kinds, layout.numbers
        self.marginals = Marginals(kinds, levels)
        self.gaussians = GaussianMembers(len(numbers), layout.sizes, mixtures, mixture)
        self.plain_marginals = self.plain_gaussians = None
        if plain:
            self.plain_marginals = Marginals(kinds, levels, 1)
            self.plain_gaussians = GaussianMembers(len(numbers), layout.sizes, plain, plain_mixture)
        self.networks = None
        if networks:
            self.networks = NetworkMembers(columns, first, networks, hidden, blocks, components)
        count = mixtures + networks + plain
        self.log_w = nn.Buffer(torch.full((count,), -math.log(count)))
        self.register_buffer(
            "log_step",
            torch.tensor(
                [math.log(c.step) if c.step > 0 else 0.0 for c in self.marginals.columns],
                dtype=torch.float64,
                device="cpu",
            ),
            persistent=False,
        )

    def normalize(self) -> None:
        """Let all weights sum to 1 to the precision of their dtype."""
        self.log_w.copy_(self.log_w.log_softmax(-1))
        for members in (self.gaussians, self.plain_gaussians):
            if members is not None:
                members.normalize()

    # Probability --------------------------------------------------------------------------------

    def read(self, table: Tensor) -> list[Rows]:
        """Rows of a table, conditions first, on the scale of each of the marginals."""
        found = [self.layout.rows(self.marginals, table)]
        if self.plain_marginals is not None:
            found.append(self.layout.rows(self.plain_marginals, table))
        return found

    def member_log_prob(self, scales: Sequence[Rows]) -> Tensor:
        """The log-probability of each column under each member `(n, members, columns)`.

        The columns are in the order of prediction; conditions are not among them. Members are
        mixtures, networks, and mixtures of plain numbers.

        Args:
            scales: of `read`.
        """
        dtype = self.gaussians.mean.dtype
        scores, rows = logistic_scores(scales[0].scores), scales[0].to(dtype)
        found = self.gaussians.conditionals(rows, self.layout).log_prob()
        if self.networks is not None:
            networks = self.networks.log_prob(rows, scores.to(dtype)).movedim(0, 1)
            found = torch.cat((found, networks), 1)
        if self.plain_gaussians is not None:
            plain = self.plain_gaussians.conditionals(scales[1].to(dtype), self.layout)
            found = torch.cat((found, plain.log_prob()), 1)
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
        log_p, scales, weights = self._evaluate(x, context)
        z = self._noise(scales, weights)
        log_phi = (-0.5 * z.square() - 0.5 * math.log(2 * math.pi)).sum(1)
        return z, log_p - log_phi

    def _evaluate(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, list[Rows], Tensor]:
        """The log-probability, the rows as members read them, and the running weights."""
        table = self._table(x, context)
        scales = self.read(table)
        log_p = self.member_log_prob(scales)
        weights = self.running(log_p)
        total = (weights + log_p).logsumexp(1).to(x.dtype).sum(1)
        total = total - self.log_widths(scales[0])
        impossible = self.layout.impossible(table)[:, self.conditions :].any(1)
        return torch.where(impossible, -math.inf, total), scales, weights

    def log_widths(self, rows: Rows) -> Tensor:
        """The logarithms of the steps of the grids of each row's values, summed `(n,)`.

        A probability over them is a density in the units of the table; empty cells have no width.
        """
        which = [c for c, i in enumerate(self.layout.numbers) if i >= self.conditions]
        return (~rows.empty[:, which] * self.log_step[which].to(rows.scores.point)).sum(1)

    def _table(self, x: Tensor, context: Tensor | None) -> Tensor:
        return x if context is None else torch.cat((context, x), 1)

    # Noise ---------------------------------------------------------------------------------------

    def _noise(self, scales: list[Rows], weights: Tensor) -> Tensor:
        walk, rows = Walk(self, scales), scales[0]
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
            walk = Walk(self, self.read(x))
            for _ in range(i):
                walk.next()
            r = weights.log_softmax(1)
            x[:, column] = walk.value(number, place, r, y[:, column - self.conditions])
            weights = weights + self.member_log_prob(self.read(x))[..., i - self.conditions].to(y)
        found = x[:, self.conditions :]
        return found, -self(found, context)[1]


class Walk:
    """The distributions of the columns of some rows, one after the other, under all members."""

    def __init__(self, stack: MixedStack, scales: Sequence[Rows]) -> None:
        self.stack, self.scales, self.rows = stack, scales, scales[0]
        dtype = stack.gaussians.mean.dtype
        self.mixtures: list[Conditionals] = [
            members.conditionals(rows.to(dtype), stack.layout)
            for members, rows in zip((stack.gaussians, stack.plain_gaussians), scales, strict=False)
            if members is not None
        ]
        self.networks = None
        if stack.networks is not None:
            numbers, self.gaps, self.categories = stack.networks(self.rows.to(dtype))
            self.networks = stack.networks.mixture(numbers)
        self.at = 0

    def next(self) -> None:
        """Go on to the next column."""
        for mixture in self.mixtures:
            mixture._next(*self.stack.layout.order[self.at])
        self.at += 1

    def shares(self, r: Tensor) -> tuple[list[Tensor], Tensor]:
        """Weights r `(n, members)` of each kind of mixtures, and of the networks."""
        counts = [len(mixture.members.log_w) for mixture in self.mixtures]
        first, *rest = counts
        networks = r.shape[1] - sum(counts)
        parts = r.split([first, networks, *rest], dim=1)
        return [parts[0], *parts[2:]], parts[1]

    def probabilities(self, g: int, r: Tensor) -> Tensor:
        """Those of the values of a category `(n, values)`, for weights r `(n, members)`."""
        weights, share = self.shares(r)
        p = torch.zeros(len(r), self.stack.layout.sizes[g], dtype=r.dtype, device=r.device)
        for mixture, w in zip(self.mixtures, weights, strict=True):
            log_p = (mixture.log_r[..., None] + mixture.members.category(g)).logsumexp(2)
            p = p + (w[..., None] + log_p.to(r)).logsumexp(1).exp()
        if self.networks is not None:
            log_p = self.categories[g].log_softmax(-1).movedim(0, 1)
            p = p + (share[..., None] + log_p.to(r)).logsumexp(1).exp()
        return p / p.sum(1, keepdim=True)

    def parts(self, c: int, r: Tensor) -> Parts:
        """The mixture of a number."""
        weights, share = self.shares(r)
        has_gaps = self.stack.layout.gaps[c]
        gap = torch.zeros_like(r[:, 0])
        groups: list[tuple[Shape, int, Tensor, Tensor, Tensor]] = []
        for scale, (mixture, w) in enumerate(zip(self.mixtures, weights, strict=True)):
            mean, log_scale = (part.to(r).flatten(1) for part in mixture.at(c))
            log_w = mixture.log_r.to(r) + w[..., None]
            if has_gaps:
                table = mixture.members.log_gap[..., c, :].to(r)
                gap = gap + (log_w + table[..., 1]).exp().sum((1, 2))
                log_w = log_w + table[..., 0]
            groups.append(("normal", scale, log_w.flatten(1), mean, log_scale))
        if self.networks is not None:
            log_v, place, spread = (part[..., c].movedim(0, 1).to(r) for part in self.networks)
            log_v = log_v + share[..., None]
            if has_gaps:
                logit = self.gaps[..., sum(self.stack.layout.gaps[:c])].T.to(r)
                gap = gap + (share.exp() * logit.sigmoid()).sum(1)
                log_v = log_v + F.logsigmoid(-logit)[..., None]
            log_v, place, spread = (part.flatten(1) for part in (log_v, place, spread))
            groups.append(("logistic", 0, log_v, place, spread))
        return Parts(groups, gap)

    def noise(self, number: bool, place: int, r: Tensor) -> Tensor:
        """The noise of the column of these rows `(n,)`, in the middle of what has a mass."""
        if not number:
            p = self.probabilities(place, r)
            index = self.rows.places[:, place, None]
            own = p.gather(1, index)[:, 0]
            lower = (p.cumsum(1).gather(1, index)[:, 0] - own).clamp(min=0)
            return quantile(lower + own / 2, 1 - lower - own / 2)
        parts = self.parts(place, r)
        ends = [(rows.scores.low[:, place], rows.scores.high[:, place]) for rows in self.scales]
        below, above = parts.tails(ends)
        mass = (1 - parts.gap - below - above).clamp(min=0)
        mass = torch.where(ends[0][1] > ends[0][0], mass, 0.0)
        empty = self.rows.empty[:, place]
        lower = torch.where(empty, 1 - parts.gap / 2, below + mass / 2)
        upper = torch.where(empty, parts.gap / 2, above + mass / 2 + parts.gap)
        return quantile(lower, upper)

    def value(self, number: bool, place: int, r: Tensor, z: Tensor) -> Tensor:
        """The value of the column whose noise is z `(n,)`."""
        p = NOISE["normal"].cdf(z)
        if not number:
            sums = self.probabilities(place, r).cumsum(1)
            index = torch.searchsorted(sums, p[:, None], right=True)[:, 0]
            index = index.clamp(max=sums.shape[1] - 1)
            column = self.stack.layout.columns[self.stack.layout.categories[place]]
            value = index.to(z)
            if column.missing:
                value = torch.where(index == sums.shape[1] - 1, math.nan, value)
            return value
        parts, q = self.parts(place, r), NOISE["normal"].cdf(-z)
        kinds = (self.stack.marginals, self.stack.plain_marginals)
        each = [marginals.one(place) for marginals in kinds if marginals is not None]

        def ends(x: Tensor) -> tuple[Tensor, Tensor]:
            pairs = (one.ends(x) for one in each)
            below, above = parts.tails([(low[:, 0], high[:, 0]) for low, high in pairs])
            above = above + parts.gap
            return quantile(below, 1 - below)[:, None], quantile(1 - above, above)[:, None]

        x = each[0].search(ends, z[:, None])[:, 0]
        return torch.where(q < parts.gap, math.nan, x)


def quantile(lower: Tensor, upper: Tensor) -> Tensor:
    """Phi^-1 of a probability, from its smaller tail; at most 37 from 0."""
    small = torch.minimum(lower, upper)
    z = log_ndtri(small.clamp(min=1e-300, max=0.5).log())
    return torch.where(lower <= upper, z, -z)
