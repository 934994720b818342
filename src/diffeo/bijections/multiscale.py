"""Multi-scale flows: some latents leave early, so that the rest of the flow is smaller."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from diffeo.bijections.base import Bijection, Example
from diffeo.bijections.chain import Chain
from diffeo.bijections.normalization import ActNorm
from diffeo.bijections.reshape import Flatten


class FactorOut(Bijection):
    """Send half of the channels out as they are, and the other half through a further flow.

        (a, b) = halves of x,   y = [flat(b), inner(a)],   log|det dy/dx| = log|det dinner/da|

    A learned prior of the part that leaves is a coupling before this one, in which `a` passes
    unchanged: b is then standardized given a, and all latents are standard noise.

    Args:
        shape: (C, H, W) of the input; C is even.
        inner: maps a `(batch, C/2, H, W)` to a flat vector `(batch, dims)`.

    (Dinh et al. 2017, section 3.6)
    """

    def __init__(self, shape: tuple[int, int, int], inner: Bijection) -> None:
        super().__init__()
        channels, height, width = shape
        if channels % 2:
            raise ValueError(f"half of {channels} channels cannot be factored out: squeeze first.")
        self.shape = (channels // 2, height, width)
        self.inner = inner

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        stays, leaves = x.chunk(2, dim=1)
        z, log_det = self.inner(stays, context)
        return torch.cat((leaves.flatten(1), z), dim=1), log_det

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        size = self.shape[0] * self.shape[1] * self.shape[2]
        stays, log_det = self.inner.inverse(y[:, size:], context)
        return torch.cat((stays, y[:, :size].unflatten(1, self.shape)), dim=1), log_det

    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        stays, leaves = x.chunk(2, dim=1)
        return torch.cat((leaves.flatten(1), self.inner.initialize(stays, context)), dim=1)

    @property
    def cheap_inverse(self) -> bool:  # type: ignore[override]
        """Whether that of the inner flow is."""
        return self.inner.cheap_inverse

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(
            lambda: cls((4, 2, 2), Chain(ActNorm(2), Flatten(2, 2, 2))), (4, 2, 2), "constant"
        )
