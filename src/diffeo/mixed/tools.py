"""What is made once for many rows of a mixed table."""

from __future__ import annotations

import copy
from functools import cached_property

from torch import Tensor

from diffeo.mixed.columns import Columns
from diffeo.mixed.gaussians import GaussianMembers
from diffeo.mixed.inverse import ColumnInverse
from diffeo.mixed.members import MixedMembers
from diffeo.mixed.scores import Scores


class Tools:
    """What is made once for many rows: marginals of single columns and their inverses, members."""

    def __init__(self, stack: MixedMembers) -> None:
        self.stack = stack
        self.kinds: list[GaussianMembers] = [mixtures for _, mixtures in stack.scales]
        first, networks = len(stack.gaussians.log_w), 0
        if stack.networks is not None:
            networks = stack.networks.members
        count = len(stack.log_w)
        # Of the members, those that are mixtures on each of the scales, and networks.
        self.mixtures: list[slice] = [
            slice(0, first),
            slice(first + networks, count),
        ][: len(self.kinds)]
        self.networks: slice = slice(first, first + networks)
        self._inverses: dict[tuple[int, int], ColumnInverse] = {}

    @cached_property
    def one(self) -> list[list[Columns]]:
        """The distribution of each column of numbers by itself, on each scale."""
        columns = range(len(self.stack.layout.numbers))
        return [[marginals.one(c) for c in columns] for marginals, _ in self.stack.scales]

    def rules(self, c: int) -> list[int]:
        """The targets of `Regressors` that are, or depend on, a column of numbers."""
        regressors, layout = self.stack.regressors, self.stack.layout
        if regressors is None:
            return []
        pairs = enumerate(zip(regressors.targets, regressors.inputs, strict=True))
        return [j for j, (own, inputs) in pairs if own == c or layout.numbers[c] in inputs]

    def scores(self, c: int, x: Tensor) -> list[Scores]:
        """Where values `(n,)` of a column of numbers lie, on each scale."""
        return [self.score(scale, c, x) for scale in range(len(self.one))]

    def score(self, scale: int, c: int, x: Tensor) -> Scores:
        """Where values `(n,)` of a column of numbers lie on one scale."""
        return Scores(*(part[:, 0] for part in self.one[scale][c](x[:, None])[1]))

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
