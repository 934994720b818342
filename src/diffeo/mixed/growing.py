"""Rows of a mixed table that grow column by column, in the order of prediction."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from diffeo.bijections.quantiles import Shape, log_ndtri
from diffeo.mixed.gaussians import Conditionals, GaussianMembers
from diffeo.mixed.inverse import ColumnInverse
from diffeo.mixed.networks import logistic_scores
from diffeo.mixed.rows import Rows
from diffeo.mixed.scores import Scores, logistic_log_prob
from diffeo.mixed.stack import MixedStack, Parts
from diffeo.schema import CategoryColumn


class Tools:
    """What is made once for many rows: marginals of single columns and their inverses, members."""

    def __init__(self, stack: MixedStack) -> None:
        self.stack = stack
        self.scales = [stack.marginals]
        self.kinds = [stack.gaussians]
        if stack.plain_marginals is not None and stack.plain_gaussians is not None:
            self.scales.append(stack.plain_marginals)
            self.kinds.append(stack.plain_gaussians)
        columns = range(len(stack.layout.numbers))
        self.one = [[scale.one(c) for c in columns] for scale in self.scales]
        self._inverses: dict[tuple[int, int], ColumnInverse] = {}
        first, networks = len(stack.gaussians.log_w), 0
        if stack.networks is not None:
            networks = stack.networks.members
        count = len(stack.log_w)
        # Of the members, those that are mixtures on each of the scales, and networks.
        self.mixtures = [slice(0, first), slice(first + networks, count)][: len(self.kinds)]
        self.networks = slice(first, first + networks)

    def inverse(self, scale: int, c: int) -> ColumnInverse:
        """The values of the scores of a column of numbers."""
        key = scale, c
        if key not in self._inverses:
            self._inverses[key] = ColumnInverse(self.one[scale][c])
        return self._inverses[key]

    def member(self, scale: int, m: int) -> GaussianMembers:
        """One mixture alone."""
        part = copy.deepcopy(self.kinds[scale])
        for name, buffer in self.kinds[scale].named_buffers():
            setattr(part, name, buffer[m : m + 1])
        return part


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
        only: the one member that counts, or None for all with their weights.

    Attributes:
        x: the rows so far `(n, columns)`, those that are conditions first; NaN is empty or unknown.
        at: how many columns are known.
        log_m: logarithms of the members' weights given these `(n, members)`.
    """

    def __init__(self, tools: Tools, n: int, only: int | None = None) -> None:
        self.tools = tools
        self.stack = stack = tools.stack
        layout, device = stack.layout, stack.log_w.device
        self.dtype = stack.gaussians.mean.dtype
        self.x = torch.full((n, len(layout.columns)), math.nan, dtype=torch.float64, device=device)
        zeros = self.x.new_zeros(n, len(layout.numbers), dtype=self.dtype)
        empty = torch.zeros_like(zeros, dtype=torch.bool)
        places = torch.zeros(n, len(layout.categories), dtype=torch.long, device=device)
        self.scales = [
            Rows(Scores(*(zeros.clone() for _ in range(4))), empty, places) for _ in tools.scales
        ]
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
        self.which, self.own = slice(None), tools.networks
        if only is not None:
            place = only - tools.networks.start
            self.which = slice(place, place + 1)
            self.own = slice(0, int(0 <= place < tools.networks.stop - tools.networks.start))
        log_w = stack.log_w.to(self.x)
        log_w = log_w if only is None else torch.zeros_like(log_w[:1])
        self.log_m = log_w.log_softmax(0).expand(n, -1)
        self.at = 0
        self._memo: tuple[int, tuple[Tensor, ...]] = (-1, ())

    def __len__(self) -> int:
        return len(self.x)

    @property
    def column(self) -> int:
        """The place of the next column among those of `x`."""
        return self.stack.layout.table_order[self.at]

    def take(self, index: Tensor) -> None:
        """Go on with some of the rows, which may repeat."""
        self.x, self.log_m, self._memo = self.x[index], self.log_m[index], (-1, ())
        empty, places = self.scales[0].empty[index], self.scales[0].places[index]
        self.scales = [
            Rows(Scores(*(part[index] for part in rows.scores)), empty, places)
            for rows in self.scales
        ]
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
        if self._memo[0] != self.at:
            number, place = self.stack.layout.order[self.at]
            self._memo = self.at, networks.predict(self.scales[0], number, place, self.which)
        return self._memo[1]

    def log_probabilities(self) -> Tensor:
        """Of the values of the next column, a category `(n, values)`, an empty cell last."""
        _, g = self.stack.layout.order[self.at]
        found = []
        for _, mixture, own in self.mixtures:
            log_p = (mixture.log_r[..., None] + mixture.members.category(g)).logsumexp(2)
            found.append(self.log_m[:, own, None] + log_p.to(self.x))
        if self._has_networks:
            log_p = self._predicted()[0].movedim(0, 1)
            found.append(self.log_m[:, self.own, None] + log_p.to(self.x))
        return torch.cat(found, 1).logsumexp(1).log_softmax(1)

    def parts(self) -> Parts:
        """The mixture of the next column, a number."""
        _, c = self.stack.layout.order[self.at]
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
            found = [part.movedim(0, 1).to(self.x) for part in self._predicted()]
            log_v, place, spread = found[:3]
            log_v = log_v + self.log_m[:, self.own, None]
            if has_gaps:
                gap = gap + (self.log_m[:, self.own].exp() * found[3].sigmoid()).sum(1)
                log_v = log_v + F.logsigmoid(-found[3])[..., None]
            flat = [part.flatten(1) for part in (log_v, place, spread)]
            groups.append(("logistic", 0, flat[0], flat[1], flat[2]))
        return Parts(groups, gap)

    # Steps ------------------------------------------------------------------------------------

    def draw(self, generator: Generator | None, filled: Tensor | bool = False) -> Tensor:
        """Values of the next column `(n,)`, which are not put in yet.

        Args:
            filled: which rows get a value, and no empty cell.
        """
        number, place = self.stack.layout.order[self.at]
        n = len(self)
        u = torch.rand(2, n, generator=generator, dtype=torch.float64).to(self.x)
        filled = torch.as_tensor(filled, device=self.x.device).expand(n)
        if not number:
            p = self.log_probabilities().exp()
            column = self.stack.layout.columns[self.column]
            assert isinstance(column, CategoryColumn)
            if column.missing:
                p[:, -1] = torch.where(filled, 0.0, p[:, -1])
            index = pick(p, u[0])
            value = index.to(self.x)
            return torch.where(index == column.count, math.nan, value) if column.missing else value
        return draw_number(self.parts(), u, filled, self.tools, place)

    def put(self, value: Tensor) -> Tensor:
        """Go on by a column with these values `(n,)`; returns their log-probability.

        As of `MixedFlow.log_prob`: of a column with a grid, the probability over the step.
        """
        number, place = self.stack.layout.order[self.at]
        column = self.stack.layout.columns[self.column]
        empty = value.isnan()
        own = torch.zeros_like(value)
        if number:
            outside = self.tools.one[0][place].outside(value[:, None])[:, 0]
            own = torch.where(outside, -math.inf, own)
            own = own - torch.where(empty, 0.0, self.stack.log_step[place].to(own))
            for rows, one in zip(self.scales, self.tools.one, strict=True):
                scores = one[place](value[:, None])[1]
                for part, new in zip(rows.scores, scores, strict=True):
                    part[:, place] = new[:, 0].to(part)
            self.scales[0].empty[:, place] = empty
        else:
            assert isinstance(column, CategoryColumn)
            self.scales[0].places[:, place] = value.nan_to_num(float(column.count)).long()
        log_p = self._member_log_prob(number, place)
        self.x[:, self.column] = value
        if self.at >= self.stack.conditions:
            joint = self.log_m + log_p
            total = joint.logsumexp(1)
            self.log_m = (joint - total[:, None]).nan_to_num(nan=-math.inf).log_softmax(1)
            own = own + total
        self.at += 1
        return own

    def _member_log_prob(self, number: bool, place: int) -> Tensor:
        found = torch.zeros_like(self.log_m)
        if self._has_networks:
            found[:, self.own] = self._network_log_prob(number, place).to(found)
        for scale, mixture, own in self.mixtures:
            if number:
                members, d, rows = mixture.members, mixture.d, self.scales[scale]
                point, gap = rows.scores.point[:, place], rows.empty[:, place]
                expected = members._shift(d, place)
                centred = point[:, None, None] - members.mean[..., place]
                d[..., place] = torch.where(gap[:, None, None], expected, centred)
            found[:, own] = mixture._next(number, place).to(found)
        return found

    def _network_log_prob(self, number: bool, place: int) -> Tensor:
        predicted = self._predicted()
        if not number:
            table = predicted[0]
            index = self.scales[0].places[:, place].expand(len(table), -1)[..., None]
            return table.gather(-1, index)[..., 0].T
        log_w, mean, log_s, *logits = predicted
        # In float64: the ends of narrow cells lose their digits on the way.
        normal = Scores(*(part[:, [place]].double() for part in self.scales[0].scores))
        scores = logistic_scores(normal).to(self.dtype)
        known = (log_w + logistic_log_prob(scores, mean, log_s)).logsumexp(2)
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
            y = y if shape == "normal" else _normal_score(y)
            x[which] = tools.inverse(number, c)(y.clamp(-37.0, 37.0))
    return x


def pick(p: Tensor, u: Tensor) -> Tensor:
    """An index for each row of weights `(n, k)`, with these probabilities, by u in [0, 1)."""
    sums = p.cumsum(1)
    index = torch.searchsorted(sums, (u * sums[:, -1])[:, None], right=True)[:, 0]
    # A weight of 0 at the end is no choice, whatever rounding does.
    last = ((p > 0) * torch.arange(1, p.shape[1] + 1, device=p.device)).amax(1) - 1
    return index.minimum(last.clamp(min=0))


def _normal_score(t: Tensor) -> Tensor:
    """The normal score of a logistic one."""
    y = log_ndtri(F.logsigmoid(-t.abs()).clamp(min=-700.0))
    return torch.where(t < 0, y, -y)


def counts(log_w: Tensor, n: int, generator: Generator | None) -> Sequence[int]:
    """How many of n rows each member makes, drawn at random."""
    u = torch.rand(n, generator=generator, dtype=torch.float64)
    p = log_w.detach().double().cpu().softmax(0)
    index = torch.searchsorted(p.cumsum(0), u, right=True).clamp(max=len(p) - 1)
    found: list[int] = index.bincount(minlength=len(p)).tolist()
    return found
