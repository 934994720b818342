"""The values that a column of numbers may have, as whole numbers in their order."""

from __future__ import annotations

import torch
from torch import Tensor

from diffeo.mixed.columns import Columns
from diffeo.mixed.tools import Tools


class Lattice:
    """The values of a column on a grid: whole numbers k of its cells.

    Args:
        tools: of the model.
        c: the place of the column among those of numbers.
    """

    falling = False  # whether values fall where numbers rise

    def __init__(self, tools: Tools, c: int) -> None:
        self.tools = tools
        self.c = c
        self.column: Columns = tools.one[0][c]

    def has(self, x: Tensor) -> Tensor:
        """Which values are on the lattice."""
        return torch.ones_like(x, dtype=torch.bool)

    def keys(self, x: Tensor) -> Tensor:
        """The whole numbers `(n,)` of values."""
        return self.column.index(x[:, None])[:, 0].long()

    def values(self, keys: Tensor) -> Tensor:
        """The values of whole numbers."""
        return self.column.value(keys[:, None].double())[:, 0]

    def starts(self, keys: Tensor, high: int) -> list[Tensor]:
        """Where cells begin on the scale of each of the marginals; after `high` comes its end."""
        scores = self.tools.scores(self.c, self.values(keys.clamp(max=high)))
        return [torch.where(keys > high, part.high, part.low) for part in scores]


class Decimals(Lattice):
    """The values of a continuous column that is written with d decimals: k = 10^d x.

    Cells reach as far as all that is rounded to their value.
    """

    def __init__(self, tools: Tools, c: int, decimals: int) -> None:
        super().__init__(tools, c)
        self.unit: float = 10.0**decimals

    def keys(self, x: Tensor) -> Tensor:
        return (x * self.unit).round().long()

    def values(self, keys: Tensor) -> Tensor:
        return keys.double() / self.unit

    def starts(self, keys: Tensor, high: int) -> list[Tensor]:
        scores = self.tools.scores(self.c, (keys.double() - 0.5) / self.unit)
        return [part.low for part in scores]


class Floats(Lattice):
    """All floats of one sign: k are their bits without the sign, which have the order of sizes.

    Args:
        tools: see `Lattice`.
        c: likewise.
        falling: whether they are those below 0.
    """

    def __init__(self, tools: Tools, c: int, falling: bool) -> None:
        super().__init__(tools, c)
        self.falling = falling

    def has(self, x: Tensor) -> Tensor:
        return (x < 0) == self.falling

    def keys(self, x: Tensor) -> Tensor:
        return x.abs().view(torch.int64)

    def values(self, keys: Tensor) -> Tensor:
        sizes = keys.contiguous().view(torch.float64)
        return -sizes if self.falling else sizes

    def starts(self, keys: Tensor, high: int) -> list[Tensor]:
        scores = self.tools.scores(self.c, self.values(keys.clamp(max=high)))
        upper = (keys > high) != self.falling
        return [torch.where(upper, part.high, part.low) for part in scores]


def lattices_of(tools: Tools, c: int) -> list[Lattice]:
    """The lattices of a column of numbers: one, or two for floats of each sign.

    Args:
        tools: of the model.
        c: the place of the column among those of numbers.
    """
    column = tools.stack.layout.kinds[c]
    if column.step > 0:
        return [Lattice(tools, c)]
    if column.decimals is not None:
        return [Decimals(tools, c, column.decimals)]
    return [Floats(tools, c, falling=False), Floats(tools, c, falling=True)]
