"""The autoregressive map of sequences: each token is transformed given those before it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from diffeo.bijections.base import Bijection, Example
from diffeo.bijections.coupling import Conditioned
from diffeo.bijections.guidance import Guidance
from diffeo.bijections.mixture_cdf import MixtureCDF
from diffeo.bijections.univariate import LocationScale, Univariate
from diffeo.networks.attention import KeyValues
from diffeo.networks.transformer import CausalTransformer

CHECK_EVERY = 4  # passes, where reading a value makes the host wait for the device


class TokenAutoregressive(Conditioned):
    """Map each token of a sequence with parameters computed from the tokens before it.

        y_t = univariate(x_t; parameters_t(x_s for all s before t, context))
        log|det dy/dx| = sum_t log|det dy_t/dx_t|

    x is `(batch, channels, tokens)`. `forward` takes one pass of the network. The inverse computes
    token after token; the network remembers keys and values, so a token costs one evaluation of
    one token. With `group` above 1 it computes so many tokens at once, by repeating

        x <- univariate.inverse(y; parameters(x, context))

    for these until no number changes by more than `tolerance`, at most `group` times, which is
    exact: each pass sets one more token right. (Gauss-Seidel-Jacobi iteration; of all tokens at
    once, Jacobi iteration.) What an error of a token does to those after it is not bounded by the
    tolerance.

    Args:
        univariate: the elementwise map.
        conditioner: a network like `CausalTransformer`.
        flip: whether the last token comes first.

    Attributes:
        group: how many tokens the inverse computes at once.
        tolerance: the largest change at which it stops to repeat.
        passes: how many evaluations of the network the last inverse took.

    (Zhai et al. 2024, section 2.2; Song et al. 2021 and Liu & Qin 2025 for the iteration)
    """

    cheap_inverse = False
    conditioner: CausalTransformer

    def __init__(
        self, univariate: Univariate, conditioner: CausalTransformer, flip: bool = False
    ) -> None:
        super().__init__()
        self.univariate = univariate
        self.conditioner = conditioner
        self.flip = flip
        self.group: int = 1
        self.tolerance: float = 0.0
        self.passes: int = 0

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self._ordered(x)
        y, log_det = self.univariate(x, self._parameters_for(x, context))
        return self._ordered(y), log_det

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._through(y, context, None)

    def guided_inverse(self, y: Tensor, context: Tensor, guidance: Guidance) -> Tensor:
        """The inverse with guided parameters, for samples: no inverse of `forward` any more."""
        return self._through(y, context, guidance)[0]

    def _through(
        self, y: Tensor, context: Tensor | None, guidance: Guidance | None
    ) -> tuple[Tensor, Tensor]:
        """The inverse, token after token."""
        y, seen = self._ordered(y), self.conditioner.memory()
        start = y.new_zeros(y.shape[0], self.univariate.parameters_each * y.shape[1], 1)
        x, log_det = self.univariate.inverse(y[:, :, :1], start)
        found, self.passes = [x], 0
        for first in range(1, y.shape[2], self.group):
            part = y[:, :, first : first + self.group]
            x, step = self._solve(part, found[-1][:, :, -1:], first - 1, context, guidance, seen)
            found.append(x)
            log_det = log_det + step
        return self._ordered(torch.cat(found, dim=2)), log_det

    def _solve(
        self,
        y: Tensor,
        last: Tensor,
        place: int,
        context: Tensor | None,
        guidance: Guidance | None,
        seen: Sequence[KeyValues],
    ) -> tuple[Tensor, Tensor]:
        """The tokens of y, and log|det dx/dy|, given the last token before them and its place."""
        most, x, log_det = y.shape[2], y, y.new_zeros(y.shape[0])
        every = 1 if y.device.type == "cpu" else CHECK_EVERY
        # What has not been set right yet may be huge, and become NaN in the network.
        limit = torch.finfo(y.dtype).max ** 0.25
        before = last
        for count in range(1, most + 1):
            if most > 1:
                guess = x[:, :, :-1].nan_to_num(0.0).clamp(-limit, limit)
                before = torch.cat((last, guess), dim=2)
            parameters = self._following(before, place, context, guidance, seen)
            known = x
            x, log_det = self.univariate.inverse(y, parameters)
            self.passes += 1
            if count < most and count % every == 0 and _is_near(x, known, self.tolerance):
                break
        for layer in seen:
            layer.commit()
        return x, log_det

    def _following(
        self,
        x: Tensor,
        place: int,
        context: Tensor | None,
        guidance: Guidance | None,
        seen: Sequence[KeyValues],
    ) -> Tensor:
        """The parameters of the tokens after each of x."""
        if guidance is not None and context is not None:
            x, context = guidance.both(x, context)
        lower = self.precision and torch.autocast(x.device.type, self.precision)
        with lower or nullcontext():
            parameters = self.conditioner.following(x, place, context, seen).to(x.dtype)
        if guidance is None or context is None:
            return parameters
        return guidance.moved(parameters)

    def _ordered(self, x: Tensor) -> Tensor:
        """The tokens in the order in which they are read; the same undoes it."""
        return x.flip(2) if self.flip else x

    @classmethod
    def examples(cls) -> Iterable[Example]:
        def make(univariate: Univariate, context: int, flip: bool) -> Bijection:
            outputs = univariate.parameters_each * 2
            return cls(univariate, CausalTransformer(2, outputs, 3, 8, context, layers=2), flip)

        yield Example(lambda: make(LocationScale(), 0, False), (2, 3))
        yield Example(lambda: make(LocationScale(), 2, True), (2, 3), context_features=2)
        yield Example(lambda: make(MixtureCDF(3), 2, True), (2, 3), context_features=2)


def _is_near(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Whether no number differs by more; NaN does."""
    return bool((a - b).abs().le(tolerance).all())
