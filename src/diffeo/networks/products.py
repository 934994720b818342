"""The matrix products of a linear layer and of its gradients, by the fastest routine there is.

Rows are laid feature by feature, h `(features, batch)`. PyTorch computes a product of float32
matrices on a processor by MKL, which on some processors is slow: on one core of the AMD processor
at hand it did 95 GFLOP/s. oneDNN, which PyTorch holds as well, reached 200 there, by the linear
layer that compiled models use; it takes either factor transposed at no cost.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# What makes oneDNN's longer way in worth it: so many multiplications, of more than a few columns.
WORTH, WIDE = 2**19, 4


def linear(weight: Tensor, bias: Tensor, h: Tensor) -> Tensor:
    """`W h + b`; no gradient is recorded."""
    rows = h.t()
    if _suits(rows if rows.is_contiguous() else h, weight, weight.shape[0]):
        return _linear_pointwise(weight, rows, None, "none", [], "").add_(bias[:, None])
    return torch.addmm(bias[:, None], weight, h)


def relu_of_linear(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`relu(x W^T + b)` of rows x `(batch, features)`; no gradient is recorded."""
    if _suits(rows, weight, weight.shape[0], least=1):
        return _linear_pointwise(rows, weight, bias, "relu", [], "")
    return torch.addmm(bias, rows, weight.t()).relu_()


def by_input(weight: Tensor, grad: Tensor) -> Tensor:
    """`W^T g`, the gradient of h in `W h`."""
    if _suits(grad, weight, weight.shape[1]):
        return _linear_pointwise(weight.t().contiguous(), grad.t(), None, "none", [], "")
    return weight.t().mm(grad)


def by_weight(grad: Tensor, h: Tensor) -> Tensor:
    """`g h^T`, the gradient of W in `W h`."""
    if _suits(grad, h, h.shape[0]):
        return _linear_pointwise(grad, h, None, "none", [], "")
    return grad.mm(h.t())


def _suits(big: Tensor, other: Tensor, times: int, least: int = WIDE) -> bool:
    """Whether oneDNN can compute a product of so many by so many multiplications, and is faster."""
    a, b = big.shape
    return bool(
        a * b * times >= WORTH
        and min(a, b, times) >= least
        and big.dtype == other.dtype == torch.float32
        and big.is_cpu
        and big.is_contiguous()
        and other.is_contiguous()
        and _linear_pointwise is not None
        and torch.backends.mkldnn.enabled
    )


def _found() -> Any:
    """The linear layer of oneDNN; None where PyTorch is built without it."""
    try:
        return torch.ops.mkldnn._linear_pointwise.default
    except (AttributeError, RuntimeError):
        return None


_linear_pointwise = _found()
