"""How a coupling bends an element, given the parameters that its conditioner computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffeo.bijections.backward import Gradients, by_autograd
from diffeo.bijections.splits import concat_features


class Univariate(nn.Module, ABC):
    """An elementwise invertible map whose parameters come from outside.

    Attributes:
        parameters_each: how many parameters an element takes; they are stacked along axis 1, so
            x `(batch, n, *rest)` comes with `(batch, parameters_each * n, *rest)`.
    """

    parameters_each: int

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "batch n *rest"], parameters: Float[Tensor, "batch m *rest"]
    ) -> tuple[Float[Tensor, "batch n *rest"], Float[Tensor, " batch"]]:
        """Univariate x: `(y, log|det dy/dx|)`."""

    @abstractmethod
    def inverse(
        self, y: Float[Tensor, "batch n *rest"], parameters: Float[Tensor, "batch m *rest"]
    ) -> tuple[Float[Tensor, "batch n *rest"], Float[Tensor, " batch"]]:
        """Straighten y: `(x, log|det dx/dy|)`."""

    # How gradients go back (see `backward`); what follows is right for any bend.

    def run(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor, Any]:
        """What `forward` returns, and what `back` needs: `(y, log_det, kept)`."""
        with torch.enable_grad():
            x, parameters = x.detach().requires_grad_(), parameters.detach().requires_grad_()
            y, log_det = self(x, parameters)
        return y.detach(), log_det.detach(), (x, parameters, y, log_det)

    def rebuild(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Any]:
        """The x that `forward` made y of, and what `run` would have kept: `(x, kept)`."""
        x = self.inverse(y, parameters)[0]
        return x, self.run(x, parameters)[2]

    def back(self, kept: Any, grad: Tensor, grad_log_det: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of x and of the parameters, from those of y and of log|det|."""
        x, parameters, *outputs = kept
        found = Gradients()
        by_x = by_autograd(outputs, (grad, grad_log_det), x, found, parameters)
        return by_x, found[parameters]


class Additive(Univariate):
    """Shift; volume preserving.

        y = x + t,   log|det dy/dx| = 0

    (Dinh et al. 2014, section 3.2)
    """

    parameters_each = 1

    def forward(
        self, x: Float[Tensor, "batch n *rest"], parameters: Float[Tensor, "batch m *rest"]
    ) -> tuple[Float[Tensor, "batch n *rest"], Float[Tensor, " batch"]]:
        return x + parameters, x.new_zeros(x.shape[0])

    def inverse(
        self, y: Float[Tensor, "batch n *rest"], parameters: Float[Tensor, "batch m *rest"]
    ) -> tuple[Float[Tensor, "batch n *rest"], Float[Tensor, " batch"]]:
        return y - parameters, y.new_zeros(y.shape[0])

    def run(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor, Any]:
        """See `Univariate.run`."""
        return *self(x, parameters), None

    def rebuild(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Any]:
        """See `Univariate.rebuild`."""
        return y - parameters, None

    def back(self, kept: Any, grad: Tensor, grad_log_det: Tensor) -> tuple[Tensor, Tensor]:
        """See `Univariate.back`."""
        return grad, grad


class Affine(Univariate):
    """Scale and shift, with the scale held within bounds.

        s = bound * tanh(a / bound),   y = x * exp(s) + t,   log|det dy/dx| = sum(s)

    where (a, t) are the parameters. Near 0, s is a itself, so the bound costs nothing where the
    density needs no extreme scale; far out, |s| < bound. Without it a conditioner that has never
    seen a point so far from the data may answer with s = -100, and the inverse, which multiplies
    by exp(-s), leaves float range: it shows only in sampling, as NaN or infinity.

    Args:
        bound: the largest |s| of one coupling, in nats; 3 stretches by at most e^3, about 20.

    (Dinh et al. 2017, section 3.2, there with a learned multiple of tanh)
    """

    parameters_each = 2

    def __init__(self, bound: float = 3.0) -> None:
        super().__init__()
        if not bound > 0:
            raise ValueError(f"bound must be positive, not {bound}.")
        self.bound = float(bound)

    def forward(
        self, x: Float[Tensor, "batch n *rest"], parameters: Float[Tensor, "batch m *rest"]
    ) -> tuple[Float[Tensor, "batch n *rest"], Float[Tensor, " batch"]]:
        raw, shift = parameters.chunk(2, dim=1)
        log_scale = self._log_scale(self._gate(raw))
        return torch.addcmul(shift, x, log_scale.exp()), log_scale.flatten(1).sum(1)

    def inverse(
        self, y: Float[Tensor, "batch n *rest"], parameters: Float[Tensor, "batch m *rest"]
    ) -> tuple[Float[Tensor, "batch n *rest"], Float[Tensor, " batch"]]:
        raw, shift = parameters.chunk(2, dim=1)
        log_scale = self._log_scale(self._gate(raw))
        return (y - shift) * (-log_scale).exp(), -log_scale.flatten(1).sum(1)

    def _gate(self, raw: Tensor) -> Tensor:
        """P = sigmoid(2 a / bound): tanh(a / bound) is 2 p - 1, and a sigmoid far cheaper."""
        return torch.sigmoid(raw * (2 / self.bound))

    def _log_scale(self, gate: Tensor) -> Tensor:
        return gate * (2 * self.bound) - self.bound

    def run(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor, Any]:
        """See `Univariate.run`."""
        raw, shift = parameters.chunk(2, dim=1)
        gate = self._gate(raw)
        scale = self._log_scale(gate)
        log_det = scale.flatten(1).sum(1)
        scale = scale.exp_()
        return torch.addcmul(shift, x, scale), log_det, (x, gate, scale)

    def rebuild(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Any]:
        """See `Univariate.rebuild`."""
        raw, shift = parameters.chunk(2, dim=1)
        gate = self._gate(raw)
        scale = self._log_scale(gate).exp_()
        x = (y - shift).div_(scale)
        return x, (x, gate, scale)

    def back(self, kept: Any, grad: Tensor, grad_log_det: Tensor) -> tuple[Tensor, Tensor]:
        """See `Univariate.back`."""
        x, gate, scale = kept
        by_x = grad * scale
        # s has a part in y and in the log-determinant, and ds/da = 1 - tanh^2 = 4 p (1 - p).
        by_log_scale = torch.addcmul(grad_log_det.view(-1, *[1] * (x.ndim - 1)), by_x, x)
        by_raw = torch.ops.aten.sigmoid_backward.default(by_log_scale, gate).mul_(4)
        return by_x, concat_features((by_raw, grad))

    def extra_repr(self) -> str:
        return f"bound={self.bound}"
