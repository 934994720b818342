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
        shape, self.count = (members, components), len(sizes)
        self.log_w = nn.Buffer(torch.full(shape, -math.log(components)))
        self.mean = nn.Buffer(torch.zeros(*shape, numbers))
        self.root = nn.Buffer(torch.eye(numbers).expand(*shape, numbers, numbers).clone())
        self.log_gap = nn.Buffer(torch.full((*shape, numbers, 2), math.log(0.5)))
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

    def centred(self, rows: Rows) -> Tensor:
        """The numbers less the means `(n, members, K, C)`, with what is missing as expected."""
        d = rows.scores.point[:, None, None] - self.mean
        for c in range(d.shape[-1]):
            gap = rows.empty[:, c]
            if bool(gap.any()):
                d[gap, ..., c] = self._shift(d[gap], c)
        return d

    def _shift(self, d: Tensor, c: int) -> Tensor:
        """What is expected of a number, given those before it, less its mean."""
        root = self.root[..., c, :c]
        return -(d[..., :c] * root).sum(-1) / self.root[..., c, c]

    def conditionals(self, rows: Rows, layout: Layout) -> Conditionals:
        """The distributions of the columns."""
        return Conditionals(self, rows, layout)


class Conditionals:
    """The distributions of the columns of some rows, one after the other.

    Attributes:
        log_r: logarithms of the components' weights, given the columns so far `(n, members, K)`.
    """

    def __init__(self, members: GaussianMembers, rows: Rows, layout: Layout) -> None:
        self.members, self.rows, self.layout = members, rows, layout
        self.d = members.centred(rows)
        self.log_r = members.log_w.expand(len(rows), *members.log_w.shape)

    def log_prob(self) -> Tensor:
        """The log-probability of each column `(n, members, columns)`, as predicted."""
        found = [self._next(number, place) for number, place in self.layout.order]
        return torch.stack(found, -1)

    def _next(self, number: bool, place: int) -> Tensor:
        terms = self._number(place) if number else self._category(place)
        weighted = self.log_r + terms
        total = weighted.logsumexp(-1)
        self.log_r = weighted - total[..., None]
        return total

    def _category(self, g: int) -> Tensor:
        table = self.members.category(g)  # (members, K, values)
        return table[..., self.rows.places[:, g]].movedim(-1, 0)

    def at(self, c: int) -> tuple[Tensor, Tensor]:
        """The mean and log-scale of a number in each component `(n, members, K)`."""
        mean = self.members.mean[..., c] + self.members._shift(self.d, c)
        log_scale = -self.members.root[..., c, c].log()
        return mean, log_scale.expand_as(mean)

    def _number(self, c: int) -> Tensor:
        mean, log_scale = self.at(c)
        scores = Scores(*(part[:, c, None, None] for part in self.rows.scores))
        known = normal_log_prob(scores, mean, log_scale)
        if not self.layout.gaps[c]:
            return known
        gap, table = self.rows.empty[:, c, None, None], self.members.log_gap[..., c, :]
        return torch.where(gap, table[..., 1], known + table[..., 0])
