"""The members of a model of a mixed table, with their weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffeo.mixed.gaussians import GaussianMembers
from diffeo.mixed.marginals import Marginals
from diffeo.mixed.networks import NetworkMembers
from diffeo.mixed.regressors import Regressors
from diffeo.mixed.rows import Layout, Rows
from diffeo.mixed.scores import logistic_scores
from diffeo.schema import Column, DateColumn
from diffeo.utils.config import Configurable
from diffeo.utils.ranges import Count, Whole


@dataclass(frozen=True)
class Sizes(Configurable):
    """How many members a model has, and how large they are.

    Args:
        levels: how many values of a column may have a mass of their own.
        pieces: how many pieces the density of a column may have.
        mixtures: how many members are mixtures.
        mixture: components of each.
        networks: how many members are networks.
        hidden: width of the networks.
        blocks: residual blocks of the networks.
        components: of the distributions that networks predict.
        plain: how many members are mixtures of plain numbers, whose marginals are normal.
        plain_mixture: components of each.
        expected: columns that others nearly determine, as places among the numbers.
        inputs: the columns that each of them depends on, as places in the table.
        bins: how many bins networks see each number in.
    """

    levels: Whole = 1
    pieces: Count = 1
    mixtures: Count = 1
    mixture: Count = 1
    networks: Whole = 1
    hidden: Count = 64
    blocks: Whole = 1
    components: Count = 8
    plain: Whole = 0
    plain_mixture: Count = 1
    expected: Sequence[Whole] = ()
    inputs: Sequence[Sequence[Whole]] = ()
    bins: Whole = 0


class MixedMembers(nn.Module):
    """Mixtures and networks, each with exact conditional distributions of the columns.

        p(x | conditions) = sum_m w_m p_m(x | conditions)

    Args:
        columns: those that are conditions first.
        conditions: how many are conditions.
        sizes: of the members.
    """

    log_step: Tensor

    def __init__(self, columns: Sequence[Column], conditions: Whole, sizes: Sizes) -> None:
        super().__init__()
        self.conditions = conditions
        first = list(range(conditions))
        layout = Layout(columns, first)
        self.layout: Layout = layout
        kinds, numbers = layout.kinds, len(layout.numbers)
        self.marginals: Marginals = Marginals(kinds, sizes.levels, pieces=sizes.pieces)
        self.gaussians: GaussianMembers = GaussianMembers(
            numbers, layout.sizes, sizes.mixtures, sizes.mixture
        )
        self.plain_marginals: Marginals | None = None
        self.plain_gaussians: GaussianMembers | None = None
        self.networks: NetworkMembers | None = None
        self.regressors: Regressors | None = None
        if sizes.plain:
            self.plain_marginals = Marginals(kinds, sizes.levels, 1)
            self.plain_gaussians = GaussianMembers(
                numbers, layout.sizes, sizes.plain, sizes.plain_mixture
            )
        if sizes.networks:
            self.networks = NetworkMembers(
                columns,
                first,
                sizes.networks,
                sizes.hidden,
                sizes.blocks,
                sizes.components,
                sizes.expected,
                sizes.bins,
            )
            if sizes.expected:
                self.regressors = Regressors(columns, first, sizes.expected, sizes.inputs)
        count = sizes.mixtures + sizes.networks + sizes.plain
        self.log_w: Tensor = nn.Buffer(torch.full((count,), -math.log(count)))
        # A date has a probability: per day, or per year, would be a density.
        wide = [c.step if c.step > 0 and not isinstance(c, DateColumn) else 1.0 for c in kinds]
        steps = [math.log(step) for step in wide]
        log_step = torch.tensor(steps, dtype=torch.float64, device="cpu")
        self.register_buffer("log_step", log_step, persistent=False)

    @property
    def scales(self) -> list[tuple[Marginals, GaussianMembers]]:
        """The marginals, and the mixtures of their scores."""
        found = [(self.marginals, self.gaussians)]
        if self.plain_marginals is not None and self.plain_gaussians is not None:
            found.append((self.plain_marginals, self.plain_gaussians))
        return found

    @property
    def width(self) -> int:
        """How many numbers a row has at most in a step, of the components of all members."""
        numbers = [mixtures.mean.numel() for _, mixtures in self.scales]
        if self.networks is not None:
            networks = self.networks
            numbers.append(networks.members * networks.components * len(self.layout.numbers))
        return max(numbers)

    def normalize(self) -> None:
        """Let all weights sum to 1 to the precision of their dtype."""
        self.log_w.copy_(self.log_w.log_softmax(-1))
        for _, mixtures in self.scales:
            mixtures.normalize()

    def read(self, table: Tensor) -> list[Rows]:
        """Rows of a table, conditions first, on the scale of each of the marginals."""
        found = [self.layout.rows(marginals, table) for marginals, _ in self.scales]
        if self.regressors is not None:  # networks read the first
            found[0] = found[0].having(expected=self.regressors(self.marginals, table))
        return found

    def follow(self, rows: Rows, table: Tensor) -> Rows:
        """Rows on the first scale, with what depends on several values of a table that changed."""
        rows = rows.having(waves=self.layout.waves(table[:, self.layout.numbers]).to(rows.waves))
        if self.regressors is None:
            return rows
        return rows.having(expected=self.regressors(self.marginals, table).to(rows.expected))

    def member_log_prob(self, scales: Sequence[Rows]) -> Tensor:
        """The log-probability of each row under each member `(n, members)`, given conditions.

        Members are mixtures, networks, and mixtures of plain numbers.

        Args:
            scales: of `read`.
        """
        dtype, first = self.gaussians.mean.dtype, self.conditions
        rows = [each.to(dtype) for each in scales]
        found = [
            mixtures.log_prob(each, self.layout, first)
            for (_, mixtures), each in zip(self.scales, rows, strict=True)
        ]
        if self.networks is not None:
            scores = logistic_scores(scales[0].scores).to(dtype)
            found.insert(1, self.networks.log_prob(rows[0], scores, first).T)
        return torch.cat(found, 1)

    def log_joint(self, table: Tensor) -> Tensor:
        """The log-probability of rows, conditions first, by the grids of the columns `(n,)`.

        That of a value on a grid is the probability of its cell.
        """
        scales = self.read(table)
        log_p = (self.log_w + self.member_log_prob(scales)).logsumexp(1).to(table.dtype)
        return self.possible(table, log_p)

    def possible(self, table: Tensor, log_p: Tensor) -> Tensor:
        """The log-probability of rows, of which some are impossible."""
        impossible = self.layout.impossible(self.marginals, table)[:, self.conditions :].any(1)
        return torch.where(impossible, -math.inf, log_p)

    def log_widths(self, empty: Tensor) -> Tensor:
        """The logarithms of the steps of the grids of each row's values, summed `(n,)`.

        A probability over them is a density in the units of the table; empty cells and dates have
        no width.

        Args:
            empty: which numbers are missing (see `Rows`).
        """
        which = [c for c, i in enumerate(self.layout.numbers) if i >= self.conditions]
        return (~empty[:, which] * self.log_step[which]).sum(1)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The log-probability of each row `(n,)`."""
        table = self.table(x, context)
        empty = table[:, self.layout.numbers].isnan()
        return self.log_joint(table) - self.log_widths(empty).to(x.dtype)

    def table(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Rows with their conditions, which come first."""
        return x if context is None else torch.cat((context, x), 1)
