"""The model of a mixed table as a bijection: marginals, then mixtures and networks with weights."""

from __future__ import annotations

import torch
from torch import Tensor

from diffeo.bijections.base import Bijection
from diffeo.mixed.growing import Growing
from diffeo.mixed.members import MixedMembers
from diffeo.mixed.parts import log_normal
from diffeo.mixed.tools import Tools


class MixedStack(MixedMembers, Bijection):
    """A row of mixed columns as normal noise, column by column.

        z_i = Phi^-1(F(x_i | x_j before i)),   log|det dz/dx| = log p(x) - sum_i log N(z_i; 0, 1)
        p(x) = sum_m w_m p_m(x)

    where members m are mixtures and networks, each with exact conditional distributions, and p is
    the probability of discrete values and the density of continuous ones; of numbers on a grid, the
    probability of the cell over its width; of a date on a grid, that of its day, month or second. A
    value with a mass goes to the middle of its interval of noise, and each point of the interval
    comes back to it. An empty cell is NaN; it is the last interval of its column.

    Args:
        columns: those that are conditions first.
        conditions: how many are conditions; they come as context, in the form of x.
        sizes: of the members.
    """

    cheap_inverse = False

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        table = self.table(x, context)
        rows, z = Growing(Tools(self), len(x), table), torch.zeros_like(x)
        log_p = torch.zeros_like(x[:, 0])
        while rows.at < table.shape[1]:
            if rows.at >= self.conditions:
                z[:, rows.column - self.conditions] = rows.noise()
            log_p = log_p + rows.go_on()
        return z, self.possible(table, log_p) - log_normal(z).sum(1)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        rows = Growing(Tools(self), len(y))
        while rows.at < rows.x.shape[1]:
            place = rows.column - self.conditions
            if place < 0:
                assert context is not None
                rows.put(context[:, rows.column])
            else:
                rows.put(rows.value(y[:, place]))
        x = rows.x[:, self.conditions :]
        return x, -self(x, context)[1]
