"""How a coupling bends an element, given the parameters that its conditioner computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffeo.bijections.fused import fused
from diffeo.bijections.rebuilding import gradients


class Bend(nn.Module, ABC):
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
        """Bend x: `(y, log|det dy/dx|)`."""

    @abstractmethod
    def inverse(
        self, y: Float[Tensor, "batch n *rest"], parameters: Float[Tensor, "batch m *rest"]
    ) -> tuple[Float[Tensor, "batch n *rest"], Float[Tensor, " batch"]]:
        """Straighten y: `(x, log|det dx/dy|)`."""

    def rebuild(
        self, y: Tensor, parameters: Tensor, grad: Tensor, grad_log_det: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Straighten y, and go back with the gradients: x and the gradients of x and parameters.

        Args:
            y: what `forward` returned.
            parameters: what it was given.
            grad: gradient of y.
            grad_log_det: gradient of the log-determinant `(batch,)`.
        """
        x = self.inverse(y, parameters)[0]
        with torch.enable_grad():
            inputs = x.detach().requires_grad_(), parameters.detach().requires_grad_()
            outputs = self(*inputs)
        by_x, by_parameters = gradients(outputs, (grad, grad_log_det), inputs)
        assert by_x is not None
        assert by_parameters is not None
        return x, by_x, by_parameters


class Additive(Bend):
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


class Affine(Bend):
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
        self.bound = bound

    def forward(
        self, x: Float[Tensor, "batch n *rest"], parameters: Float[Tensor, "batch m *rest"]
    ) -> tuple[Float[Tensor, "batch n *rest"], Float[Tensor, " batch"]]:
        return scale_and_shift(x, parameters, self.bound)

    def inverse(
        self, y: Float[Tensor, "batch n *rest"], parameters: Float[Tensor, "batch m *rest"]
    ) -> tuple[Float[Tensor, "batch n *rest"], Float[Tensor, " batch"]]:
        raw, shift = parameters.chunk(2, dim=1)
        log_scale = _bounded(_gate(raw, self.bound), self.bound)
        return (y - shift) * (-log_scale).exp(), -_each(log_scale)

    def rebuild(
        self, y: Tensor, parameters: Tensor, grad: Tensor, grad_log_det: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`Bend.rebuild`, by the formulas."""
        raw, shift = parameters.chunk(2, dim=1)
        gate = _gate(raw, self.bound)
        scale = _bounded(gate, self.bound).exp_()
        x = (y - shift).div_(scale)
        return x, *_affine_gradients((x, parameters), (gate, scale), (), grad, grad_log_det)

    def extra_repr(self) -> str:
        return f"bound={self.bound}"


def _gate(raw: Tensor, bound: float) -> Tensor:
    """p = sigmoid(2 a / bound), by which tanh(a / bound) is 2 p - 1; PyTorch has it much faster."""
    return torch.sigmoid(raw * (2 / bound))


def _bounded(gate: Tensor, bound: float) -> Tensor:
    """s of p."""
    return gate * (2 * bound) - bound


def _each(log_scale: Tensor) -> Tensor:
    """Their sum for each row."""
    return log_scale.flatten(1).sum(1)


def _affine(x: Tensor, parameters: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    raw, shift = parameters.chunk(2, dim=1)
    log_scale = _bounded(_gate(raw, bound), bound)
    return torch.addcmul(shift, x, log_scale.exp()), _each(log_scale)


def _run_affine(
    x: Tensor, parameters: Tensor, bound: float
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    raw, shift = parameters.chunk(2, dim=1)
    gate = _gate(raw, bound)
    log_scale = _bounded(gate, bound)
    log_det = _each(log_scale)
    scale = log_scale.exp_()
    return (torch.addcmul(shift, x, scale), log_det), (gate, scale)


def _affine_gradients(
    inputs: tuple[Any, ...],
    kept: tuple[Tensor, Tensor],
    needed: tuple[bool, ...],
    grad: Tensor,
    grad_log_det: Tensor,
) -> tuple[Tensor, Tensor]:
    x, parameters = inputs[:2]
    gate, scale = kept
    by_x = grad * scale
    # ds/da = 1 - tanh^2 = 4 p (1 - p), and s has a part in y and in the log-determinant.
    by_log_scale = torch.addcmul(grad_log_det.view(-1, *[1] * (x.ndim - 1)), by_x, x)
    by_parameters = torch.empty_like(parameters, memory_format=torch.contiguous_format)
    by_raw, by_shift = by_parameters.chunk(2, dim=1)
    torch.mul(torch.ops.aten.sigmoid_backward(by_log_scale, gate), 4, out=by_raw)
    by_shift.copy_(grad)
    return by_x, by_parameters


scale_and_shift = fused(_affine, _run_affine, _affine_gradients)
