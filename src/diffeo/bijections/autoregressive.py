"""The autoregressive map: each feature is transformed given those before it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from diffeo.bijections.base import Bijection, Example
from diffeo.bijections.coupling import Conditioned, Network
from diffeo.bijections.spline import RationalQuadraticSpline
from diffeo.bijections.univariate import Affine, Univariate
from diffeo.networks.masked import MaskedMLP

CHECK_EVERY = 8  # passes, where reading a value makes the host wait for the device


class Autoregressive(Conditioned):
    """Map each feature with parameters computed from the features before it.

        y_i = univariate(x_i; parameters_i(x_j for all j before i, context))
        log|det dy/dx| = sum_i log dy_i/dx_i

    `forward` takes one pass of the network. The inverse repeats

        x <- univariate.inverse(y; parameters(x, context))

    from x = y until nothing changes. After D passes it is exact, since each pass sets one more
    feature right; it is then as exact as feature by feature. Where features depend weakly on each
    other, it takes fewer. Its gradient is that of the solution (the implicit function theorem), by
    at most D vector-Jacobian products, whose memory does not grow with the passes; gradients of
    gradients do not exist.

    Args:
        univariate: the elementwise map.
        conditioner: network `(x, context) -> parameters`, autoregressive in any order of the
            features, such as `MaskedMLP`, with `univariate.parameters_each` parameters for each
            feature, stacked along axis 1.

    Attributes:
        passes: how many passes the last inverse took.

    (Papamakarios et al. 2017; Song et al. 2021 for the iteration)
    """

    cheap_inverse = False

    def __init__(self, univariate: Univariate, conditioner: nn.Module) -> None:
        super().__init__()
        self.univariate = univariate
        self.conditioner = conditioner
        self.passes: int = 0

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.univariate(x, self._parameters_for(x, context))

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if torch.compiler.is_compiling():
            return self._unrolled(y, context)
        weights = [p for p in self.parameters() if p.requires_grad]
        learns = any(t is not None and t.requires_grad for t in (y, context, *weights))
        if not (learns and torch.is_grad_enabled()):
            return self._solve(y, context)
        try:
            return _Solution.apply(self, y, context, *weights)
        except RuntimeError as error:
            if "functorch" not in str(error):  # which transforms single operations only
                raise
            return self._unrolled(y, context)

    def _pass(self, x: Tensor, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """The inverse of y given the parameters at x, which is a solution if x is one."""
        # What has not been set right yet may be huge. It would become NaN in the network, and
        # 0 * NaN pass the masks.
        limit = torch.finfo(x.dtype).max ** 0.5
        x = x.nan_to_num(0.0).clamp(-limit, limit)
        return self.univariate.inverse(y, self._parameters_for(x, context))

    @torch.no_grad()
    def _solve(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """The solution, without a graph."""

        def step(x: Tensor) -> tuple[Tensor, Tensor]:
            return self._pass(x, y, context)

        x, log_det, self.passes = repeat(step, y, math.prod(y.shape[1:]))
        return x, log_det

    def _unrolled(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """The solution by D passes, each with a graph."""
        x, log_det = self._pass(y, y, context)
        for _ in range(math.prod(y.shape[1:]) - 1):
            x, log_det = self._pass(x, y, context)
        return x, log_det

    @classmethod
    def examples(cls) -> Iterable[Example]:
        def make(univariate: Univariate, features: int, context: int, order: Any) -> Bijection:
            return autoregressive(univariate, MaskedMLP, features, (8, 8), context, order)

        yield Example(lambda: make(Affine(), 4, 0, None), (4,))
        yield Example(lambda: make(Affine(), 3, 2, [2, 0, 1]), (3,), context_features=2)
        yield Example(lambda: make(Affine(), 1, 0, None), (1,), "constant")
        spline = RationalQuadraticSpline(4, 2.0)
        yield Example(lambda: make(spline, 3, 0, [1, 0, 2]), (3,))
        yield Example(lambda: make(spline, 1, 2, None), (1,), context_features=2)


class _Solution(torch.autograd.Function):
    """The inverse, with the gradient of the equations that define it.

    With x = f(x, y, w) and log_det = l(x, y, w), where df/dx is nilpotent, u solves
    u = g_x + g_l dl/dx + u df/dx, and the gradients of y and w are u df + g_l dl.
    """

    @staticmethod
    def forward(
        ctx: Any, link: Autoregressive, y: Tensor, context: Tensor | None, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        x, log_det = link._solve(y, context)
        ctx.link = link
        ctx.save_for_backward(x, y, context, *weights)
        return x, log_det

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_log_det: Tensor) -> Any:
        x, y, context, *weights = ctx.saved_tensors
        x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
        if context is not None:
            context = context.detach().requires_grad_()
        with torch.enable_grad():
            found, log_det = ctx.link._pass(x, y, context)

        def back(outputs: list[Tensor], inputs: list[Tensor], grads: list[Tensor]) -> list[Any]:
            pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if o.requires_grad]
            return list(
                torch.autograd.grad(
                    [o for o, _ in pairs],
                    inputs,
                    [g for _, g in pairs],
                    retain_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
            )

        (direct,) = back([found, log_det], [x], [torch.zeros_like(grad), grad_log_det])
        start = grad + direct
        most = math.prod(x.shape[1:])
        u, _, _ = repeat(lambda u: (start + back([found], [x], [u])[0], u), start, most)
        inputs = [y, *([] if context is None else [context]), *weights]
        by_y, *others = back([found, log_det], inputs, [u, grad_log_det])
        by_context = None if context is None else others.pop(0)
        return None, by_y, by_context, *others


def repeat(
    step: Callable[[Tensor], tuple[Tensor, Tensor]], start: Tensor, most: int
) -> tuple[Tensor, Tensor, int]:
    """Repeat a step until nothing changes, at most so often: what it returned, and how often."""
    every = 1 if start.device.type == "cpu" else CHECK_EVERY
    before, other, count = start, start, 0
    while count < most:
        (after, other), count = step(before), count + 1
        if count % every == 0 and count < most and torch.equal(after, before):
            break
        before = after
    return before, other, count


def autoregressive(
    univariate: Univariate,
    network: Network,
    features: int,
    hidden: Any,
    context_features: int,
    order: Sequence[int] | None = None,
) -> Autoregressive:
    """An autoregressive map with a copy of a univariate map, and a masked network for it.

    Raises:
        ValueError: if the network takes no order.
    """
    univariate = copy.deepcopy(univariate)
    outputs = univariate.parameters_each * features
    try:
        made: Any = network
        conditioner = made(features, outputs, hidden, context_features, order=order)
    except TypeError as error:
        if "order" not in str(error):
            raise
        name = getattr(getattr(network, "func", network), "__name__", repr(network))
        raise ValueError(
            f"{name} takes no order of the features, as autoregressive maps need: choose MaskedMLP."
        ) from error
    return Autoregressive(univariate, conditioner)
