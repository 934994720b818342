"""Mixtures of normal distributions and categories, whose conditionals are known in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffeo.mixed.rows import Layout, Rows
from diffeo.mixed.scores import Scores, normal_log_prob
from diffeo.utils.config import Configurable
from diffeo.utils.ranges import Count, Whole

PRIOR = 1.0  # row, that each component adds to the categories


class GaussianMembers(Configurable, nn.Module):
    """Several mixtures, each of K components: normal for numbers, independent for categories.

        p(x) = sum_k w_k N(y; mean_k, cov_k) prod_g p_k(category_g)

    for the scores y of the numbers. The distribution of a column given those before it is a mixture
    of the components' own, with running weights. A number that is missing is taken to be what each
    component expects of it.

    Args:
        numbers: how many columns of numbers.
        sizes: how many values each column of categories has.
        members: how many mixtures.
        components: K.
    """

    def __init__(
        self, numbers: Whole, sizes: Sequence[Count], members: Count = 1, components: Count = 1
    ) -> None:
        super().__init__()
        shape = (members, components)
        self.count: int = len(sizes)
        self.log_w: Tensor = nn.Buffer(torch.full(shape, -math.log(components)))
        self.mean: Tensor = nn.Buffer(torch.zeros(*shape, numbers))
        self.root: Tensor = nn.Buffer(torch.eye(numbers).expand(*shape, numbers, numbers).clone())
        self.log_gap: Tensor = nn.Buffer(torch.full((*shape, numbers, 2), math.log(0.5)))
        for g, size in enumerate(sizes):
            table = torch.full((*shape, size), -math.log(size))
            self.register_buffer(f"log_category{g}", table)

    def normalize(self) -> None:
        """Let weights and probabilities sum to 1 to the precision of their dtype."""
        tables = [self.category(g) for g in range(self.count)]
        for log_p in (self.log_w, self.log_gap, *tables):
            log_p.copy_(log_p.log_softmax(-1))

    def category(self, g: int) -> Tensor:
        """The log-probabilities of the values of a category `(members, K, values)`."""
        table: Tensor = getattr(self, f"log_category{g}")
        return table

    def centred(self, rows: Rows, layout: Layout) -> Tensor:
        """The numbers less the means `(members, K, C, n)`, with what is missing as expected."""
        d = rows.scores.point.T.contiguous() - self.mean[..., None]
        for c, gaps in enumerate(layout.gaps):
            if gaps:
                row = self.root[..., c : c + 1, :]
                expected = -(row[..., :c] @ d[..., :c, :]) / row[..., c, None]
                d[..., c : c + 1, :] = torch.where(rows.empty[:, c], expected, d[..., c : c + 1, :])
        return d

    def log_joint(
        self,
        rows: Rows,
        layout: Layout,
        until: int | None = None,
        *,
        points: bool = False,
        d: Tensor | None = None,
    ) -> Tensor:
        """The log-probability of rows and components `(members, K, n)`.

        Args:
            rows: of a table.
            layout: of its columns.
            until: how many columns in the order of prediction count, or None for all.
            points: whether numbers are points without cells, of which the density is taken.
            d: of `centred`, if it is known.
        """
        order = layout.order[:until]
        count = sum(number for number, _ in order)
        scores, root = rows.scores, self.root[..., :count, :count]
        log_rate = root.diagonal(dim1=-2, dim2=-1).log()[..., None]
        d = self.centred(rows, layout) if d is None else d
        e = root @ d[..., :count, :]
        terms = log_rate - 0.5 * (e * e + math.log(2 * math.pi))
        if not points:
            terms = terms + scores.log_width.T[:count].contiguous()
            for c, cells in enumerate(layout.cells[:count]):
                if cells:
                    log_s = -log_rate[..., c, :]
                    mean = scores.point[:, c] - e[..., c, :] * log_s.exp()
                    one = Scores(*(part[:, c] for part in scores))
                    terms[..., c, :] = normal_log_prob(one, mean, log_s)
        if any(layout.gaps):
            may = torch.tensor(layout.gaps[:count], device=terms.device)[:, None]
            gap, filled = self.log_gap[..., :count, 1, None], self.log_gap[..., :count, 0, None]
            terms = torch.where(rows.empty.T[:count], gap, terms + filled * may)
        log_p = terms.sum(2) + self.log_w[..., None]
        for number, g in order:
            if not number:
                log_p = log_p + self.category(g)[..., rows.places[:, g]]
        return log_p

    def log_prob(self, rows: Rows, layout: Layout, first: int = 0) -> Tensor:
        """The log-probability of rows under each mixture `(n, members)`.

        Args:
            rows: of a table.
            layout: of its columns.
            first: how many columns come first and are conditions.
        """
        log_p = self.log_joint(rows, layout).logsumexp(1)
        if first:
            log_p = log_p - self.log_joint(rows, layout, first).logsumexp(1)
        return log_p.T

    def conditionals(self, rows: Rows, layout: Layout) -> Conditionals:
        """The distributions of the columns."""
        return Conditionals(self, rows, layout)


class Conditionals:
    """The distributions of the columns of some rows, one after the other.

    Attributes:
        d: the numbers less the means `(n, members, K, C)`.
        log_r: logarithms of the components' weights, given the columns so far `(n, members, K)`.
    """

    def __init__(self, members: GaussianMembers, rows: Rows, layout: Layout) -> None:
        self.members = members
        self.rows = rows
        self.layout = layout
        self.d: Tensor = members.centred(rows, layout).movedim(-1, 0)
        self.log_r: Tensor = members.log_w.expand(len(rows), *members.log_w.shape)

    def set(self, c: int) -> None:
        """Take a number of the rows that is new."""
        expected = self._shift(c)
        centred = self.rows.scores.point[:, c, None, None] - self.members.mean[..., c]
        self.d[..., c] = torch.where(self.rows.empty[:, c, None, None], expected, centred)

    def next(self, number: bool, place: int) -> Tensor:
        """Go on past a column; returns its log-probability `(n, members)`."""
        weighted = self.log_r + (self._number(place) if number else self._category(place))
        total = weighted.logsumexp(-1)
        self.log_r = weighted - total[..., None]
        return total

    def _shift(self, c: int) -> Tensor:
        """What is expected of a number, given those before it, less its mean."""
        root = self.members.root[..., c, :]
        return -(self.d[..., :c] * root[..., :c]).sum(-1) / root[..., c]

    def at(self, c: int) -> tuple[Tensor, Tensor]:
        """The mean and log-scale of a number in each component `(n, members, K)`."""
        mean = self.members.mean[..., c] + self._shift(c)
        log_scale = -self.members.root[..., c, c].log()
        return mean, log_scale.expand_as(mean)

    def _category(self, g: int) -> Tensor:
        table = self.members.category(g)  # (members, K, values)
        return table[..., self.rows.places[:, g]].movedim(-1, 0)

    def _number(self, c: int) -> Tensor:
        mean, log_scale = self.at(c)
        scores = Scores(*(part[:, c, None, None] for part in self.rows.scores))
        known = normal_log_prob(scores, mean, log_scale, self.layout.cells[c])
        if not self.layout.gaps[c]:
            return known
        gap, table = self.rows.empty[:, c, None, None], self.members.log_gap[..., c, :]
        return torch.where(gap, table[..., 1], known + table[..., 0])
