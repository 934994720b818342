"""The continuous map: the flow of an ordinary differential equation."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from diffeo.bijections.base import Bijection, Example
from diffeo.bijections.probes import make_key, signs
from diffeo.networks.smooth import SmoothMLP
from diffeo.utils.machine import widest
from diffeo.utils.ranges import Positive, Seed, Whole


class Continuous(Bijection):
    """Follow a velocity field from data, at t = 0, to noise, at t = 1.

        dx/dt = f(t, x, context),   log|det dy/dx| = integral over t of trace(df/dx)

    solved by steps of Dormand and Prince's method, whose size follows from the tolerances; the
    inverse runs backwards. Both directions are exact up to these, which count for the root mean
    square of a batch: a row depends on the others, but by less than the tolerances. Gradients are
    those of the steps taken.

    Up to `exact_up_to` features the trace is exact. Above, it is an **unbiased estimate**, v^T
    (df/dx) v with random signs v, which stay the same along a path and follow from the seed, the
    weights and the rows x (see `diffeo.bijections.probes`).

    Args:
        network: f, a network `([t, x], context) -> (batch, D)` with `linearize`, such as
            `SmoothMLP(D + 1, D, (64, 64), context_features)`.
        rtol: error of a step, relative to x.
        atol: absolute error of a step, in units of x.
        exact_up_to: the largest number of features with an exact trace.
        seed: of the noise of estimates.

    Raises:
        ValueError: if torchdiffeq is missing, the network has no `linearize`, or the field is so
            steep that no step is small enough.

    (Chen et al. 2018; Grathwohl et al. 2019)
    """

    cheap_inverse = False

    def __init__(
        self,
        network: nn.Module,
        rtol: Positive = 1e-5,
        atol: Positive = 1e-5,
        exact_up_to: Whole = 16,
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        if not hasattr(network, "linearize"):
            raise ValueError(
                f"{type(network).__name__} has no `linearize`: take SmoothMLP, or one that has."
            )
        _solver()
        _leave_uncompiled()
        self.network: Any = network
        self.rtol = rtol
        self.atol = atol
        self.exact_up_to = exact_up_to
        self.seed = seed

    def velocity(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        """F(t, x, context) `(batch, D)` at times t `(batch,)`, from data at 0 to noise at 1."""
        return self.network(torch.cat((t[:, None], x), dim=1), context)

    def is_exact(self, features: int) -> bool:
        """Whether the trace for so many features is exact, and no estimate."""
        return features <= self.exact_up_to

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._follow(x, context, self._tangents(x))

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.is_exact(y.shape[1]):
            return self._follow(y, context, self._tangents(y), backwards=True)
        # The noise of the estimate is that of x, which has to be known first.
        x, _ = self._follow(y, context, None, backwards=True)
        return x, -self._follow(x, context, self._tangents(x))[1]

    def _tangents(self, x: Tensor) -> Tensor:
        """The v of sum v^T (df/dx) v, `(batch or 1, n, D)`: all unit vectors, or one of signs."""
        if self.is_exact(x.shape[1]):
            return torch.eye(x.shape[1], dtype=x.dtype, device=x.device)[None]
        return signs(x, make_key(self.seed, self.network.linears[0].weight))[:, None]

    def _follow(
        self, x: Tensor, context: Tensor | None, v: Tensor | None, backwards: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Solve the equation; without v the log-determinant is 0."""
        nothing = x.new_zeros(x.shape[0])
        if not x.shape[0]:
            return x + nothing[:, None], nothing
        # A row that is not finite would leave no step small enough for the others.
        sound = x.isfinite().all(1)
        start = torch.where(sound[:, None], x, 0.0)

        def speed(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            time_and_x = torch.cat((t.to(x.dtype).expand(x.shape[0], 1), state[0]), dim=1)
            f, push = self.network.linearize(time_and_x, context)
            if v is None:
                return f, nothing
            moved = push(torch.cat((torch.zeros_like(v[..., :1]), v), dim=2))
            return f, (v * moved).sum((1, 2))

        times = torch.linspace(0, 1, 2, dtype=x.dtype, device=x.device)
        times = times.flip(0) if backwards else times
        least = 10 * torch.finfo(x.dtype).eps
        tolerances = {"rtol": max(self.rtol, least), "atol": max(self.atol, least)}
        options = {"dtype": widest(x.device)}  # of times
        try:
            paths = _solver()(speed, (start, nothing), times, options=options, **tolerances)
        except AssertionError as error:  # as torchdiffeq says that steps became too small
            raise ValueError(
                f"the continuous map cannot be followed with steps of its dtype ({error}): take "
                "larger rtol and atol, or a smaller learning rate."
            ) from error
        y, log_det = (path[-1] for path in paths)
        return y.where(sound[:, None], torch.nan), log_det.where(sound, torch.nan)

    @classmethod
    def examples(cls) -> Iterable[Example]:
        def make(features: int, context: int, exact_up_to: int = 16) -> Bijection:
            network = SmoothMLP(features + 1, features, (8, 8), context)
            return cls(network, rtol=1e-9, atol=1e-9, exact_up_to=exact_up_to)

        yield Example(lambda: make(3, 0), (3,), tolerance=1e-6)
        yield Example(lambda: make(2, 2), (2,), context_features=2, tolerance=1e-6)
        yield Example(lambda: make(3, 0, 0), (3,), exact=False, tolerance=1e-6)


@cache
def _leave_uncompiled() -> None:
    """Let torch.compile leave the solver alone.

    Not as a decorator, which would load the compiler with this module: two seconds at each start.
    """
    Continuous._follow = torch.compiler.disable(Continuous._follow)  # type: ignore[method-assign]


def _solver() -> Any:
    """The solver of torchdiffeq, or an error that says how to get it."""
    try:
        from torchdiffeq import odeint
    except ImportError as error:
        raise ValueError(
            "torchdiffeq is missing, which continuous flows need: pip install 'diffeo[ode]'."
        ) from error
    return odeint
