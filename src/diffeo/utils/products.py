"""Products of matrices of float32 on a CPU, by the library that is fast on this processor.

PyTorch takes MKL for them, which on AMD's processors takes about twice as long as oneDNN.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

# Multiplications, below which to call oneDNN from Python takes longer than they do.
LEAST = 2**22


def matmul(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """The product left right + bias `(n, m)`, of `(n, k)`, `(k, m)` and a bias `(m,)` or `(n, 1)`.

    It can be differentiated, traced and transformed as `torch.addmm`, which then takes its place.
    """
    size = left.shape[0] * left.shape[1] * right.shape[1]
    if not (onednn_pays(size, left) and _is_plain(left, right, bias)):
        return left.mm(right) if bias is None else torch.addmm(bias, left, right)
    if bias is None or bias.ndim == 1:
        return onednn(left, right, bias)
    return onednn(left, right).add_(bias)


def onednn_pays(size: int, like: Tensor, least: int = LEAST) -> bool:
    """Whether oneDNN is there and faster, for so many multiplications of numbers like these."""
    return size >= least and like.dtype == torch.float32 and like.is_cpu and mkl_is_slow()


def onednn(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same by oneDNN, for a bias `(m,)`, as an operation that has no derivative."""
    found: Any = torch.ops.mkldnn._linear_pointwise(left, right.t(), bias, "none", [], "")
    return found


def _is_plain(*tensors: Tensor | None) -> bool:
    """Whether nothing differentiates an operation of these, records it, or takes another dtype."""
    learned = any(tensor is not None and tensor.requires_grad for tensor in tensors)
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined]
        and not (learned and torch.is_grad_enabled())
        and not torch.is_autocast_enabled("cpu")
        and forward_ad._current_level < 0
        and not torch._C._are_functorch_transforms_active()
    )


@cache
def mkl_is_slow() -> bool:
    """Whether the processor is one of AMD's, and both libraries are there."""
    capabilities: Any = getattr(torch.cpu, "get_capabilities", dict)()
    both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    return both and "AMD" in capabilities.get("cpu_name", "")
