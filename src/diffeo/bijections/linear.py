"""Learned mixing of the features of a table: a matrix by its triangular factors, or a rotation."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from diffeo.bijections.base import Bijection, Example
from diffeo.utils.machine import widest
from diffeo.utils.ranges import Count


class LULinear(Bijection):
    """Mix the features by an invertible matrix, given by its triangular factors.

        y = L (U + diag(exp(s))) x,   log|det dy/dx| = sum(s)

    L is lower triangular with ones on its diagonal, U strictly upper triangular. It starts as the
    identity. The inverse is computed by triangular solves in the widest floats of the device.

    Args:
        features: D of the input `(batch, D)`.

    (Oliva et al. 2018; Kingma & Dhariwal 2018, section 3.2)
    """

    def __init__(self, features: Count) -> None:
        super().__init__()
        self.lower: nn.Parameter = nn.Parameter(torch.zeros(features, features))
        self.upper: nn.Parameter = nn.Parameter(torch.zeros(features, features))
        self.log_s: nn.Parameter = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        lower, upper = lu_triangles(self.lower, self.upper, self.log_s.exp())
        return x @ upper.T @ lower.T, self.log_s.sum().expand(x.shape[0])

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        wide = widest(y.device)
        parts = (part.to(wide) for part in (self.lower, self.upper, self.log_s.exp()))
        x = solve_lu(*lu_triangles(*parts), y.T.to(wide)).T
        return x.to(y.dtype), -self.log_s.sum().expand(y.shape[0])

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(4), (4,), "constant")


class Householder(Bijection):
    """Rotate the features by a product of learned reflections.

        y = H_1 ... H_n x,   H_i = I - 2 v_i v_i^T / |v_i|^2,   log|det dy/dx| = 0

    The inverse applies them in the opposite order. Each second vector starts as the one before it,
    and the two undo each other: an even number of reflections starts as the identity. D of them
    reach every orthogonal matrix of one sign of the determinant.

    Args:
        features: D of the input `(batch, D)`.
        reflections: how many.

    (Tomczak & Welling 2016)
    """

    def __init__(self, features: Count, reflections: Count = 4) -> None:
        super().__init__()
        pairs = torch.randn((reflections + 1) // 2, features)
        self.vectors: nn.Parameter = nn.Parameter(
            pairs.repeat_interleave(2, 0)[:reflections].clone()
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return reflect(x, self.vectors.flip(0)), x.new_zeros(x.shape[0])

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return reflect(y, self.vectors), y.new_zeros(y.shape[0])

    @classmethod
    def examples(cls) -> Iterable[Example]:
        yield Example(lambda: cls(4, 3), (4,), "zero")


def lu_triangles(lower: Tensor, upper: Tensor, diagonal: Tensor) -> tuple[Tensor, Tensor]:
    """L with ones on its diagonal, and U with a diagonal, each `(n, n)`."""
    eye = torch.eye(lower.shape[0], dtype=lower.dtype, device=lower.device)
    return lower.tril(-1) + eye, upper.triu(1) + torch.diag(diagonal)


def solve_lu(lower: Tensor, upper: Tensor, right: Tensor) -> Tensor:
    """The solution of L U x = right `(n, columns)`."""
    half = torch.linalg.solve_triangular(lower, right, upper=False, unitriangular=True)
    return torch.linalg.solve_triangular(upper, half, upper=True)


def reflect(x: Tensor, vectors: Tensor) -> Tensor:
    """Reflect rows x `(..., rows, n)` at each of the vectors `(..., reflections, n)` in turn."""
    for v in vectors.unbind(-2):
        along = (x * v.unsqueeze(-2)).sum(-1, keepdim=True)
        squared = v.square().sum(-1, keepdim=True).clamp(min=torch.finfo(v.dtype).tiny)
        x = x - 2 * along * (v / squared).unsqueeze(-2)
    return x
