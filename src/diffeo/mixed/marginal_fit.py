"""Fit the distributions of single columns: mixtures on three scales, and masses of values."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from diffeo.mixed.columns import ARSINH, LINEAR, LOG
from diffeo.mixed.density_tree import fit_pieces
from diffeo.mixed.marginals import Marginals
from diffeo.schema import NumberColumn

COMPONENTS = (1, 2, 3, 5, 8, 12)  # to choose among
BINS = 128  # of the values of a column
ITERATIONS = 80  # of EM
LEVELS = 4_096  # most values of a column with a grid that have masses
ROUNDS = 2  # of the smooth part, and of the share of the masses


class Values:
    """The distinct values of a column, with how often they occur."""

    def __init__(self, column: NumberColumn, x: Tensor, weights: Tensor) -> None:
        known = ~x.isnan()
        x, weights = x[known], weights[known]
        if column.step > 0:
            x = ((x - column.origin) / column.step).round()
        levels, place = x.unique(return_inverse=True)
        self.levels: Tensor = levels
        self.counts: Tensor = weights.new_zeros(len(self.levels)).index_add_(0, place, weights)
        self.x: Tensor = levels * column.step + column.origin if column.step > 0 else levels
        self.total: float = float(self.counts.sum())


def fit_marginals(
    columns: list[NumberColumn], x: Tensor, weights: Tensor | None = None, *, plain: bool = False
) -> Marginals:
    """The marginal distributions of columns x `(n, D)`, NaN where a cell is empty.

    Args:
        columns: what each is.
        x: float64.
        weights: how often each row counts `(n,)`.
        plain: one normal distribution for each column, and no masses of the values on a grid, so
            that scores are nearly standardized values.
    """
    weights = torch.ones_like(x[:, 0]) if weights is None else weights.to(x)
    tables = [Values(c, x[:, i], weights) for i, c in enumerate(columns)]
    seen = [_have_masses(c, t, plain) for c, t in zip(columns, tables, strict=True)]
    levels = max([int(masses.sum()) for masses in seen], default=1)
    marginals = Marginals(columns, levels, 1 if plain else COMPONENTS[-1])
    smooth = [
        table.counts * (~masses if column.step == 0 else torch.ones_like(masses))
        for column, table, masses in zip(columns, tables, seen, strict=True)
    ]
    for number in range(ROUNDS):
        if number and float(marginals.share.max()) < 0.01:
            break  # the smooth parts would be the same
        _fit_smooth(marginals, columns, tables, smooth, plain)
        for i, (column, table, masses) in enumerate(zip(columns, tables, seen, strict=True)):
            if not bool(masses.any()):
                continue
            marginals.share[i], smooth[i] = _masses(marginals, i, column, table, masses)
            counts = table.counts[masses]
            marginals.values[i, : len(counts)] = table.levels[masses]
            marginals.masses[i, : len(counts)] = counts / counts.sum()
    return marginals if plain else _with_pieces(marginals, columns, tables, smooth)


def _with_pieces(
    marginals: Marginals,
    columns: list[NumberColumn],
    tables: list[Values],
    counts: list[Tensor],
) -> Marginals:
    """The marginals, with pieces for continuous columns where mixtures are too smooth."""
    found = {}
    for i, (column, table, count) in enumerate(zip(columns, tables, counts, strict=True)):
        used = count > 0
        if column.step == 0 and int(used.sum()) > 1:
            u = marginals.one(i).smooth_cdf(table.x[used, None])[:, 0]
            found[i] = fit_pieces(u, count[used])
    most = max([len(below) - 1 for _, below in found.values()], default=1)
    smaller, (levels, components) = marginals, (marginals.values.shape[1], marginals.mean.shape[1])
    marginals = Marginals(columns, levels, components, most)
    marginals.load_smaller(smaller)
    for i, (ends, below) in found.items():
        marginals.ends[i, : len(ends)], marginals.below[i, : len(below)] = ends, below
    return marginals


def _have_masses(column: NumberColumn, table: Values, plain: bool) -> Tensor:
    """Which of the values may have a mass of their own."""
    if column.step == 0:
        return torch.isin(table.levels, torch.tensor(column.atoms, dtype=table.levels.dtype))
    if plain:
        return torch.zeros_like(table.counts, dtype=torch.bool)
    return table.counts > (1.5 if len(table.levels) > LEVELS else 0.0)


def _masses(
    marginals: Marginals, i: int, column: NumberColumn, table: Values, masses: Tensor
) -> tuple[float, Tensor]:
    """The share of the masses that is likeliest, and how much of each value is not of them."""
    counts = table.counts
    if column.step == 0:
        share = float(counts[masses].sum()) / table.total
        return share, counts * ~masses
    if table.total <= 1:
        return 0.0, counts
    one = marginals.one(i)
    one = replace(one, share=torch.zeros_like(one.share))
    smooth = one(table.x[:, None])[0][:, 0].exp()
    # Without the row itself: a value that occurs once has no mass.
    left = ((counts - 1).clamp(min=0) / (table.total - 1)) * masses
    share = 0.5
    for _ in range(50):
        part = share * left / (share * left + (1 - share) * smooth).clamp(min=1e-300)
        share = min(float((counts * part).sum()) / table.total, 0.999)
    return share, (counts * (1 - part)).clamp(min=1e-6)


def _fit_smooth(
    marginals: Marginals,
    columns: list[NumberColumn],
    tables: list[Values],
    counts: list[Tensor],
    plain: bool,
) -> None:
    """Set the smooth parts, each on the scale and with the components of the best BIC."""
    jobs = []
    for i, (column, table, count) in enumerate(zip(columns, tables, counts, strict=True)):
        used = count > 0
        if int(used.sum()) == 0:
            marginals.place[i] = 0.0
            continue
        scales = _scales(column, table.x[used], count[used])
        for kind, place, unit in scales[:1] if plain else scales:
            jobs.append(
                (
                    i,
                    kind,
                    place,
                    unit,
                    *_binned(column, table.x[used], count[used], kind, place, unit),
                )
            )
    if not jobs:
        return
    size = max(len(job[4]) for job in jobs)
    dtype = torch.float64
    y, w = torch.zeros(len(jobs), size, dtype=dtype), torch.zeros(len(jobs), size, dtype=dtype)
    floor = torch.zeros(len(jobs), size, dtype=dtype)
    for j, job in enumerate(jobs):
        y[j, : len(job[4])], w[j, : len(job[4])], floor[j, : len(job[4])] = job[4], job[5], job[6]
    total = w.sum(1)
    slope = torch.stack([(job[5] * job[7]).sum() for job in jobs])
    best: dict[int, tuple[float, int, Tensor]] = {}
    for k in COMPONENTS[:1] if plain else COMPONENTS:
        fit, log_like = _em(y, w, floor, k)
        penalty = 0.5 * (3 * k - 1) * total.clamp(min=2).log()
        score = log_like + slope - penalty
        for j, (i, *_rest) in enumerate(jobs):
            if i not in best or float(score[j]) > best[i][0]:
                best[i] = (float(score[j]), j, torch.stack([part[j] for part in fit]))
    for i, (_, j, (log_w, mean, scale)) in best.items():
        _, kind, place, unit = jobs[j][:4]
        marginals.kind[i], marginals.place[i], marginals.unit[i] = kind, place, unit
        k = len(log_w)
        marginals.log_w[i], marginals.mean[i], marginals.scale[i] = -1e30, 0.0, 1.0
        marginals.log_w[i, :k], marginals.mean[i, :k], marginals.scale[i, :k] = log_w, mean, scale


def _scales(column: NumberColumn, x: Tensor, counts: Tensor) -> list[tuple[int, float, float]]:
    """The scales to try, each with its place and unit."""
    mean = float((x * counts).sum() / counts.sum())
    spread = float(((x - mean).square() * counts).sum() / counts.sum()) ** 0.5
    spread = spread or column.step or abs(mean) or 1.0
    order = x.argsort()
    share = counts[order].cumsum(0) / counts.sum()
    quarter, median, third = (
        float(x[order][(share >= p).nonzero()[0, 0]]) for p in (0.25, 0.5, 0.75)
    )
    narrow = max((third - quarter) / 2, 1e-3 * spread, column.step / 2)
    found = [(LINEAR, mean, spread), (ARSINH, median, narrow)]
    if column.low is not None:
        edge = column.low - column.step / 2
        if float(x.min()) > edge:
            found.append((LOG, edge, max(median - edge, 1e-3 * spread)))
    return found


def _binned(
    column: NumberColumn, x: Tensor, counts: Tensor, kind: int, place: float, unit: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values on a scale in at most 128 bins: means, counts, least variances, log slopes."""
    one = Marginals([column])
    one.kind[0], one.place[0], one.unit[0] = kind, place, unit
    y, log_slope = (part[:, 0] for part in one.one(0).scaled(x[:, None]))
    cell = column.step * log_slope.exp()
    order = y.argsort()
    y, c, cell, log_slope = y[order], counts[order], cell[order], log_slope[order]
    if len(y) > BINS:
        share = (c.cumsum(0) - c / 2) / c.sum()
        # Half of the bins by how many values they hold, half by the logits of the shares: otherwise
        # the first and last of them would hold tails that may be a thousand times as long.
        tails = torch.logit(share) / (2 * torch.logit(share[-1]))
        place_of = ((share + 0.5 + tails) / 2 * BINS).long().clamp(0, BINS - 1)
        sums = torch.zeros(4, BINS, dtype=y.dtype)
        sums.index_add_(1, place_of, torch.stack((c, c * y, c * cell, c * log_slope)))
        used = sums[0] > 0
        c, *others = sums[:, used]
        y, cell, log_slope = (part / c for part in others)
    return y, c, (cell / 2).square(), log_slope


def _em(
    y: Tensor, w: Tensor, floor: Tensor, k: int
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Mixtures of k components of rows of weighted values `(jobs, bins)`, and log-likelihoods.

    Each part of a mixture is `(jobs, k)`.
    """
    total = w.sum(1)
    mean_all = (w * y).sum(1) / total
    var_all = (w * (y - mean_all[:, None]).square()).sum(1) / total
    order = torch.where(w > 0, y, math.inf).argsort(1)
    share = w.gather(1, order).cumsum(1) / total[:, None]
    targets = (torch.arange(k, dtype=y.dtype) + 0.5) / k
    place = torch.searchsorted(share, targets.expand(len(y), k).contiguous())
    mean = y.gather(1, order.gather(1, place.clamp(max=y.shape[1] - 1))).T
    var = (var_all / k**1.5).expand_as(mean).clamp(min=1e-12)
    log_w = torch.full_like(mean, -math.log(k))
    # No component is narrower than a hundredth of the column.
    least, before = var_all * 1e-4, torch.full_like(total, -math.inf)
    for step in range(ITERATIONS + 1):
        # Components first: sums over them then run along the memory.
        constant = log_w - 0.5 * (2 * math.pi * var).log()
        terms = constant[..., None] - (y - mean[..., None]).square() * (0.5 / var)[..., None]
        top = terms.amax(0)
        r = (terms - top).exp_()
        sums = r.sum(0)
        log_like = (w * (top + sums.log())).sum(1)
        if step == ITERATIONS or bool((log_like - before < 1e-4 * total.sqrt()).all()):
            break
        before = log_like
        r = r * (w / sums)
        count = r.sum(2).clamp(min=1e-10)
        mean = (r * y).sum(2) / count
        var = (r * (y - mean[..., None]).square()).sum(2) / count
        bound = ((r * floor).sum(2) / count).maximum(least)
        var = (var + bound / 3).maximum(bound).clamp(min=1e-12)
        log_w = (count / total).log()
    return (log_w.T, mean.T, var.sqrt().T), log_like
