"""Rows of a mixed table that grow column by column, in the order of prediction."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from diffeo.bijections.quantiles import NOISE, Shape
from diffeo.mixed.gaussians import Conditionals
from diffeo.mixed.members import MixedMembers
from diffeo.mixed.parts import Parts, log_normal, quantile
from diffeo.mixed.rows import Rows
from diffeo.mixed.scores import Scores, logistic_log_prob, logistic_scores, normal_of_logit
from diffeo.mixed.tools import Tools
from diffeo.schema import CategoryColumn


class Mixture(NamedTuple):
    """Mixtures on a scale, and their places among the members that count."""

    scale: int
    conditionals: Conditionals
    own: slice


class Growing:
    """Rows of which the columns are given or drawn one after the other.

    Args:
        tools: of the model.
        n: how many rows.
        known: the rows `(n, columns)`, if they are known: `go_on` then, without `put`.
        only: the one member that counts, or None for all with their weights.

    Attributes:
        x: the rows so far `(n, columns)`, those that are conditions first; NaN is empty or unknown.
        at: how many columns have passed.
        log_m: logarithms of the members' weights given these `(n, members)`.
    """

    def __init__(
        self, tools: Tools, n: int, known: Tensor | None = None, only: int | None = None
    ) -> None:
        self.tools = tools
        self.known: bool = known is not None
        stack = tools.stack
        self.stack: MixedMembers = stack
        layout, device = stack.layout, stack.log_w.device
        self.dtype: torch.dtype = stack.gaussians.mean.dtype
        # Rows that are not known start as copies of one that is empty.
        row = torch.full((1, len(layout.columns)), math.nan, dtype=torch.float64, device=device)
        self.x: Tensor = row if known is None else known
        self.scales: list[Rows] = [rows.to(self.dtype) for rows in stack.read(self.x)]
        self.mixtures: list[Mixture] = []
        for scale, members in enumerate(tools.kinds):
            own = tools.mixtures[scale]
            if only is not None:
                if not own.start <= only < own.stop:
                    continue
                members, own = tools.member(scale, only - own.start), slice(0, 1)
            found = members.conditionals(self.scales[scale], layout)
            self.mixtures.append(Mixture(scale, found, own))
        # Which networks count, and their places among the members that do.
        self.which: slice = slice(None)
        self.own: slice = tools.networks
        if only is not None:
            place = only - tools.networks.start
            self.which = slice(place, place + 1)
            self.own = slice(0, int(0 <= place < tools.networks.stop - tools.networks.start))
        # The scales that are read: networks read the first.
        self.used: set[int] = {mixture.scale for mixture in self.mixtures} | (
            {0} if self._has_networks else set()
        )
        log_w = stack.log_w.to(self.x)
        log_w = log_w if only is None else torch.zeros_like(log_w[:1])
        self.log_m: Tensor = log_w.log_softmax(0).expand(len(self.x), -1)
        self.at: int = 0
        self._hidden: Tensor | None = None
        self._memo: tuple[Tensor, ...] | None = None
        if known is None:
            self.take(torch.zeros(n, dtype=torch.long, device=device))

    def __len__(self) -> int:
        return len(self.x)

    @property
    def column(self) -> int:
        """The place of the next column among those of `x`."""
        return self.stack.layout.table_order[self.at]

    @property
    def next(self) -> tuple[bool, int]:
        """Whether the next column is a number, and its place among numbers or categories."""
        return self.stack.layout.order[self.at]

    def take(self, index: Tensor) -> None:
        """Go on with some of the rows, which may repeat."""
        self.x, self.log_m = self.x[index], self.log_m[index]
        self.scales = [rows.take(index) for rows in self.scales]
        self._hidden = self._memo = None
        for mixture in self.mixtures:
            found = mixture.conditionals
            found.rows, found.d = self.scales[mixture.scale], found.d[index]
            found.log_r = found.log_r[index]

    # The distribution of the next column ------------------------------------------------------

    @property
    def _has_networks(self) -> bool:
        return self.own.stop > self.own.start

    def _predicted(self) -> tuple[Tensor, ...]:
        networks = self.stack.networks
        assert networks is not None
        if self._memo is None:
            if self._hidden is None:
                self._hidden = networks.hidden(self.scales[0], self.which)
            expected = self.scales[0].expected
            self._memo = networks.column(self._hidden, *self.next, expected, self.which)
        return self._memo

    def log_probabilities(self) -> Tensor:
        """Of the values of the next column, a category `(n, values)`, an empty cell last."""
        _, g = self.next
        found = []
        for _, mixture, own in self.mixtures:
            log_p = (mixture.log_r[..., None] + mixture.members.category(g)).logsumexp(2)
            found.append(self.log_m[:, own, None] + log_p.to(self.x))
        if self._has_networks:
            log_p = self._predicted()[0].permute(2, 0, 1)
            found.append(self.log_m[:, self.own, None] + log_p.to(self.x))
        return torch.cat(found, 1).logsumexp(1).log_softmax(1)

    def parts(self) -> Parts:
        """The mixture of the next column, a number."""
        _, c = self.next
        has_gaps = self.stack.layout.gaps[c]
        gap = self.x.new_zeros(len(self))
        groups: list[tuple[Shape, int, Tensor, Tensor, Tensor]] = []
        for scale, mixture, own in self.mixtures:
            mean, log_scale = (part.to(self.x).flatten(1) for part in mixture.at(c))
            log_w = mixture.log_r.to(self.x) + self.log_m[:, own, None]
            if has_gaps:
                table = mixture.members.log_gap[..., c, :].to(self.x)
                gap = gap + (log_w + table[..., 1]).exp().sum((1, 2))
                log_w = log_w + table[..., 0]
            groups.append(("normal", scale, log_w.flatten(1), mean, log_scale))
        if self._has_networks:
            log_v, place, spread, *logits = (part.to(self.x) for part in self._predicted())
            log_v, place, spread = (part.permute(2, 0, 1) for part in (log_v, place, spread))
            log_v = log_v + self.log_m[:, self.own, None]
            if has_gaps:
                gap = gap + (self.log_m[:, self.own].exp() * logits[0].T.sigmoid()).sum(1)
                log_v = log_v + F.logsigmoid(-logits[0].T)[..., None]
            flat = [part.flatten(1) for part in (log_v, place, spread)]
            groups.append(("logistic", 0, flat[0], flat[1], flat[2]))
        return Parts(groups, gap, self.stack.layout.cells[c])

    # Noise ------------------------------------------------------------------------------------

    def noise(self) -> Tensor:
        """The noise of the next column, which is known `(n,)`; the middle of what has a mass."""
        number, place = self.next
        if not number:
            p = self.log_probabilities().exp()
            index = self.scales[0].places[:, place, None]
            own = p.gather(1, index)[:, 0]
            lower = (p.cumsum(1).gather(1, index)[:, 0] - own).clamp(min=0)
            return quantile(lower + own / 2, 1 - lower - own / 2)
        parts = self.parts()
        columns = [Scores(*(part[:, place] for part in rows.scores)) for rows in self.scales]
        empty = quantile(1 - parts.gap / 2, parts.gap / 2)
        return torch.where(self.scales[0].empty[:, place], empty, parts.noise(columns)[1])

    def value(self, z: Tensor) -> Tensor:
        """The values of the next column whose noise is z `(n,)`, which are not put in yet."""
        number, place = self.next
        if not number:
            index = pick(self.log_probabilities().exp(), NOISE["normal"].cdf(z))
            return self.stack.layout.category(place, index).to(self.x)
        parts = self.parts()

        def noise(x: Tensor, at: Tensor) -> Scores:
            some, scores = parts.take(at), self.tools.scores(place, x)
            low, point, high = some.noise(scores)
            nodes = [Scores(*(part[:, None] for part in each)) for each in scores]
            return Scores(point, low, high, some.log_prob(nodes)[:, 0] - log_normal(point))

        x = self.tools.inverse(0, place).search(noise, z)
        return torch.where(NOISE["normal"].cdf(-z) < parts.gap, math.nan, x)

    # Steps ------------------------------------------------------------------------------------

    def draw(self, generator: Generator | None, filled: Tensor | bool = False) -> Tensor:
        """Values of the next column `(n,)`, which are not put in yet.

        Args:
            filled: which rows get a value, and no empty cell.
        """
        number, place = self.next
        n = len(self)
        u = torch.rand(2, n, generator=generator, dtype=torch.float64).to(self.x)
        filled = torch.as_tensor(filled, device=self.x.device).expand(n)
        if number:
            return draw_number(self.parts(), u, filled, self.tools, place)
        p = self.log_probabilities().exp()
        if self.stack.layout.columns[self.column].missing:
            p[:, -1] = torch.where(filled, 0.0, p[:, -1])
        return self.stack.layout.category(place, pick(p, u[0])).to(self.x)

    def put(self, value: Tensor) -> Tensor:
        """Go on by a column with these values `(n,)`; returns their log-probability.

        As of `MixedFlow.log_prob`: of a column with a grid, the probability over the step.
        """
        number, place = self.next
        column = self.stack.layout.columns[self.column]
        self.x[:, self.column] = value
        outside = torch.zeros_like(value, dtype=torch.bool)
        if number:
            outside = self.tools.one[0][place].outside(value[:, None])[:, 0]
            for scale, rows in enumerate(self.scales):
                rows.empty[:, place] = value.isnan()
                if scale in self.used:
                    new = self.tools.score(scale, place, value)
                    for part, own in zip(rows.scores, new, strict=True):
                        part[:, place] = own.to(part)
                if any(place == date for date, _ in self.stack.layout.cycles):
                    waves = self.stack.layout.waves(self.x[:, self.stack.layout.numbers])
                    rows.waves[:] = waves.to(rows.waves)
            for _, mixture, _ in self.mixtures:
                mixture.set(place)
        else:
            assert isinstance(column, CategoryColumn)
            for rows in self.scales:
                rows.places[:, place] = value.nan_to_num(float(column.count)).long()
        found = torch.where(outside, -math.inf, self.go_on())
        self._expect()
        return found

    def _expect(self) -> None:
        """What is expected of the next column, now that those before it are known."""
        regressors = self.stack.regressors
        if regressors is None or not self._has_networks or self.at == len(self.stack.layout.order):
            return
        number, place = self.next
        if number and place in regressors.targets:
            j, rows = regressors.targets.index(place), self.scales[0]
            found = regressors.one(j, self.stack.marginals, self.x)
            rows.expected[:, j] = found.to(rows.expected)

    def go_on(self) -> Tensor:
        """Go on past the next column, whose values are known; returns their log-probability."""
        number, place = self.next
        log_p = torch.zeros_like(self.log_m)
        if self._has_networks:
            log_p[:, self.own] = self._network_log_prob(number, place).to(log_p)
        for _, mixture, own in self.mixtures:
            log_p[:, own] = mixture.next(number, place).to(log_p)
        found = torch.zeros_like(self.x[:, 0])
        if number:
            step = self.stack.log_step[place].to(found)
            found = found - torch.where(self.scales[0].empty[:, place], 0.0, step)
        if self.at >= self.stack.conditions:
            joint = self.log_m + log_p
            total = joint.logsumexp(1)
            self.log_m = (joint - total[:, None]).nan_to_num(nan=-math.inf).log_softmax(1)
            found = found + total
        self.at += 1
        self._memo = None
        if not self.known:
            self._hidden = None
        return found

    def _network_log_prob(self, number: bool, place: int) -> Tensor:
        predicted = self._predicted()
        if not number:
            table = predicted[0]
            index = self.scales[0].places[:, place].expand(len(table), 1, -1)
            return table.gather(1, index)[:, 0].T
        log_w, mean, log_s, *logits = predicted
        # In float64: the ends of narrow cells lose their digits on the way.
        normal = Scores(*(part[:, place].double() for part in self.scales[0].scores))
        scores = logistic_scores(normal).to(self.dtype)
        known = (
            log_w + logistic_log_prob(scores, mean, log_s, self.stack.layout.cells[place])
        ).logsumexp(1)
        if logits:
            gap = self.scales[0].empty[:, place]
            known = torch.where(gap, F.logsigmoid(logits[0]), known + F.logsigmoid(-logits[0]))
        return known.T


def draw_number(parts: Parts, u: Tensor, filled: Tensor, tools: Tools, c: int) -> Tensor:
    """Values of a column of numbers from its mixture in each row, by u `(2, n)` in [0, 1)."""
    log_w = torch.cat([group[2] for group in parts.groups], 1)
    mean = torch.cat([group[3] for group in parts.groups], 1)
    log_s = torch.cat([group[4] for group in parts.groups], 1)
    gap = torch.where(filled, 0.0, parts.gap)
    index = pick(torch.cat((log_w.exp(), gap[:, None]), 1), u[0])
    chosen = index.clamp(max=log_w.shape[1] - 1)[:, None]
    mean, scale = mean.gather(1, chosen)[:, 0], log_s.gather(1, chosen)[:, 0].exp()
    inside = u[1].clamp(1e-300, 1 - 1e-16)
    x, start = torch.full_like(mean, math.nan), 0
    for shape, number, own, *_ in parts.groups:
        end = start + own.shape[1]
        which = ((index >= start) & (index < end)).nonzero()[:, 0]
        start = end
        if len(which):
            noise = torch.special.ndtri(inside) if shape == "normal" else inside.logit()
            y = (mean + scale * noise)[which]
            y = y if shape == "normal" else normal_of_logit(y)
            x[which] = tools.inverse(number, c)(y.clamp(-37.0, 37.0))
    return x


def pick(p: Tensor, u: Tensor) -> Tensor:
    """An index for each row of weights `(n, k)`, with these probabilities, by u in [0, 1)."""
    sums = p.cumsum(1)
    index = torch.searchsorted(sums, (u * sums[:, -1])[:, None], right=True)[:, 0]
    # A weight of 0 at the end is no choice, whatever rounding does.
    last = ((p > 0) * torch.arange(1, p.shape[1] + 1, device=p.device)).amax(1) - 1
    return index.minimum(last.clamp(min=0))
