"""Masked networks that predict the distribution of each column from the columns before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffeo.bijections.mixture_cdf import first_components
from diffeo.bijections.mixture_fused import LOG_SCALE
from diffeo.bijections.quantiles import NOISE
from diffeo.mixed.marginals import split
from diffeo.mixed.rows import Layout, Rows
from diffeo.mixed.scores import Scores, logistic_log_prob, logit_of_normal
from diffeo.schema import Column
from diffeo.utils.config import Configurable
from diffeo.utils.ranges import Count, Whole

EVERY = slice(None)
FAR = 6.0  # scores beyond which a network sees no difference
ERRORS = (0.4, 0.75, 0.95)  # of a regression: quantiles that are scales of components at the start
NEAR = len(ERRORS)  # components at a value that is expected
LOG_SCALES = -6.0, 0.0  # of those: no narrower than what `answers` can find, no wider than noise
MOST = 12.0  # logistic scores, beyond which no component has its mean
NEAR_SIZE = 1 + 3 * NEAR  # outputs of a network for them


class MaskedLinears(nn.Module):
    """A linear layer for each of several networks, with the same mask.

        out_e = (W_e * mask)^T h_e + b_e

    Rows come last, `(members, units, n)`: sums over the components of each then run along rows.

    Args:
        members: how many networks.
        mask: `(outputs, inputs)`, of zeros and ones.
        zero: whether weights start at zero.
    """

    mask: Tensor

    def __init__(self, members: int, mask: Tensor, zero: bool = False) -> None:
        super().__init__()
        weight = torch.zeros(members, *mask.T.shape)
        if not zero:
            seen = mask.sum(1).clamp(min=1).to(weight.device)
            weight = weight.normal_() * (2 / seen).sqrt()
        self.weight: nn.Parameter = nn.Parameter(weight)
        self.bias: nn.Parameter = nn.Parameter(torch.zeros(members, 1, len(mask)))
        self.register_buffer("mask", mask.T.to(weight.dtype).contiguous(), persistent=False)

    def forward(self, h: Tensor, members: slice = EVERY, outputs: slice = EVERY) -> Tensor:
        """Some outputs of some of the networks."""
        weight = self.weight[members][..., outputs] * self.mask[:, outputs]
        return torch.baddbmm(self.bias[members][..., outputs].mT, weight.mT, h)


class NetworkMembers(Configurable, nn.Module):
    """Several masked networks with the same masks: a bag, each of which may learn other rows.

    The outputs for a column depend on the columns before it: of a number, the parameters of a
    mixture of logistic distributions of its logistic scores, whose cells have exact probabilities,
    with a place and a scale of the whole, so that sharp distributions are learned soon;
    of a category, the logits of its values; and the logit of a gap. Outputs of zero are nearly the
    distribution of each column on its own.

    Args:
        columns: of the table.
        first: columns that come first (see `Layout`).
        members: how many networks.
        hidden: width of the layers.
        blocks: residual blocks of two layers.
        components: of the mixtures.
        expected: columns that `Regressors` expect, as places among the numbers. Their distribution
            has some more components, whose means start at the value that is expected.
        bins: how many bins of equal probability each number is split into. Networks see how far
            it passed through each, so that they learn what changes soon with a number.

    (Germain et al. 2015; Nash & Durkan 2019; of bins: Gorishniy et al. 2022)
    """

    def __init__(
        self,
        columns: Sequence[Column],
        first: Sequence[Whole] = (),
        members: Count = 1,
        hidden: Count = 128,
        blocks: Whole = 2,
        components: Count = 12,
        expected: Sequence[Whole] = (),
        bins: Whole = 0,
    ) -> None:
        super().__init__()
        layout = Layout(columns, first)
        self.layout: Layout = layout
        self.members = members
        self.components = components
        self.expected: tuple[int, ...] = tuple(expected)
        self.bins = bins
        rank = {place: number + 1 for number, place in enumerate(layout.order)}
        inputs = [layout.table_order.index(i) + 1 for i in layout.owners]
        inputs += [rank[True, c] - 1 for c in expected]
        inputs += [rank[True, c] for c in range(len(layout.numbers)) for _ in range(bins)]
        self.size: int = 3 * components + 2  # outputs of a number
        outputs = [rank[True, c] for c in range(len(layout.numbers)) for _ in range(self.size)]
        outputs += [rank[True, c] for c, gap in enumerate(layout.gaps) if gap]
        outputs += [rank[False, g] for g, size in enumerate(layout.sizes) for _ in range(size)]
        outputs += [rank[True, c] for c in expected for _ in range(NEAR_SIZE)]
        # Units that see nothing but what comes first, up to those that see all but the last.
        low = min(len(first), len(columns) - 1)
        degrees = low + torch.arange(hidden, device="cpu") * (len(columns) - low) // hidden
        ins, outs = torch.tensor(inputs, device="cpu"), torch.tensor(outputs, device="cpu")
        among = degrees[:, None] >= degrees
        self.enter: MaskedLinears = MaskedLinears(members, degrees[:, None] >= ins)
        self.blocks: nn.ModuleList = nn.ModuleList(
            nn.ModuleList((MaskedLinears(members, among), MaskedLinears(members, among, zero=True)))
            for _ in range(blocks)
        )
        self.leave: MaskedLinears = MaskedLinears(members, outs[:, None] > degrees, zero=True)
        self.places: list[float]
        self.scale: float
        self.places, self.scale = first_components(components, NOISE["logistic"])

    def hidden(self, rows: Rows, members: slice = EVERY) -> Tensor:
        """The last hidden layer of some members `(members, hidden, n)`."""
        features = self._features(rows).T
        h = self.enter(features.expand(len(self.enter.weight[members]), -1, -1), members)
        pairs: Any = self.blocks
        for first, second in pairs:
            h = h + second(F.relu(first(F.relu(h), members)), members)
        return F.relu(h)

    def column(
        self, h: Tensor, number: bool, place: int, expected: Tensor, members: slice = EVERY
    ) -> tuple[Tensor, ...]:
        """The distribution of one column under some members, from their hidden layer.

        Args:
            h: the hidden layer.
            number: whether the column is one of numbers.
            place: of the column among them, or among the categories.
            expected: scores that are expected (see `Rows`).
            members: which.

        Returns:
            Of a number log-weights, means and log-scales `(members, K, n)`, and the logit of a gap
            `(members, n)` where there may be one; of a category log-probabilities
            `(members, values, n)`.
        """
        layout = self.layout
        gap = self.size * len(layout.numbers)
        if not number:
            start = gap + sum(layout.gaps) + sum(layout.sizes[:place])
            own = slice(start, start + layout.sizes[place])
            return (self.leave(h, members, own).log_softmax(1),)
        own = slice(self.size * place, self.size * (place + 1))
        found: tuple[Tensor, ...] = self.mixture(self.leave(h, members, own))
        if place in self.expected:
            at = self.expected.index(place)
            start = gap + sum(layout.gaps) + sum(layout.sizes) + at * NEAR_SIZE
            out = self.leave(h, members, slice(start, start + NEAR_SIZE))
            gate, near = _near(out, expected[:, at])
            far = (found[0] + F.logsigmoid(-gate), *found[1:])
            parts = zip(far, (near[0] + F.logsigmoid(gate), *near[1:]), strict=True)
            found = tuple(torch.cat(pair, 1) for pair in parts)
        if not layout.gaps[place]:
            return found
        gap += sum(layout.gaps[:place])
        return (*found, self.leave(h, members, slice(gap, gap + 1))[:, 0])

    def log_prob(self, rows: Rows, scores: Scores, first: int = 0) -> Tensor:
        """The log-probability of rows `(members, n)`.

        Args:
            rows: of the table.
            scores: logistic ones (see `logistic_scores`).
            first: how many columns come first and are conditions.
        """
        layout = self.layout
        order = layout.order[first:]
        out = self.leave(self.hidden(rows))
        count = self.size * len(layout.numbers)
        near = [NEAR_SIZE] * len(self.expected)
        widths = [count, sum(layout.gaps), *layout.sizes, *near]
        numbers, gaps, *rest = out.split(widths, dim=1)
        categories, near_outputs = rest[: len(layout.sizes)], rest[len(layout.sizes) :]
        found = out.new_zeros(len(out), len(rows))
        which = [place for number, place in order if number]
        if which:
            numbers = numbers.unflatten(1, (-1, self.size))
            known = out.new_zeros(len(out), len(layout.numbers), len(rows))
            for some, cells in split(layout.kinds, min(which)):
                parts = Scores(*(part[:, some].T[:, None].contiguous() for part in scores))
                log_w, mean, log_s = self.mixture(numbers[:, some])
                log_p = log_w + logistic_log_prob(parts, mean, log_s, cells)
                known[:, some] = log_p.logsumexp(-2)
            for at, c in enumerate(self.expected):
                parts = Scores(*(part[:, c] for part in scores))
                gate, (log_w, mean, log_s) = _near(near_outputs[at], rows.expected[:, at])
                log_p = log_w + logistic_log_prob(parts, mean, log_s, layout.cells[c])
                far = known[:, c] + F.logsigmoid(-gate[:, 0])
                known[:, c] = torch.logaddexp(far, F.logsigmoid(gate[:, 0]) + log_p.logsumexp(1))
            if any(layout.gaps):
                logits = torch.zeros_like(known)
                logits[:, [c for c, gap in enumerate(layout.gaps) if gap]] = gaps
                may = torch.tensor(layout.gaps, device=logits.device)[:, None]
                known = known + torch.where(may, F.logsigmoid(-logits), 0.0)
                known = torch.where(rows.empty.T, F.logsigmoid(logits), known)
            found = known[:, min(which) :].sum(1)
        for number, place in order:
            if not number:
                table = categories[place].log_softmax(1)
                index = rows.places[:, place].expand(len(table), 1, -1)
                found = found + table.gather(1, index)[:, 0]
        return found

    def mixture(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights, means and log-scales `(..., K, n)` of outputs `(..., 3 K + 2, n)`.

        The last two are the place and the log-scale of the mixture as a whole.
        """
        *parts, whole = numbers.split([self.components] * 3 + [2], -2)
        logits, shift, change = parts
        place, log_whole = whole[..., :1, :], whole[..., 1:, :]
        log_whole = LOG_SCALE * torch.tanh(log_whole / LOG_SCALE)
        places = torch.tensor(self.places, dtype=shift.dtype, device=shift.device)[:, None]
        log_scale = math.log(self.scale) + LOG_SCALE * torch.tanh(change / LOG_SCALE)
        mean = place + log_whole.exp() * (shift + places)
        log_scale = (log_whole + log_scale).clamp(max=0.0)
        return logits.log_softmax(-2), mean.clamp(-MOST, MOST), log_scale

    def start(self, rows: Rows, scores: Scores) -> None:
        """Set what is known before: the shares of categories and gaps, the errors of regressions.

        Args:
            rows: of the table.
            scores: logistic ones.
        """
        layout = self.layout
        count = self.size * len(layout.numbers)
        with torch.no_grad():
            bias = self.leave.bias
            gaps = [c for c, gap in enumerate(layout.gaps) if gap]
            share = rows.empty[:, gaps].to(bias).mean(0).clamp(1e-4, 1 - 1e-4)
            bias[..., count : count + len(gaps)] = share.logit()
            at = count + len(gaps)
            for g, size in enumerate(layout.sizes):
                seen = rows.places[:, g].bincount(minlength=size).to(bias)
                bias[..., at : at + size] = ((seen + 0.5) / (seen.sum() + 0.5 * size)).log()
                at += size
            for j, c in enumerate(self.expected):
                error = (scores.point[:, c] - logit_of_normal(rows.expected[:, j])).abs()
                error = error[~rows.empty[:, c]].to(bias)
                for k, level in enumerate(ERRORS):
                    spread = error.kthvalue(max(1, round(level * len(error)))).values
                    bias[..., at + NEAR_SIZE - NEAR + k] = spread.log().clamp(LOG_SCALES[0], 0.0)
                at += NEAR_SIZE

    def _features(self, rows: Rows) -> Tensor:
        numbers = rows.scores.point.clamp(-FAR, FAR)
        seen = self.layout.features(numbers, rows.empty, rows.places, rows.waves)
        parts = [seen, rows.expected.to(seen).clamp(-FAR, FAR)]
        starts = torch.arange(self.bins, dtype=seen.dtype, device=seen.device)
        passed = self.bins * torch.special.ndtr(numbers.to(seen))[..., None] - starts
        return torch.cat((*parts, passed.clamp(0, 1).flatten(1)), 1)


def _near(out: Tensor, expected: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Components at the value that is expected: the logit of their share, and what they are.

    Args:
        out: of a network for them `(members, NEAR_SIZE, n)`.
        expected: the normal score of the value `(n,)`.
    """
    gate, logits, shift, log_s = out.split([1, NEAR, NEAR, NEAR], 1)
    log_s = log_s.clamp(*LOG_SCALES)
    mean = logit_of_normal(expected).to(out) + log_s.exp() * shift
    return gate, (logits.log_softmax(1), mean, log_s)
