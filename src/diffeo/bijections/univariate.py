"""Elementwise monotone maps whose parameters are computed elsewhere, such as by a coupling."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffeo.utils.config import Configurable
from diffeo.utils.fused import call, gradients_with_graph
from diffeo.utils.ranges import Positive


class Univariate(Configurable, nn.Module, ABC):
    """An elementwise monotone map, given the parameters of each element.

    Attributes:
        parameters_each: how many parameters an element takes; they are stacked along axis 1, so
            x `(batch, n, *rest)` comes with `(batch, parameters_each * n, *rest)`: first the
            first parameter of all n elements, then the second, and so on. Parameters of zero
            should be the identity, or near to it: networks start there.
        cheap_inverse: False where the inverse needs a solver (see `Bijection`).
    """

    parameters_each: int
    cheap_inverse: bool = True

    @abstractmethod
    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Map x: `(y, log|det dy/dx|)`."""

    @abstractmethod
    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Map y back: `(x, log|det dx/dy|)`."""

    @classmethod
    def examples(cls) -> Iterable[Univariate]:
        """Instances that the conformance tests visit, inside of a coupling."""
        return (cls(),)


class Additive(Univariate):
    """Shift; volume preserving.

        y = x + t,   log|det dy/dx| = 0

    (Dinh et al. 2014, section 3.2)
    """

    parameters_each = 1

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return x + parameters, x.new_zeros(x.shape[0])

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return y - parameters, y.new_zeros(y.shape[0])


class Affine(Univariate):
    """Scale and shift, with the scale bounded.

        s = bound * tanh(a / bound),   y = x * exp(s) + t,   log|det dy/dx| = sum(s)

    where (a, t) are the parameters. Near 0, s is a itself, so the bound costs nothing where the
    density needs no extreme scale; far out, |s| < bound. Without it a network that has never seen
    a point so far from the data may answer s = -100, and the inverse, which multiplies by exp(-s),
    leaves float range: it shows only in sampling, as NaN or infinity.

    Args:
        bound: the largest |s| of one coupling, in nats; 3 stretches by at most e^3, about 20.

    (Dinh et al. 2017, section 3.2, there with a learned multiple of tanh)
    """

    parameters_each = 2

    def __init__(self, bound: Positive = 3.0) -> None:
        super().__init__()
        self.bound: float = float(bound)

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        # Subclasses have scales of their own, and of images the plain form stores less.
        standard = type(self) is Affine and x.ndim == 2 and x.dtype == parameters.dtype
        if standard and torch.is_grad_enabled():
            return call(_Affine, Affine.plain, self, x, parameters)
        return self.plain(x, parameters)

    def plain(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """`forward`, operation by operation."""
        log_scale, shift = self._log_scale_and_shift(parameters)
        return torch.addcmul(shift, x, log_scale.exp()), log_scale.flatten(1).sum(1)

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._log_scale_and_shift(parameters)
        return (y - shift) * (-log_scale).exp(), -log_scale.flatten(1).sum(1)

    def _log_scale_and_shift(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = parameters.chunk(2, dim=1)
        return self.bound * torch.tanh(raw / self.bound), shift


class LocationScale(Univariate):
    """Standardize by a location and a scale.

        y = (x - t) exp(-a),   log|det dy/dx| = -sum(a)

    where (a, t) are the parameters: y ~ N(0, 1) says that x ~ N(t, exp(2 a)). Scales are those of
    the network as it answers, up to a limit that no data need. It matters in samples of a network
    that meets what it has never seen, since what leaves float range there comes back as NaN.

    Args:
        limit: the largest |a|; 15 stretches by at most 3e6.

    (Zhai et al. 2024, section 2.2, there without a limit)
    """

    parameters_each = 2

    def __init__(self, limit: Positive = 15.0) -> None:
        super().__init__()
        self.limit: float = float(limit)

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._log_scale_and_shift(parameters)
        return (x - shift) * (-log_scale).exp(), -log_scale.flatten(1).sum(1)

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._log_scale_and_shift(parameters)
        return y * log_scale.exp() + shift, log_scale.flatten(1).sum(1)

    def _log_scale_and_shift(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = parameters.chunk(2, dim=1)
        return raw.clamp(-self.limit, self.limit), shift


class SigmoidAffine(Univariate):
    """Shift and scale, with a scale between 0 and a limit.

        y = (x + t) limit sigmoid(a),   log|det dy/dx| = sum(log limit + log sigmoid(a))

    where (a, t) are the parameters.

    Args:
        limit: the largest scale; with 2, parameters of zero are the identity.

    (Kolesnikov et al. 2024, section 3.1)
    """

    parameters_each = 2

    def __init__(self, limit: Positive = 2.0) -> None:
        super().__init__()
        self.limit: float = float(limit)

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._log_scale_and_shift(parameters)
        return (x + shift) * log_scale.exp(), log_scale.flatten(1).sum(1)

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._log_scale_and_shift(parameters)
        return y * (-log_scale).exp() - shift, -log_scale.flatten(1).sum(1)

    def _log_scale_and_shift(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = parameters.chunk(2, dim=1)
        return math.log(self.limit) + F.logsigmoid(raw), shift


class _Affine(torch.autograd.Function):
    """`Affine.plain` of tables as one operation, with its gradient by hand."""

    @staticmethod
    def forward(ctx: Any, affine: Affine, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = parameters.chunk(2, dim=1)
        tanh = (raw / affine.bound).tanh_()
        log_scale = affine.bound * tanh
        scale = log_scale.exp()
        ctx.affine = affine
        ctx.save_for_backward(x, parameters, tanh, scale)
        return torch.addcmul(shift, x, scale), log_scale.sum(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_log_det: Tensor) -> Any:
        x, parameters, tanh, scale = ctx.saved_tensors  # once, as checkpoints demand
        if torch.is_grad_enabled():
            plain = partial(Affine.plain, ctx.affine)
            grads = gradients_with_graph(ctx, plain, (x, parameters), grad, grad_log_det)
            return None, *grads
        by_x, by_parameters = grad * scale, torch.empty_like(parameters)
        by_raw, by_shift = by_parameters.chunk(2, dim=1)
        by_log_scale = torch.addcmul(grad_log_det[:, None], by_x, x)
        torch.ops.aten.tanh_backward.grad_input(by_log_scale, tanh, grad_input=by_raw)
        by_shift.copy_(grad)
        return None, by_x, by_parameters
