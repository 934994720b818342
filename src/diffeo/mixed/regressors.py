"""Regressions of the columns of numbers that the columns before them nearly determine."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffeo.mixed.marginals import Marginals
from diffeo.mixed.rows import Layout
from diffeo.schema import Column
from diffeo.utils.config import Configurable
from diffeo.utils.ranges import Count, Whole

FAR = 10.0  # spreads beyond which a network sees no difference
RIDGE = 1e-6  # of least squares, in variances of a feature


class Curve(nn.Module):
    """A linear function and a network of two hidden layers, which starts at zero, in sum.

        f(x) = w . x + b + W_3 silu(W_2 silu(W_1 x))

    The linear function alone is exact for sums, and on a log scale for products.

    Args:
        inputs: number of features of x `(n, inputs)`.
        hidden: width of both layers.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.linear: nn.Linear = nn.Linear(inputs, 1)
        self.rest: nn.Sequential = nn.Sequential(
            nn.Linear(inputs, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, 1),
        )
        for parameter in self.rest[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """`(n,)` for x `(n, inputs)`."""
        found: Tensor = (self.linear(x) + self.rest(x))[:, 0]
        return found

    @torch.no_grad()
    def start(self, x: Tensor, y: Tensor) -> None:
        """Let the linear function be that of least squares for y `(n,)`, with a slight ridge."""
        design = torch.cat((x, torch.ones_like(x[:, :1])), 1).double()
        gram = design.T @ design
        gram.diagonal().add_(RIDGE * len(x))
        w = torch.linalg.solve(gram, design.T @ y.double())
        self.linear.weight.copy_(w[None, :-1])
        self.linear.bias.copy_(w[-1:])


class Regressors(Configurable, nn.Module):
    """Small networks that expect a value of some columns, given some of those before.

        x_c = scale_c^-1(center_c + spread_c f_c(standardized columns))

    Such are sums, differences and ratios of columns, and other units of one. A masked network of
    all columns finds them only nearly, since it learns from few outputs of many. Numbers are on the
    scale of their marginals (linear, arsinh or log). An expected value is one that its column can
    have, within the range that was learned: networks extrapolate without limits.

    Args:
        columns: of the table.
        first: columns that come first (see `Layout`).
        targets: the columns that are expected, as places among the numbers.
        inputs: the columns that each depends on, as places in the table, all before it.
        hidden: width of both layers of each network.
    """

    center: Tensor
    spread: Tensor
    least: Tensor
    most: Tensor

    def __init__(
        self,
        columns: Sequence[Column],
        first: Sequence[Whole] = (),
        targets: Sequence[Whole] = (),
        inputs: Sequence[Sequence[Whole]] = (),
        hidden: Count = 32,
    ) -> None:
        super().__init__()
        layout = Layout(columns, first)
        self.layout: Layout = layout
        self.targets: tuple[int, ...] = tuple(targets)
        self.inputs: list[tuple[int, ...]] = [tuple(each) for each in inputs]
        self.seen: list[list[int]] = [
            [i for i, own in enumerate(layout.owners) if own in each] for each in inputs
        ]
        self.networks: nn.ModuleList = nn.ModuleList(Curve(len(seen), hidden) for seen in self.seen)
        self.register_buffer("center", torch.zeros(len(layout.numbers)))
        self.register_buffer("spread", torch.ones(len(layout.numbers)))
        self.register_buffer("least", torch.full((len(layout.numbers),), -FAR))
        self.register_buffer("most", torch.full((len(layout.numbers),), FAR))

    def forward(self, marginals: Marginals, table: Tensor) -> Tensor:
        """The normal scores of the values that are expected `(n, targets)`.

        Args:
            marginals: of the numbers.
            table: the rows `(n, columns)`; of a target only its inputs count.
        """
        features = self.features(marginals, table)
        scores = table.new_zeros(len(table), len(self.targets))
        for j in range(len(self.targets)):
            scores[:, j] = self._score(j, marginals, features)
        return scores

    def one(self, j: int, marginals: Marginals, table: Tensor) -> Tensor:
        """The scores of one target `(n,)`."""
        return self._score(j, marginals, self.features(marginals, table)).to(table)

    def standardized(self, marginals: Marginals, table: Tensor) -> Tensor:
        """Numbers in units of their spread `(n, numbers)`, NaN where a cell is empty."""
        scaled, _ = marginals.some().scaled(table[:, self.layout.numbers])
        return (scaled - self.center) / self.spread

    def features(self, marginals: Marginals, table: Tensor) -> Tensor:
        """What the networks see `(n, features)` (see `Layout.features`)."""
        layout, numbers = self.layout, table[:, self.layout.numbers]
        known = self.standardized(marginals, table).nan_to_num(0.0).clamp(-FAR, FAR)
        waves, places = layout.waves(numbers), layout.places(table)
        return layout.features(known, numbers.isnan(), places, waves).to(self.center.dtype)

    def predict(self, j: int, features: Tensor) -> Tensor:
        """The standardized value that is expected of one target `(n,)`."""
        found: Tensor = self.networks[j](features[:, self.seen[j]])
        return found

    def _score(self, j: int, marginals: Marginals, features: Tensor) -> Tensor:
        c = self.targets[j]
        y = self.predict(j, features).clamp(self.least[c], self.most[c])
        one = marginals.one(c)
        x = one.from_scale((self.center[c] + self.spread[c] * y).double()[:, None])
        return one(x)[1].point[:, 0]
