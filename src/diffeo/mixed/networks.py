"""Masked networks that predict the distribution of each column from the columns before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffeo.bijections.mixture_cdf import LOG_SCALE, first_components
from diffeo.bijections.quantiles import NOISE
from diffeo.mixed.rows import Layout, Rows
from diffeo.mixed.scores import Scores, logistic_log_prob
from diffeo.schema import Column
from diffeo.utils.config import Configurable
from diffeo.utils.ranges import Count, Whole

FAR = 6.0  # scores beyond which a network sees no difference


class MaskedLinears(nn.Module):
    """A linear layer for each of several networks, with the same mask.

        out_e = h_e (W_e * mask) + b_e

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
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(members, 1, len(mask)))
        self.register_buffer("mask", mask.T.to(weight.dtype).contiguous(), persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, h, self.weight * self.mask)

    def some(self, h: Tensor, members: slice, outputs: Tensor | slice) -> Tensor:
        """Some outputs of some of the networks."""
        weight = self.weight[members][..., outputs] * self.mask[:, outputs]
        return torch.baddbmm(self.bias[members][..., outputs], h, weight)


class NetworkMembers(Configurable, nn.Module):
    """Several masked networks with the same masks: a bag, each of which may learn other rows.

    The outputs for a column depend on the columns before it: of a number, the parameters of a
    mixture of logistic distributions of its logistic scores, whose cells have exact probabilities;
    of a category, the logits of its values; and the logit of a gap. Outputs of zero are nearly the
    distribution of each column on its own.

    Args:
        columns: of the table.
        first: columns that come first (see `Layout`).
        members: how many networks.
        hidden: width of the layers.
        blocks: residual blocks of two layers.
        components: of the mixtures.

    (Germain et al. 2015; Nash & Durkan 2019)
    """

    def __init__(
        self,
        columns: Sequence[Column],
        first: Sequence[Whole] = (),
        members: Count = 1,
        hidden: Count = 128,
        blocks: Whole = 2,
        components: Count = 12,
    ) -> None:
        super().__init__()
        self.layout = layout = Layout(columns, first)
        self.members, self.components = members, components
        rank = {place: number + 1 for number, place in enumerate(layout.order)}
        inputs = [rank[True, c] for c in range(len(layout.numbers))]
        inputs += [rank[True, c] for c, gap in enumerate(layout.gaps) if gap]
        inputs += [rank[False, g] for g, size in enumerate(layout.sizes) for _ in range(size)]
        outputs = [rank[True, c] for c in range(len(layout.numbers))] * (3 * components)
        outputs += [rank[True, c] for c, gap in enumerate(layout.gaps) if gap]
        outputs += [rank[False, g] for g, size in enumerate(layout.sizes) for _ in range(size)]
        # Units that see nothing but what comes first, up to those that see all but the last.
        low = min(len(first), len(columns) - 1)
        degrees = low + torch.arange(hidden, device="cpu") * (len(columns) - low) // hidden
        ins, outs = torch.tensor(inputs, device="cpu"), torch.tensor(outputs, device="cpu")
        among = degrees[:, None] >= degrees
        self.enter = MaskedLinears(members, degrees[:, None] >= ins)
        self.blocks = nn.ModuleList(
            nn.ModuleList((MaskedLinears(members, among), MaskedLinears(members, among, zero=True)))
            for _ in range(blocks)
        )
        self.leave = MaskedLinears(members, outs[:, None] > degrees, zero=True)
        self.places, self.scale = first_components(components, NOISE["logistic"])

    def forward(self, rows: Rows) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The raw parameters of all columns.

        Returns:
            Those of numbers `(members, n, 3, K, C)`, logits of gaps `(members, n, gaps)`, and of
            the values of each category `(members, n, values)`.
        """
        h = self.enter(self._features(rows).expand(self.members, -1, -1))
        pairs: Any = self.blocks
        for first, second in pairs:
            h = h + second(F.relu(first(F.relu(h))))
        out = self.leave(F.relu(h))
        layout = self.layout
        count = 3 * self.components * len(layout.numbers)
        numbers, gaps, *categories = out.split([count, sum(layout.gaps), *layout.sizes], dim=-1)
        shape = (3, self.components, len(layout.numbers))
        return numbers.unflatten(-1, shape), gaps, categories

    def predict(self, rows: Rows, number: bool, place: int, members: slice) -> tuple[Tensor, ...]:
        """The distribution of one column under some members, from the columns before it.

        Returns:
            Of a number log-weights, means and log-scales `(members, n, K)`, and the logit of a gap
            `(members, n)` where there may be one; of a category log-probabilities
            `(members, n, values)`.
        """
        layout, every = self.layout, slice(None)
        count = len(self.enter.weight[members])
        h = self.enter.some(self._features(rows).expand(count, -1, -1), members, every)
        pairs: Any = self.blocks
        for first, second in pairs:
            inner = first.some(F.relu(h), members, every)
            h = h + second.some(F.relu(inner), members, every)
        h, columns = F.relu(h), len(layout.numbers)
        at = 3 * self.components * columns
        if not number:
            start = at + sum(layout.gaps) + sum(layout.sizes[:place])
            own = slice(start, start + layout.sizes[place])
            return (self.leave.some(h, members, own).log_softmax(-1),)
        outputs = [i * columns + place for i in range(3 * self.components)]
        outputs += [at + sum(layout.gaps[:place])] * layout.gaps[place]
        out = self.leave.some(h, members, torch.tensor(outputs, device=h.device))
        size = 3 * self.components
        mixture = self.mixture(out[..., :size].unflatten(-1, (3, self.components, 1)))
        found = tuple(part[..., 0] for part in mixture)
        return (*found, out[..., size]) if layout.gaps[place] else found

    def log_prob(self, rows: Rows, scores: Scores) -> Tensor:
        """The log-probability of each column, in the order of prediction `(members, n, columns)`.

        Args:
            rows: of the table.
            scores: logistic ones (see `logistic_scores`).
        """
        numbers, gaps, categories = self(rows)
        log_w, mean, log_s = self.mixture(numbers)
        parts = Scores(*(part[:, None] for part in scores))
        known = (log_w + logistic_log_prob(parts, mean, log_s)).logsumexp(2)
        if any(self.layout.gaps):
            logits = torch.zeros_like(known)
            with_gaps = [c for c, gap in enumerate(self.layout.gaps) if gap]
            logits[..., with_gaps] = gaps
            never = torch.tensor(self.layout.gaps, device=logits.device)
            present = torch.where(never, F.logsigmoid(-logits), 0.0)
            known = torch.where(rows.empty, F.logsigmoid(logits), known + present)
        found = []
        for number, place in self.layout.order:
            if number:
                found.append(known[..., place])
            else:
                table = categories[place].log_softmax(-1)
                index = rows.places[:, place].expand(len(table), -1)[..., None]
                found.append(table.gather(-1, index)[..., 0])
        return torch.stack(found, -1)

    def mixture(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights, means and log-scales `(members, n, K, C)`."""
        logits, shift, change = numbers.unbind(2)
        places = torch.tensor(self.places, dtype=shift.dtype, device=shift.device)
        log_scale = math.log(self.scale) + LOG_SCALE * torch.tanh(change / LOG_SCALE)
        return logits.log_softmax(2), shift + places[:, None], log_scale

    def start(self, rows: Rows) -> None:
        """Set the biases of categories and gaps to their shares, which are the start."""
        layout = self.layout
        count = 3 * self.components * len(layout.numbers)
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

    def _features(self, rows: Rows) -> Tensor:
        parts = [rows.scores.point.clamp(-FAR, FAR)]
        gaps = [c for c, gap in enumerate(self.layout.gaps) if gap]
        parts.append(rows.empty[:, gaps].to(parts[0]))
        for g, size in enumerate(self.layout.sizes):
            parts.append(F.one_hot(rows.places[:, g], size).to(parts[0]))
        return torch.cat(parts, 1)


def logistic_scores(scores: Scores) -> Scores:
    """Normal scores on the logistic scale: log Phi(y) - log Phi(-y)."""
    log_phi = -0.5 * scores.point.square() - 0.5 * math.log(2 * math.pi)
    slope = log_phi - torch.special.log_ndtr(scores.point) - torch.special.log_ndtr(-scores.point)
    low, high = (
        logit_of_normal(scores.low.clamp(-38, 38)),
        logit_of_normal(scores.high.clamp(-38, 38)),
    )
    cell = scores.high > scores.low
    wide = cell & (high - low > 1e-6)
    log_width = torch.where(wide, (high - low).clamp(min=1e-300).log(), scores.log_width + slope)
    return Scores(logit_of_normal(scores.point), low, high, log_width)


def logit_of_normal(y: Tensor) -> Tensor:
    """The logistic quantile of what is below y, log Phi(y) - log Phi(-y)."""
    return torch.special.log_ndtr(y) - torch.special.log_ndtr(-y)
