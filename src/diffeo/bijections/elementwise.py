"""Elementwise maps with parameters of their own: standardization, scaling, a learned prior."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from diffeo.bijections.base import Bijection, Example


class Standardize(Bijection):
    """Bring each feature of the data to mean 0 and standard deviation 1.

        y = (x - mean) / std,   log|det dy/dx| = -sum(log std)

    Args:
        features: D of the input `(batch, D)`.

    `initialize` sets `mean` and `std`; before, it is the identity. `initialized` is a buffer: a
    loaded model is never initialised again.

    Raises:
        ValueError: by `initialize`, if there are fewer than two rows, or a feature is constant.
    """

    mean: Tensor
    std: Tensor
    initialized: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.register_buffer("initialized", torch.tensor(False))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return (x - self.mean) / self.std, -self.std.log().sum().expand(x.shape[0])

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return y * self.std + self.mean, self.std.log().sum().expand(y.shape[0])

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        if not self.initialized:
            self._fit(x)
        return self(x)[0]

    def _fit(self, x: Tensor) -> None:
        if len(x) < 2:
            raise ValueError(
                f"standardization needs at least 2 rows to fit, not {len(x)}: pass more."
            )
        # In float64, since the squares of a large column lose their digits in float32.
        std, mean = torch.std_mean(x.double(), dim=0, correction=0)
        if not (std > 0).all():
            flat = int((~(std > 0)).nonzero()[0])
            raise ValueError(f"feature {flat} is constant or not finite: leave it out.")
        self.mean.copy_(mean)
        self.std.copy_(std)
        self.initialized.fill_(True)

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(3), (3,), "constant")


class Scale(Bijection):
    """Learned positive scaling of each feature, the only map of NICE that changes volume.

        y = exp(s) * x,   log|det dy/dx| = sum(s)

    Args:
        features: D of the input `(batch, D)`.

    (Dinh et al. 2014, section 3.3)
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x * self.log_scale.exp(), self.log_scale.sum().expand(x.shape[0])

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return y * (-self.log_scale).exp(), -self.log_scale.sum().expand(y.shape[0])

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(3), (3,), "constant")


class LearnedPrior(Bijection):
    """Standardize each element by a learned mean and spread, which may depend on a context.

        y = (x - m) * exp(-s),   log|det dy/dx| = -sum(s),   (m, s) = b + W context

    so that y ~ N(0, 1) says that x ~ N(m, exp(2 s)): the learned, and class-conditional, prior of
    Glow's last latents. It starts as the identity. s is not bounded: without a context it is a
    constant of the model, and a context far beyond those of training may take it anywhere.

    Args:
        shape: of an event x `(batch, *shape)`.
        context_features: width of the context; 0 for none.

    (Kingma & Dhariwal 2018, in their code)
    """

    def __init__(self, *shape: int, context_features: int = 0) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(2, *shape))
        self.weight = None
        if context_features:
            self.weight = nn.Parameter(torch.zeros(context_features, 2, *shape))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mean, log_std = self._moments(context)
        return (x - mean) * (-log_std).exp(), -_sum(log_std, x)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mean, log_std = self._moments(context)
        return y * log_std.exp() + mean, _sum(log_std, y)

    def _moments(self, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """(m, s), each `(batch or 1, *shape)`."""
        moments = self.bias[None]
        if self.weight is not None and context is not None:
            moments = moments + torch.tensordot(context, self.weight, dims=1)
        return moments[:, 0], moments[:, 1]

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(2, 3), (2, 3), "constant")
        yield Example(lambda: cls(2, 2, 1, context_features=3), (2, 2, 1), context_features=3)


def _sum(log_std: Tensor, x: Tensor) -> Tensor:
    """One sum for each row of x."""
    return log_std.flatten(1).sum(1).expand(x.shape[0])
