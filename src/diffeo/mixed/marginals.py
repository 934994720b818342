"""The distribution of each column of numbers on its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from diffeo.mixed.columns import NEVER, Columns
from diffeo.mixed.density_tree import pieces_gained
from diffeo.mixed.scores import Scores
from diffeo.schema import NumberColumn
from diffeo.utils.config import Configurable
from diffeo.utils.ranges import Count, Whole

Which = slice | list[int]


class Marginals(Configurable, nn.Module):
    """The distribution functions of columns of numbers, as normal scores of their values.

        F(x) = (1 - m) T(S(x)) + m A(x),   y = Phi^-1(F(x))

    S is a mixture of normal distributions of x, of arsinh(x) or of log(x), whichever is likeliest
    by BIC, within the limits of the column. T is the distribution function of a density of
    pieces on [0, 1], for columns without a grid whose values gather where S is too smooth
    (`fit_pieces`). A puts masses on single values: on those that are atoms, and of a column with a
    grid on all that were seen. m is the share that is likeliest where each row is left out in turn,
    so values that repeat more than chance would have them get a mass of their own, and others that
    of the smooth part.

    (Liu et al. 2009, for normal scores of columns)

    Args:
        columns: numbers and dates.
        levels: how many values with masses there is room for, in the column that has most.
        components: how many components there is room for.
        pieces: how many pieces there is room for, in the column that has most.
    """

    step: Tensor
    origin: Tensor
    least: Tensor
    most: Tensor
    log_w: Tensor
    mean: Tensor
    scale: Tensor
    kind: Tensor
    place: Tensor
    unit: Tensor
    ends: Tensor
    below: Tensor
    share: Tensor
    values: Tensor
    masses: Tensor

    def __init__(
        self,
        columns: Sequence[NumberColumn],
        levels: Whole = 1,
        components: Count = 12,
        pieces: Count = 1,
    ) -> None:
        super().__init__()
        self.columns: list[NumberColumn] = list(columns)
        count = len(self.columns)

        def fixed(read: Any) -> Tensor:
            values = [float(read(column)) for column in self.columns]
            # With its numbers also where a model is made without storage, to be loaded.
            return torch.tensor(values, dtype=torch.float64, device="cpu")

        inf = math.inf
        for name, values in {
            "step": fixed(lambda c: c.step),
            "origin": fixed(lambda c: c.origin),
            "least": fixed(lambda c: -inf if c.low is None else c.low - c.step / 2),
            "most": fixed(lambda c: inf if c.high is None else c.high + c.step / 2),
        }.items():
            self.register_buffer(name, values, persistent=False)
        for name, shape in {
            "log_w": (count, components),
            "mean": (count, components),
            "scale": (count, components),
            "kind": (count,),
            "place": (count,),
            "unit": (count,),
            "share": (count,),
        }.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        size = (count, max(1, levels))
        self.register_buffer("values", torch.full(size, NEVER, dtype=torch.float64))
        self.register_buffer("masses", torch.zeros(size, dtype=torch.float64))
        # One piece, and then others of no width.
        ends = torch.ones(count, pieces + 1, dtype=torch.float64)
        ends[:, 0] = 0.0
        self.register_buffer("ends", ends)
        self.register_buffer("below", ends.clone())
        self.scale.fill_(1.0)
        self.unit.fill_(1.0)
        self.log_w.fill_(-math.log(components))

    def forward(self, x: Tensor) -> tuple[Tensor, Scores]:
        """Log-probability or -density of each value of x `(n, D)`, and where it lies.

        NaN has a log-probability of 0 and a score of 0.
        """
        log_p = torch.empty_like(x)
        scores = Scores(*(torch.empty_like(x) for _ in range(4)))
        for which, cells in split(self.columns):
            found, parts = self.some(which, cells)(x[:, which])
            log_p[:, which] = found
            for whole, part in zip(scores, parts, strict=True):
                whole[:, which] = part
        return log_p, scores

    def some(self, which: Which = slice(None), cells: bool = True) -> Columns:
        """The distributions of some columns.

        Args:
            which: their places.
            cells: False if all are continuous, without atoms.
        """
        names = [field.name for field in fields(Columns)[1:]]
        return Columns(cells, **{name: getattr(self, name)[which] for name in names})

    def gained(self, x: Tensor) -> Tensor:
        """What learning x itself added to the log-probability of each of its values `(n, D)`.

            -log(1 - m / (n p))

        with the share m of the masses: in n rows a value has a part 1 / n of them for itself. What
        pieces gained is measured by those of other rows.
        """
        columns, empty = self.some(), x.isnan()
        known = torch.where(empty, self.place, x)
        index = columns.index(known)
        atom = self.share * columns.mass(index)
        own = (self.share / (~empty).sum(0).clamp(min=1)).minimum(atom)
        part = own / self(x)[0].exp().clamp(min=1e-300)
        gained = torch.where(empty, 0.0, -torch.log1p(-part.clamp(max=1 - 1e-9)))
        u = columns.smooth_cdf(known)
        for i in (self.ends[:, 1] < 1).nonzero()[:, 0].tolist():
            rows = (~empty[:, i] & (atom[:, i] == 0)).nonzero()[:, 0]
            gained[rows, i] = pieces_gained(u[rows, i])
        return gained

    def one(self, i: int) -> Columns:
        """The distribution of one column."""
        return self.some(slice(i, i + 1), has_cells(self.columns[i]))

    def load_smaller(self, other: Marginals) -> None:
        """Take the numbers of marginals with fewer levels and pieces."""
        state = other.state_dict()
        for name, fill in (("values", NEVER), ("masses", 0.0), ("ends", 1.0), ("below", 1.0)):
            more = getattr(self, name).shape[1] - state[name].shape[1]
            state[name] = torch.nn.functional.pad(state[name], (0, more), value=fill)
        self.load_state_dict(state)


def has_cells(column: NumberColumn) -> bool:
    """Whether values of a column are cells of noise, and no points."""
    return column.step > 0 or len(column.atoms) > 0


def split(columns: Sequence[NumberColumn], start: int = 0) -> list[tuple[Which, bool]]:
    """The places of columns, from one on: of those without cells, and of those with cells."""
    places: dict[bool, list[int]] = {False: [], True: []}
    for place in range(start, len(columns)):
        places[has_cells(columns[place])].append(place)
    if not places[False] or not places[True]:
        return [(slice(start, None), bool(places[True]))]
    return [(places[False], False), (places[True], True)]
