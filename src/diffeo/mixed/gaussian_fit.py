"""Fit mixtures to folds of a table by expectation maximization, and choose the best by the rest."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from diffeo.bijections.expectation import k_means
from diffeo.mixed.gaussians import PRIOR, GaussianMembers
from diffeo.mixed.rows import Layout, Rows

COMPONENTS = (1, 2, 3, 5, 8, 13, 21, 34)
RIDGES = (0.1, 0.01, 1e-3)
FIRST, MORE = 25, 8  # iterations
POOLED = 10.0  # rows of all components on average, that each adds to covariances and gaps


def fit_gaussians(
    rows: Rows,
    layout: Layout,
    folds: Tensor,
    members: int,
    weights: Tensor | None = None,
    ignored: int = 0,
) -> GaussianMembers:
    """Mixtures that each leave one fold out, with the components and ridge that predict it best.

    Args:
        rows: of the table, with scores in float32.
        layout: of its columns.
        folds: of each row `(n,)`; member e does not learn rows of fold e.
        members: how many.
        weights: how much each row counts.
        ignored: how many columns come first and are conditions: their probability does not count.

    (Dempster et al. 1977)
    """
    n = len(rows)
    drawn = _drawn(rows)
    w = (folds[None] != torch.arange(members)[:, None]).to(rows.scores.point.dtype)
    w = w if weights is None else w * weights.to(w)
    features = _features(drawn, layout)
    best: tuple[float, GaussianMembers] | None = None
    falls = 0
    held = folds < members
    for k in COMPONENTS:
        if k * 4 > n:
            break
        shares = k_means(features, k, Generator().manual_seed(k))
        top = -math.inf
        mixture = None
        for number, ridge in enumerate(RIDGES):
            mixture = _em(drawn, layout, w, shares, ridge, FIRST if number == 0 else MORE, mixture)
            score = _held_out(mixture, rows, layout, folds, held, weights, ignored)
            if score <= top:
                break
            top = score
            if best is None or score > best[0]:
                best = score, mixture
        falls = falls + 1 if best is not None and top < best[0] else 0
        if falls == 2:
            break
    assert best is not None
    return best[1]


def _drawn(rows: Rows) -> Rows:
    """Rows with a score drawn from the cell of each value.

    So their distribution is normal, and cells as wide as that of a zero that is frequent are no
    points on which components would collapse.
    """
    normal, scores = torch.distributions.Normal(0.0, 1.0), rows.scores
    low, high = normal.cdf(scores.low.double()), normal.cdf(scores.high.double())
    source = Generator().manual_seed(0)
    u = torch.rand(low.shape, generator=source, dtype=low.dtype)
    drawn = normal.icdf((low + u * (high - low)).clamp(1e-12, 1 - 1e-12)).to(scores.point)
    wide = scores.high - scores.low > 1e-3
    scores = scores._replace(point=torch.where(wide, drawn, scores.point))
    return rows.having(scores=scores)


def held_out(
    members: GaussianMembers, rows: Rows, layout: Layout, folds: Tensor, ignored: int = 0
) -> Tensor:
    """The log-probability of each row under the member that left it out; 0 where none did."""
    found = torch.zeros(len(rows))
    count = len(members.log_w)
    for start in range(0, len(rows), 4_096):
        part = slice(start, start + 4_096)
        log_p = members.log_prob(rows.take(part), layout, ignored)
        fold = folds[part].clamp(max=count - 1)
        found[part] = torch.where(folds[part] < count, log_p.gather(1, fold[:, None])[:, 0], 0.0)
    return found


def _held_out(
    members: GaussianMembers,
    rows: Rows,
    layout: Layout,
    folds: Tensor,
    held: Tensor,
    weights: Tensor | None,
    ignored: int,
) -> float:
    log_p = held_out(members, rows, layout, folds, ignored)
    w = held.to(log_p) if weights is None else held * weights.to(log_p)
    return float((log_p * w).sum() / w.sum())


def _features(rows: Rows, layout: Layout) -> Tensor:
    parts = [rows.scores.point]
    for g, size in enumerate(layout.sizes):
        parts.append(torch.nn.functional.one_hot(rows.places[:, g], size).to(parts[0]))
    return torch.cat(parts, 1)


def _em(
    rows: Rows,
    layout: Layout,
    w: Tensor,
    shares: Tensor,
    ridge: float,
    iterations: int,
    start: GaussianMembers | None,
) -> GaussianMembers:
    members, k = len(w), len(shares)
    numbers = rows.empty.shape[1]
    found = GaussianMembers(numbers, layout.sizes, members, k)
    if start is not None:
        found.load_state_dict(start.state_dict())
    r = w[:, None] * shares  # (members, K, n)
    before = torch.full((members,), -math.inf)
    for step in range(iterations):
        d = found.centred(rows, layout)
        if step or start is not None:
            log_p = found.log_joint(rows, layout, points=True, d=d)  # (members, K, n)
            total = log_p.logsumexp(1)
            r = (log_p - total[:, None]).exp() * w[:, None]
            now = (total * w).sum(1) / w.sum(1)
            if step and bool((now - before < 3e-4).all()):
                break
            before = now
        _maximize(found, rows, layout, d, r, ridge)
    return found


def _maximize(
    found: GaussianMembers, rows: Rows, layout: Layout, d: Tensor, r: Tensor, ridge: float
) -> None:
    """The likeliest members by shares r of components in rows, less their means so far d.

    Covariances and shares of gaps are drawn to what they are in all components on average, as if
    each had so many more rows (Friedman 1989), so that small components are worth having.
    """
    count = r.sum(2, keepdim=True) + 1e-6  # (members, K, 1)
    total = count.sum(1, keepdim=True)
    numbers = rows.empty.shape[1]
    found.log_w.copy_((count / total)[..., 0].log())
    if numbers:
        shift = (d @ r[..., None])[..., 0] / count
        gaps = torch.einsum("mkn,nc->mkc", r, rows.empty.to(r))
        # A missing number is what is expected of it, give or take what columns before leave open.
        open_variance = gaps / found.root.diagonal(dim1=-2, dim2=-1).square()
        scatter = (r[:, :, None] * d) @ d.mT + torch.diag_embed(open_variance)
        scatter = scatter - (count * shift)[..., None] * shift[..., None, :]
        pooled = scatter.sum(1, keepdim=True) / total[..., None]
        covariance = (scatter + POOLED * pooled) / (count[..., None] + POOLED)
        eye = torch.eye(numbers)
        lower = torch.linalg.cholesky_ex(covariance + ridge * eye)[0]
        root = torch.linalg.solve_triangular(lower, eye.expand_as(lower), upper=False)
        found.mean.add_(shift)
        found.root.copy_(root)
        share = _drawn_to(rows.empty.to(r).mean(0), gaps, count).clamp(1e-6, 1 - 1e-6)
        found.log_gap.copy_(torch.stack(((1 - share).log(), share.log()), -1))
    for g, size in enumerate(layout.sizes):
        hot = torch.nn.functional.one_hot(rows.places[:, g], size).to(r)
        seen = torch.einsum("mkn,nv->mkv", r, hot)
        prior = (hot.sum(0) + 0.5) / (len(hot) + 0.5 * size)
        p = seen + PRIOR * prior
        if layout.columns[layout.categories[g]].missing:
            gap = _drawn_to(prior[-1:], seen[..., -1:], count)
            p = torch.cat((p[..., :-1].div(p[..., :-1].sum(2, keepdim=True)) * (1 - gap), gap), 2)
        found.category(g).copy_(p.log().log_softmax(2))


def _drawn_to(mean: Tensor, seen: Tensor, count: Tensor) -> Tensor:
    """Shares of what was seen in components, drawn to the mean."""
    return (seen + POOLED * mean) / (count + POOLED)
