"""The autoregressive map of images of whole numbers, with exact probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from diffeo.bijections.autoregressive import Autoregressive, repeat
from diffeo.bijections.base import Example
from diffeo.bijections.discrete import DiscreteCDF, LogisticsCDF, SoftmaxCDF
from diffeo.bijections.guidance import Guidance
from diffeo.bijections.univariate import Univariate
from diffeo.networks.pixel import GatedPixelNet
from diffeo.utils.ranges import Count

MOST_UNROLLED = 16  # passes of the network in one compiled program


class PixelAutoregressive(Autoregressive):
    """Map each pixel with parameters computed from the whole numbers of the pixels before it.

        y_i = univariate(x_i; parameters_i(floor(x_j) for j before i, context))

    The network sees no position inside of a cell, so with a distribution function of whole numbers
    the density is constant in each cell of the image: it is the probability of floor(x).

    The inverse goes through the pixels in their order. A network with a `raster` evaluates only
    what is new at each of them. Its parameters round otherwise than those of `forward`, by which a
    value at the edge of a cell may fall into the next one: so one pass of the whole network checks
    them all, and where one differs, what follows it is repeated. The result is the solution of
    `forward`, as it rounds.

    Args:
        univariate: the elementwise map, such as `SoftmaxCDF`.
        conditioner: network `(x, context) -> parameters`, autoregressive in the order of rows,
            columns and channels, such as `GatedPixelNet`. It sees numbers from -1 to 1.
        levels: how many numbers there are, from 0.

    (van den Oord et al. 2016)
    """

    passes: int

    def __init__(self, univariate: Univariate, conditioner: nn.Module, levels: Count = 256) -> None:
        super().__init__(univariate, conditioner)
        self.levels = levels

    def _parameters_for(self, a: Tensor, context: Tensor | None) -> Tensor:
        return super()._parameters_for(self.scaled(a), context)

    def scaled(self, x: Tensor) -> Tensor:
        """The whole numbers of x as the network sees them."""
        most = max(self.levels - 1, 1)
        return x.detach().floor().clamp(0, most) * (2 / most) - 1

    @torch.no_grad()
    def _solve(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        if not hasattr(self.conditioner, "raster") or not len(y):
            return super()._solve(y, context)
        known = y.new_zeros(len(y), dtype=torch.long)
        x = self._raster(y, y, known, context)
        if y.device.type != "cpu":  # where passes cost less than to find what differs
            x, log_det, self.passes = repeat(lambda x: self._pass(x, y, context), x, y[0].numel())
            return x, log_det
        for self.passes in range(1, y[0].numel() + 1):
            again, log_det = self._pass(x, y, context)
            differs = _in_order(again.floor() != x.floor())
            if not differs.any():
                break
            # Up to the first one that differs, the pass is right.
            first = differs.long().argmax(1) + 1
            known = torch.where(differs.any(1), first, differs.shape[1])
            x = self._raster(y, again, known, context)
        return again, log_det

    @torch.no_grad()
    def guided_inverse(self, y: Tensor, context: Tensor, guidance: Guidance) -> Tensor:
        """The inverse by other probabilities, for samples: no inverse of `forward` any more.

            log p_i = log p_i(k | class) + w (log p_i(k | class) - log p_i(k)) + constant

        Raises:
            ValueError: if the numbers have no probabilities, or the network is evaluated at once.
        """
        whole = self.univariate
        if not isinstance(whole, DiscreteCDF) or not hasattr(self.conditioner, "raster"):
            raise ValueError(
                "guidance needs probabilities of pixels, one after another: take a DiscreteCDF and "
                "a GatedPixelNet."
            )
        guided = SoftmaxCDF(whole.low, whole.high, whole.shape)
        x, contexts = guidance.both(y, context)

        def choose(parameters: Tensor, c: int, i: int, j: int) -> Tensor:
            log_p = guidance.moved(whole.probabilities(parameters.to(y.dtype)).log())
            here = slice(None), slice(c, c + 1), slice(i, i + 1), slice(j, j + 1)
            value, _ = guided.inverse(y[here], log_p[:, :, None, None])
            x[here] = torch.cat((value, value))
            return self.scaled(x[here])[:, 0, 0, 0]

        with self._lower(y):
            raster: Any = self.conditioner.raster
            raster(x, contexts, choose)
        return x[: len(y)]

    def _unrolled(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        passes = math.prod(y.shape[1:])
        if passes > MOST_UNROLLED:
            raise ValueError(
                f"the inverse of {passes} pixels would be a program of {passes} networks, with at "
                f"most {MOST_UNROLLED} allowed: export the score alone (what='score')."
            )
        return super()._unrolled(y, context)

    def _raster(self, y: Tensor, x: Tensor, known: Tensor, context: Tensor | None) -> Tensor:
        """The inverse of y by one evaluation of each pixel, where the first numbers are known."""
        found = torch.empty_like(x, memory_format=torch.contiguous_format)
        channels, width = x.shape[1], x.shape[3]

        def choose(parameters: Tensor, c: int, i: int, j: int) -> Tensor:
            here = slice(None), slice(c, c + 1), slice(i, i + 1), slice(j, j + 1)
            value, _ = self.univariate.inverse(y[here], parameters.to(y.dtype)[:, :, None, None])
            number = (i * width + j) * channels + c
            value = torch.where((number < known)[:, None, None, None], x[here], value)
            found[here] = value
            return self.scaled(value)[:, 0, 0, 0]

        with self._lower(y):
            raster: Any = self.conditioner.raster
            raster(found, context, choose)
        return found

    def _lower(self, y: Tensor) -> AbstractContextManager[None]:
        """Let the network compute in the precision that was set for it."""
        lower = self.precision and torch.autocast(y.device.type, self.precision)
        return lower or nullcontext()

    @classmethod
    def examples(cls) -> Iterable[Example]:
        def make(univariate: Univariate, channels: int, context: int) -> PixelAutoregressive:
            outputs = channels * univariate.parameters_each
            return cls(univariate, GatedPixelNet(channels, outputs, 4, context, layers=2), 4)

        yield Example(lambda: make(SoftmaxCDF(0, 3), 1, 0), (1, 3, 2), interval=(0.0, 4.0))
        yield Example(
            lambda: make(LogisticsCDF(2, 0, 3), 2, 2),
            (2, 2, 2),
            context_features=2,
            interval=(0.0, 4.0),
        )


def _in_order(x: Tensor) -> Tensor:
    """The elements of images `(batch, C, H, W)` in the order of pixels: `(batch, H * W * C)`."""
    return x.movedim(1, 3).flatten(1)
