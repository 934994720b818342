"""What the mixtures of a model expect of unknown columns, given any others."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from diffeo.bijections.quantiles import Shape
from diffeo.mixed.growing import pick
from diffeo.mixed.members import MixedMembers
from diffeo.mixed.parts import Parts
from diffeo.mixed.rows import Rows
from diffeo.mixed.scores import normal_log_prob
from diffeo.mixed.tools import Tools


class Group(NamedTuple):
    """The components of the mixtures on one scale, given what is known of n rows.

    Attributes:
        log_w: logarithms of their weights times the density of what is known `(n, components)`.
        mean: of scores, known ones as they are `(n, components, C)`.
        lower: the Cholesky factor of the precision of the unknown scores, of a unit matrix for the
            known ones `(n, components, C, C)`.
        log_gap: logarithms of the probabilities of filled and empty cells `(components, C, 2)`.
        categories: of the values of each category `(components, values)`.
    """

    log_w: Tensor
    mean: Tensor
    lower: Tensor
    log_gap: Tensor
    categories: list[Tensor]


class MixturePosterior:
    """The mixtures of a model, without its networks, given some columns of each row.

        p_k(y_U | y_K) = N(mean_U - A^-1 P_UK (y_K - mean_K), A^-1),   A = P_UU

    with the precision P of component k. It is exact for continuous numbers and categories; the
    cell of a value is taken for its middle.

    Args:
        tools: of the model.
        x: rows `(n, columns)`, conditions first.
        known: which cells are known `(n, columns)`; NaN is an empty cell that is known as such.
    """

    def __init__(self, tools: Tools, x: Tensor, known: Tensor) -> None:
        self.tools = tools
        self.x = x
        self.known = known
        stack = tools.stack
        self.groups: list[Group] = [
            self._group(stack, scale, rows.to(torch.float64))
            for scale, rows in enumerate(stack.read(x))
        ]

    def _group(self, stack: MixedMembers, scale: int, rows: Rows) -> Group:
        layout, members = stack.layout, self.tools.kinds[scale]
        numbers = self.known[:, layout.numbers]
        filled = numbers & ~rows.empty
        own = stack.log_w.double()[self.tools.mixtures[scale]]
        flat = (members.log_w.double().log_softmax(1) + own[:, None]).flatten()
        mean, root = members.mean.double().flatten(0, 1), members.root.double().flatten(0, 1)
        log_gap = members.log_gap.double().flatten(0, 1)
        precision = root.mT @ root
        d = torch.where(filled[:, None], rows.scores.point[:, None] - mean, 0.0)
        unknown = (~filled).to(d)[:, None]
        pull = torch.einsum("nkc,kcd->nkd", d, precision)
        b = pull * unknown
        outer = unknown[..., None] * unknown[..., None, :]
        a = precision * outer + torch.diag_embed(filled.to(d))[:, None]
        lower = torch.linalg.cholesky_ex(a)[0]
        shift = -torch.cholesky_solve(b[..., None], lower)[..., 0]
        log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_det = log_det - lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        square = (pull * d).sum(-1) + (b * shift).sum(-1)
        log_w = flat + log_det - 0.5 * square
        count, widths = filled.sum(1).to(d), (rows.scores.log_width * filled).sum(1)
        log_w = log_w + (widths - 0.5 * math.log(2 * math.pi) * count)[:, None]
        may = torch.tensor(layout.gaps, dtype=torch.bool, device=d.device)
        for which, i in ((filled & may, 0), (numbers & rows.empty, 1)):
            log_w = log_w + which.to(d) @ log_gap[..., i].T
        categories = []
        for g in range(len(layout.sizes)):
            table = members.category(g).double().flatten(0, 1)
            # One that is not known may have a place that is none.
            seen = table[:, rows.places[:, g].clamp(max=table.shape[1] - 1)].T
            log_w = log_w + torch.where(self.known[:, [layout.categories[g]]], seen, 0.0)
            categories.append(table)
        return Group(log_w, mean + d + shift, lower, log_gap, categories)

    @property
    def log_evidence(self) -> Tensor:
        """The log-density of what is known `(n,)`; of cells, as narrow ones have it."""
        return torch.cat([group.log_w for group in self.groups], 1).logsumexp(1)

    def parts(self, c: int) -> Parts:
        """The mixture of a column of numbers that is not known, whatever the others are."""
        total = self.log_evidence[:, None]
        groups: list[tuple[Shape, int, Tensor, Tensor, Tensor]] = []
        for scale, group in enumerate(self.groups):
            unit = torch.zeros(group.mean.shape[-1], 1, dtype=torch.float64)
            unit[c] = 1.0
            unit = unit.to(group.mean).expand(*group.mean.shape, 1)
            solved = torch.linalg.solve_triangular(group.lower, unit, upper=False)
            log_s = 0.5 * solved.square().sum((-1, -2)).log()
            groups.append(("normal", scale, group.log_w - total, group.mean[..., c], log_s))
        gap = total.new_zeros(len(total))
        return Parts(groups, gap, self.tools.stack.layout.cells[c])

    def log_gaps(self, c: int) -> Tensor:
        """Of a filled and an empty cell of a column of numbers, in the first row `(2,)`."""
        parts = [
            (group.log_w[0, :, None] + group.log_gap[:, c]).logsumexp(0) for group in self.groups
        ]
        return torch.stack(parts).logsumexp(0).log_softmax(0)

    def log_probabilities(self, g: int) -> Tensor:
        """Of the values of a category that is not known `(n, values)`."""
        parts = [
            (group.log_w[..., None] + group.categories[g]).logsumexp(1) for group in self.groups
        ]
        return torch.stack(parts).logsumexp(0).log_softmax(1)

    def draw(
        self, count: int, generator: Generator | None, filled: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Rows with what is unknown drawn `(n, count, columns)`, and the log of their densities.

        On the scale of scores: so `MixedMembers.log_joint` less these are logarithms of
        importance weights.

        Args:
            count: how many for each row.
            generator: of all randomness.
            filled: whether unknown cells are no empty ones.
        """
        layout, n = self.tools.stack.layout, len(self.x)
        totals = torch.stack([group.log_w.logsumexp(1) for group in self.groups], 1).softmax(1)
        u = torch.rand(n, count, 2, generator=generator, dtype=torch.float64).to(self.x)
        noise = torch.randn(
            n, count, len(layout.numbers), generator=generator, dtype=torch.float64
        ).to(self.x)
        v = torch.rand(n, count, len(layout.columns), generator=generator, dtype=torch.float64).to(
            self.x
        )
        which = pick(totals.repeat_interleave(count, 0), u[..., 0].flatten())
        x = self.x.repeat_interleave(count, 0)
        known = self.known.repeat_interleave(count, 0)
        log_q = x.new_zeros(len(x))
        for scale, group in enumerate(self.groups):
            mine = (which == scale).nonzero()[:, 0]
            if len(mine):
                drawn = self._draw_group(
                    scale,
                    group,
                    mine // count,
                    known[mine],
                    x[mine],
                    u[..., 1].flatten()[mine],
                    noise.flatten(0, 1)[mine],
                    v.flatten(0, 1)[mine],
                    filled,
                )
                x[mine], log_q[mine] = drawn
        return x.unflatten(0, (n, count)), log_q.unflatten(0, (n, count))

    def _draw_group(
        self,
        scale: int,
        group: Group,
        row: Tensor,
        known: Tensor,
        x: Tensor,
        u: Tensor,
        noise: Tensor,
        v: Tensor,
        filled: bool,
    ) -> tuple[Tensor, Tensor]:
        stack = self.tools.stack
        layout = stack.layout
        log_w = group.log_w[row].log_softmax(1)
        k = pick(log_w.exp(), u)
        free = ~known[:, layout.numbers]
        may = torch.tensor(layout.gaps, dtype=torch.bool, device=x.device)
        share = group.log_gap[k, :, 1].exp()
        gap = free & may & (v[:, layout.numbers] < share) & (not filled)
        lower = group.lower[row, k]
        step = torch.linalg.solve_triangular(lower.mT, noise[..., None], upper=True)[..., 0]
        y = (group.mean[row, k] + step).clamp(-37.0, 37.0)
        for c, i in enumerate(layout.numbers):
            some = (free[:, c] & ~gap[:, c]).nonzero()[:, 0]
            if len(some):
                x[some, i] = self.tools.inverse(scale, c)(y[some, c])
            x[:, i] = torch.where(gap[:, c], math.nan, x[:, i])
        # All that is unknown has a score, an empty cell too: the score says nothing then.
        hidden = free | (self.known & self.x.isnan())[row][:, layout.numbers]
        e = torch.einsum("nkji,nkj->nki", group.lower[row], y[:, None] - group.mean[row])
        terms = -0.5 * (e * e + math.log(2 * math.pi)) * hidden[:, None]
        log_det = group.lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)[row]
        joint = log_w + terms.sum(-1) + log_det
        if not filled:
            for mask, i in ((free & may & ~gap, 0), (gap, 1)):
                joint = joint + mask.to(joint) @ group.log_gap[..., i].T
        for g, i in enumerate(layout.categories):
            some = ~known[:, i]
            if bool(some.any()):
                p = group.categories[g].exp()[k]
                column = layout.columns[i]
                if column.missing and filled:
                    p[:, -1] = 0.0
                place = pick(p, v[:, i])
                seen = group.categories[g][:, place].T
                joint = joint + torch.where(some[:, None], seen, 0.0)
                if column.missing and filled:
                    rest = torch.log1p(-group.categories[g][:, -1].exp().clamp(max=1 - 1e-12))
                    joint = joint - torch.where(some[:, None], rest, 0.0)
                empty = bool(column.missing) & (place == layout.sizes[g] - 1)
                value = torch.where(empty, math.nan, place.to(x))
                x[:, i] = torch.where(some, value, x[:, i])
        # The scores behind empty cells are drawn, but normal noise by the target.
        unseen = hidden & x[:, layout.numbers].isnan()
        behind = -0.5 * (y * y + math.log(2 * math.pi)) * unseen
        log_q = joint.logsumexp(1) - behind.sum(1)
        # The target's scores are normal within cells: the first and the last of a grid have no end.
        zero = torch.zeros_like(y[:1, :1])
        widths = normal_log_prob(stack.read(x)[scale].scores, zero, zero)
        widths = widths + 0.5 * (y * y + math.log(2 * math.pi))
        return x, log_q + (widths * (free & ~gap)).sum(1)
